"""One row of annotations -> one serialised example: a pure function, for any kind of worker."""

import dataclasses
import itertools
import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import simplejpeg

from datasets import image_files, records
from datasets.annotations import KeyframeBoxes, LabelGroup, Rejected, Row
from datasets.picture import MAX_QUALITY, MIN_QUALITY, JpegEncoder, Picture
from datasets.video import open_video
from errors import ConfigError, DataError

PSNR_EVERY = 32
"""Every how many frames of a clip the JPEG's error is measured, from the first on."""

MAX_CLIP_BYTES = 1 << 30
"""Largest clip: a protobuf message ends at 2 GiB, and a worker holds a clip in memory twice."""

_MAX_PSNR = 99.0  # of a frame without any error, in place of infinity


@dataclasses.dataclass(frozen=True)
class Settings:
  """How rows become records.

  Attributes:
    video_root: folder that the rows' paths start from.
    groups: label groups in order; a class' global index counts through all of them.
    size: shorter side in px, even; smaller videos are not enlarged.
    quality: quantiser scale of the JPEGs, as ffmpeg's -q:v: 2 (best) to 31.
    fps: frames per second of the records, None: each video's own average rate.
  """

  video_root: str
  groups: Mapping[str, LabelGroup]
  size: int = 256
  quality: int = 4
  fps: float | None = None

  def __post_init__(self) -> None:
    """Raises ConfigError on values out of range."""
    if self.size < 2 or self.size % 2:
      raise ConfigError(f'size: expected an even number of px from 2 on, got {self.size}.')
    if not MIN_QUALITY <= self.quality <= MAX_QUALITY:
      raise ConfigError(
        f'quality: expected {MIN_QUALITY} (best) to {MAX_QUALITY} (the scale of ffmpeg -q:v), '
        f'got {self.quality}.'
      )
    if self.fps is not None and not 0 < self.fps <= 1000:
      raise ConfigError(f'fps: expected more than 0 and at most 1000, got {self.fps}.')


@dataclasses.dataclass(frozen=True)
class Converted:
  """A record and what it holds.

  Attributes:
    example: the serialised `tf.train.SequenceExample`.
    frames: number of frames.
    frame_rate: frames per second; 0 of an image.
    psnr: dB over RGB of sampled frames: the JPEGs against the resized frames of the video.
  """

  example: bytes
  frames: int
  frame_rate: float
  psnr: tuple[float, ...]

  @property
  def seconds(self) -> float:
    """Length of the clip."""
    return self.frames / self.frame_rate if self.frame_rate else 0.0


def convert_row(row: Row, settings: Settings) -> Converted | Rejected:
  """Reads, resizes and encodes the clip of a row.

  The clip has a constant frame rate: slot k spans start + [k, k + 1) / rate and holds the frame
  displayed at its middle, so that videos of variable rate keep their real time, and time stamps
  rounded to milliseconds neither double nor drop a frame. A video that ends before the row does
  gives what is there. Around a keyframe, a slot begins with it. An image is one frame, without a rate.

  Returns:
    The record, or why there is none: a file that is missing or cannot be decoded, times or a
    keyframe outside the video, labels outside the class list.
  """
  try:
    return _convert(row, settings)
  except DataError as error:
    return Rejected(row.number, row.path, str(error).removeprefix(f'{_path(row, settings)}: '))


def _path(row: Row, settings: Settings) -> str:
  return os.path.join(settings.video_root, row.path)


def _convert(row: Row, settings: Settings) -> Converted:
  if image_files.is_image(row.path):
    return _convert_image(row, settings)
  labels = label_indices(row, settings.groups)
  start = row.start or 0.0
  if start < 0 or (row.end is not None and row.end <= start):
    raise DataError(f'start is {start:g} s and end {row.end} s; expected 0 <= start < end.')
  render = _Renderer(settings)
  with open_video(_path(row, settings)) as video:
    rate = settings.fps or video.frame_rate
    clip = _keyframe_clip(row.boxes, rate) if row.boxes else _clip(start, row.end, rate)
    middles = (clip.start + (k + 0.5) / rate for k in clip.slots)
    frames = _collect(jpeg for _, jpeg in video.frames_at(middles, render))
  if len(frames) <= clip.needed:
    raise DataError(clip.problem)
  begin = clip.start + (row.boxes.file_start if row.boxes else 0.0)
  example = records.encode_example(
    frames,
    labels,
    row.key,
    height=render.height,
    width=render.width,
    frame_rate=rate,
    label_texts=_label_texts(row, settings),
    start_microseconds=round(begin * 1e6),
    end_microseconds=round((begin + len(frames) / rate) * 1e6),
    frame_microseconds=[round((begin + k / rate) * 1e6) for k in range(len(frames))],
    keyframe_microseconds=round(row.boxes.seconds * 1e6) if row.boxes else None,
    regions=row.boxes.regions if row.boxes else (),
    proposals=row.boxes.proposals if row.boxes else (),
  )
  return Converted(example, len(frames), rate, tuple(render.psnr))


def _convert_image(row: Row, settings: Settings) -> Converted:
  if row.start is not None or row.end is not None or row.boxes is not None:
    raise DataError('is an image, which has no start, end or keyframe.')
  labels, render = label_indices(row, settings.groups), _Renderer(settings)
  frame = render(Picture.of_pixels(image_files.read(_path(row, settings))))
  example = records.encode_example(
    [frame],
    labels,
    row.key,
    height=render.height,
    width=render.width,
    frame_rate=0,
    label_texts=_label_texts(row, settings),
  )
  return Converted(example, 1, 0.0, tuple(render.psnr))


def _label_texts(row: Row, settings: Settings) -> list[str]:
  return [name for group in settings.groups for name in row.labels.get(group, ())]


def label_indices(row: Row, groups: Mapping[str, LabelGroup]) -> list[int]:
  """Global class indices of a row: group after group, each counting on from the one before.

  Raises:
    DataError: a label is not in its class list, or a single-label group has not exactly one.
  """
  indices, offset = [], 0
  for name, group in groups.items():
    labels = row.labels.get(name, ())  # Those of boxes are with the boxes.
    if len(labels) != 1 and not group.multi_label:
      raise DataError(f'{len(labels)} labels in the single-label group {name!r}, expected one.')
    for label in labels:
      if label not in group.classes:
        raise DataError(f'label {label!r} is not among the {len(group.classes)} of group {name!r}.')
      indices.append(offset + group.classes.index(label))
    offset += len(group.classes)
  return indices


def output_size(height: int, width: int, size: int) -> tuple[int, int]:
  """Height and width with the shorter side at most `size`, both rounded down to even numbers.

  Never larger than the video. JPEG keeps colour at half the resolution: hence even.
  """
  short = min(height, width)
  target = min(size, short)
  height, width = (max(side * target // short // 2 * 2, 2) for side in (height, width))
  return height, width


class _Clip(NamedTuple):
  """Which slots of a file a clip has.

  Attributes:
    start: of the first slot, in seconds of the file.
    slots: their numbers, perhaps without end.
    needed: number of the slot that must be there.
    problem: what to say if it is not.
  """

  start: float
  slots: Iterable[int]
  needed: int
  problem: str


def _clip(start: float, end: float | None, rate: float) -> _Clip:
  """The clip between two times, at least one slot."""
  number = None if end is None else max(round((end - start) * rate), 1)
  slots = itertools.count() if number is None else range(number)
  return _Clip(start, slots, 0, f'starts at {start:g} s, when the video is over.')


def _keyframe_clip(boxes: KeyframeBoxes, rate: float) -> _Clip:
  """The clip around a keyframe, whose slot begins with it; less where the file begins or ends."""
  seconds, half = boxes.seconds - boxes.file_start, boxes.clip_seconds / 2
  before = int(min(half, seconds) * rate + 1e-6)
  after = max(round(half * rate), 1)
  part = f', which begins at {boxes.file_start:g} s of the video' if boxes.file_start else ''
  problem = (
    f'the keyframe at {boxes.seconds:g} s is beyond the end of the file{part}. A file that holds a '
    'part of a video must be named ID_START_END, in seconds.'
  )
  return _Clip(seconds - before / rate, range(before + after), before, problem)


def _collect(jpegs: Iterable[bytes]) -> list[bytes]:
  frames, size = [], 0
  for jpeg in jpegs:
    frames.append(jpeg)
    size += len(jpeg)
    if size > MAX_CLIP_BYTES:
      raise DataError(
        f'the clip is larger than {MAX_CLIP_BYTES >> 20} MiB after {len(frames)} frames: '
        'cut it by start and end.'
      )
  return frames


class _Renderer:
  """Makes the JPEGs of one clip, all of the first frame's size, and measures some."""

  def __init__(self, settings: Settings):
    self._settings = settings
    self._encoder: JpegEncoder | None = None
    self._count = 0
    self.height = self.width = 0
    self.psnr: list[float] = []

  def __call__(self, picture: Picture) -> bytes:
    if self._encoder is None:
      self.height, self.width = output_size(picture.height, picture.width, self._settings.size)
      self._encoder = JpegEncoder(self.height, self.width, self._settings.quality)
    jpeg = self._encoder.encode(picture)
    if self._count % PSNR_EVERY == 0:
      self.psnr.append(_psnr(jpeg, picture.rgb(self.height, self.width, smooth=True)))
    self._count += 1
    return jpeg


def _psnr(jpeg: bytes, frame: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> float:
  """Peak signal-to-noise ratio in dB of a JPEG against the frame it was made from."""
  error = simplejpeg.decode_jpeg(jpeg).astype(np.float64) - frame
  mean = float(np.mean(error * error))
  return min(10 * float(np.log10(255 * 255 / mean)), _MAX_PSNR) if mean else _MAX_PSNR
