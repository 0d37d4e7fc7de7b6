"""Clips of a dataset with all that there is to say about them, for people to look at."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from datasets import box_pictures, clips, examples, geometry, sampling
from datasets.box_config import BoxConfig
from datasets.box_pictures import KeyframeMarks
from datasets.clip_config import ClipConfig
from datasets.dataset import VideoDataset

_Array = np.ndarray[Any, np.dtype[Any]]

PLAIN_FRAMES = 8
"""Frames of a plain sample."""
PLAIN_SIDE = 224
"""Largest shorter side of a plain sample's frames, in px."""
_LEAST_SHARE = 0.005  # Of a class in a mixed clip, to be named.


@dataclasses.dataclass(frozen=True)
class Sample:
  """A clip as it is shown.

  Attributes:
    pixels: uint8 [T, H, W, 3].
    indices: frame numbers in the video, int64 [T].
    num_frames: frames of the video.
    frame_rate: of the video, frames per second; 0: unknown.
    key: the video's name.
    labels: names of its classes, with shares where clips are mixed, a line each.
    notes: what else happened to it.
    boxes: the boxes of its keyframe, if it has one.
  """

  pixels: _Array
  indices: _Array
  num_frames: int
  frame_rate: float
  key: str
  labels: tuple[str, ...]
  notes: tuple[str, ...] = ()
  boxes: KeyframeMarks | None = None

  def strip(self) -> 'Sample':
    """The sample as it is drawn: with boxes, its keyframe among 8 frames, with the boxes in it."""
    if self.boxes is None:
      return self
    places = box_pictures.strip_places(len(self.pixels), self.boxes.frame)
    frames = [box_pictures.enlarge(frame) for frame in self.pixels[places]]
    at = int(np.flatnonzero(places == self.boxes.frame)[0])
    frames[at] = box_pictures.draw(self.pixels[self.boxes.frame], self.boxes.marks)
    boxes = self.boxes._replace(frame=at)
    return dataclasses.replace(
      self, pixels=np.stack(frames), indices=self.indices[places], boxes=boxes
    )

  @property
  def marks(self) -> list[str]:
    """Number and time of each frame: `'12  ·  0.48 s'`, T of them; the keyframe's in brackets."""
    times = [f'  ·  {i / self.frame_rate:.2f} s' if self.frame_rate else '' for i in self.indices]
    marks = [f'{i}{time}' for i, time in zip(self.indices, times, strict=True)]
    if self.boxes is not None:
      marks[self.boxes.frame] = f'[{marks[self.boxes.frame]}]'
    return marks

  @property
  def lines(self) -> list[str]:
    """All but the first label, a line each; of an image without frame numbers."""
    numbers = [frame_numbers(self.indices, self.num_frames)] if self.num_frames > 1 else []
    return [*self.labels[1:], self.key, *numbers, *self.notes]


def plain_samples(dataset: VideoDataset, count: int, seed: int) -> list[Sample]:
  """Videos in a random order of `seed`: 8 frames from the first to the last, whole, not augmented.

  Raises:
    DataError: a frame cannot be read.
  """
  order = np.random.default_rng(seed).permutation(len(dataset))
  return [_plain_sample(dataset, int(row)) for row in order[:count]]


def _plain_sample(dataset: VideoDataset, row: int) -> Sample:
  num_frames = int(dataset.num_frames[row])
  indices = sampling.uniform_indices(num_frames, min(PLAIN_FRAMES, num_frames))
  boxes = None
  if dataset.region_tasks:
    found = dataset.keyframe(row)
    (nearest,) = sampling.keyframe_indices(found.times, found.microseconds, 1, 1, 0)
    indices = box_pictures.strip_places(num_frames, int(nearest))
    at = int(np.flatnonzero(indices == nearest)[0])
    boxes = KeyframeMarks(at, box_pictures.marks_of_keyframe(dataset, row))
  frames = []
  for frame in dataset.frames(row, indices):
    height, width = frame.shape[:2]
    if min(height, width) > PLAIN_SIDE:
      frame = geometry.resize(frame, *geometry.resized_shape(height, width, PLAIN_SIDE))
    frames.append(frame.copy())  # The next frame may overwrite it.
  labels = label_names(dataset, dataset.labels(row))
  size = f'whole frame{"s" * (num_frames > 1)} of {width} x {height} px'
  pixels = np.stack(frames)
  return make_sample(dataset, row, pixels, indices, labels, size, boxes=boxes)


def evaluation_samples(
  dataset: VideoDataset,
  config: ClipConfig,
  count: int,
  *,
  temporal_views: int = 1,
  spatial_views: int = 1,
  boxes: BoxConfig | None = None,
) -> list[Sample]:
  """The first views of a pass of evaluation, video after video; unreadable ones are passed over."""
  stream = examples.eval_examples(
    dataset,
    config,
    batch_size=1,
    temporal_views=temporal_views,
    spatial_views=spatial_views,
    boxes=boxes,
  )
  samples: list[Sample] = []
  for row in range(len(dataset)):
    if len(samples) >= count:
      break
    views = np.empty((1, *stream.shape), np.uint8)
    (example,) = stream(row, views)
    if example['skipped']:
      continue
    times = clips.view_indices(dataset, config, row, temporal_views)
    labels, shown = label_names(dataset, example['label']), None
    if boxes is not None:
      marks = box_pictures.marks_of_example(dataset, example, row)
      shown = KeyframeMarks(config.frames // 2, marks)
    for view, pixels in enumerate(views[0]):
      crop, time = divmod(view, temporal_views)
      place = f'time {time + 1} of {temporal_views}, crop {crop + 1} of {spatial_views}'
      samples.append(make_sample(dataset, row, pixels, times[time], labels, place, boxes=shown))
  return samples[:count]


def make_sample(
  dataset: VideoDataset,
  row: int,
  pixels: _Array,
  indices: _Array,
  labels: tuple[str, ...],
  *notes: str,
  boxes: KeyframeMarks | None = None,
) -> Sample:
  """A sample of a video of a dataset; the boxes of its keyframe are told after its labels."""
  if boxes is not None:
    labels = (*labels, *box_pictures.lines(boxes.marks)) or ('(no box)',)
  num_frames, frame_rate = int(dataset.num_frames[row]), float(dataset.frame_rate[row])
  repeated = repetition(indices, num_frames)
  kept = tuple(note for note in (repeated, *notes) if note)
  return Sample(pixels, indices, num_frames, frame_rate, dataset.key(row), labels, kept, boxes)


def window_note(window: geometry.Window) -> str:
  """`'window 180 x 160 px at left 12, top 4, mirrored'`."""
  mirrored = ', mirrored' if window.flip else ''
  place = f'at left {window.left}, top {window.top}'
  return f'window {window.width} x {window.height} px {place}{mirrored}'


def frame_numbers(indices: _Array, num_frames: int) -> str:
  """`'frames 3, 5 .. 17 of 40'` for even steps, else all or the first numbers."""
  numbers = [int(i) for i in indices]
  steps = set(np.diff(indices).tolist())
  if len(numbers) > 3 and len(steps) == 1:
    listed = f'{numbers[0]}, {numbers[1]} .. {numbers[-1]}'
  elif len(numbers) <= 10:
    listed = ', '.join(map(str, numbers))
  else:
    listed = f'{", ".join(map(str, numbers[:8]))} .. {numbers[-1]}'
  return f'frames {listed} of {num_frames}'


def repetition(indices: _Array, num_frames: int) -> str:
  """How a clip goes on beyond the video's end or shows frames again, '' if it does not."""
  if (np.diff(indices) < 0).any():
    return f'loops: the video has only {num_frames} frames'
  again = len(indices) - len(np.unique(indices))
  at_end = int((indices == num_frames - 1).sum())
  if again and at_end == again + 1:
    return f'holds its last frame {at_end} times: the video has only {num_frames} frames'
  return f'shows {again} frames again' if again else ''


def label_names(dataset: VideoDataset, labels: Mapping[str, _Array]) -> tuple[str, ...]:
  """Class names of every task's labels: a class number, or weights [K] in [0, 1].

  Weights other than 0 and 1, of mixed clips, are shares: `('70% run', '+ 30% jump')`. Labels of boxes
  are left out.
  """
  return tuple(
    line
    for task, label in labels.items()
    if not dataset.has_regions(task)
    for line in _names(dataset.class_names(task), np.asarray(label))
  )


def _names(names: Sequence[str], label: _Array) -> list[str]:
  if not label.ndim:
    return [names[int(label)]]
  chosen = [int(k) for k in np.argsort(-label, kind='stable') if label[k] > _LEAST_SHARE]
  if all(label[k] > 1 - _LEAST_SHARE for k in chosen):
    return [', '.join(names[k] for k in chosen) or '(no label)']
  return [f'{"+ " if i else ""}{label[k]:.0%} {names[k]}' for i, k in enumerate(chosen)]
