"""From a video to clips: samples, cuts and augments on uint8 pixels, decoding each frame once."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from datasets import color, geometry, sampling
from datasets.clip_config import ClipConfig
from datasets.color import ColorJitterConfig
from datasets.dataset import VideoDataset
from errors import DataError

_Array = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True)
class Clip:
  """What was cut from a video.

  Attributes:
    pixels: uint8 [T, crop, crop, 3].
    indices: the frame numbers they show, int64 [T].
    window: where they come from.
    shape: height and width of the frames, in px, that the window is a part of.
  """

  pixels: _Array
  indices: _Array
  window: geometry.Window
  shape: tuple[int, int]


def train_clips(
  dataset: VideoDataset,
  config: ClipConfig,
  row: int,
  rngs: Sequence[np.random.Generator],
  color_jitter: ColorJitterConfig | None = None,
  out: _Array | None = None,
) -> list[Clip]:
  """Random clips of one video, one for each generator; a frame that several need is decoded once.

  Args:
    dataset: where the video is.
    config: what to cut.
    row: the video.
    rngs: random numbers of each clip: of time, then space, then colour.
    color_jitter: colour distortion on the host, or None.
    out: where to write the pixels, uint8 [clips, T, crop, crop, 3]; None: into fresh memory.

  Raises:
    DataError: a frame cannot be read, or `config.fps` needs a frame rate that is unknown.
  """
  times = [_train_indices(dataset, config, row, rng) for rng in rngs]
  windows: list[geometry.Window] = []
  pixels = _empty(len(rngs), config) if out is None else out
  for frame, places in _needed_frames(dataset, row, np.stack(times)):
    shape: tuple[int, int] = frame.shape[:2]
    windows = windows or [_train_window(config, rng, *shape) for rng in rngs]
    for clip, *others in places:
      geometry.cut(frame, windows[clip], pixels[clip, others[0]])
      for t in others[1:]:
        pixels[clip, t] = pixels[clip, others[0]]
  for rng, clip_pixels in zip(rngs, pixels, strict=True):
    if color_jitter is not None:
      color.jitter(rng, clip_pixels, color_jitter)
  return [Clip(*parts, shape) for parts in zip(pixels, times, windows, strict=True)]


def view_clips(
  dataset: VideoDataset,
  config: ClipConfig,
  row: int,
  temporal_views: int,
  spatial_views: int,
  out: _Array | None = None,
) -> _Array:
  """All views of a video, crop-major, uint8 [V, T, crop, crop, 3]; in `out`, if that is given.

  View v is crop v // temporal_views at time v % temporal_views.

  Raises:
    DataError: as `train_clips`.
  """
  views = _empty(spatial_views * temporal_views, config) if out is None else out
  _cut_views(dataset, config, row, view_indices(dataset, config, row, temporal_views), views)
  return views


def single_view(
  dataset: VideoDataset, config: ClipConfig, row: int, out: _Array | None = None
) -> Clip:
  """The one view of a video that `view_clips` cuts with one time and one crop, `out` [T, ...].

  Raises:
    DataError: as `train_clips`.
  """
  pixels = _empty(1, config)[0] if out is None else out
  times = view_indices(dataset, config, row, 1)
  window, shape = _cut_views(dataset, config, row, times, pixels[None])
  return Clip(pixels, times[0], window, shape)


def cut_crops(frame: _Array, config: ClipConfig, spatial_views: int) -> _Array:
  """What each spatial view shows of a frame uint8 [H, W, 3]: uint8 [V, crop, crop, 3]."""
  shape = _eval_shape(config, *frame.shape[:2])
  frame, crops = geometry.resize(frame, *shape), _eval_windows(config, *shape, spatial_views)
  out = np.empty((len(crops), config.crop, config.crop, 3), np.uint8)
  for window, pixels in zip(crops, out, strict=True):
    geometry.cut(frame, window, pixels)
  return out


def _cut_views(
  dataset: VideoDataset, config: ClipConfig, row: int, times: _Array, views: _Array
) -> tuple[geometry.Window, tuple[int, int]]:
  """Fills `views` [V, T, ...]; returns the first crop's window and the shape it is a part of."""
  spatial_views = len(views) // len(times)
  crops: Sequence[geometry.Window] = ()
  for frame, places in _needed_frames(dataset, row, times):
    shape = _eval_shape(config, *frame.shape[:2])
    frame = geometry.resize(frame, *shape)
    crops = crops or _eval_windows(config, *shape, spatial_views)
    for view, *positions in places:
      for number, window in enumerate(crops):
        for t in positions:
          geometry.cut(frame, window, views[number * len(times) + view, t])
  return crops[0], shape


def view_indices(
  dataset: VideoDataset, config: ClipConfig, row: int, temporal_views: int
) -> _Array:
  """Frame numbers of each temporal view of a video, int64 [V, T]."""
  num_frames = int(dataset.num_frames[row])
  if config.sampling == 'dense':
    step = _step(dataset, config, row)
    return sampling.dense_view_indices(
      num_frames, config.frames, step, temporal_views, config.short_clip
    )
  if config.sampling == 'segments':
    return sampling.segment_view_indices(num_frames, config.frames, temporal_views)
  if config.sampling == 'keyframe':
    return np.stack([_keyframe_indices(dataset, config, row)] * temporal_views)
  return np.stack([sampling.uniform_indices(num_frames, config.frames)] * temporal_views)


def _train_indices(
  dataset: VideoDataset, config: ClipConfig, row: int, rng: np.random.Generator
) -> _Array:
  num_frames = int(dataset.num_frames[row])
  if config.sampling == 'dense':
    step = _step(dataset, config, row)
    return sampling.dense_train_indices(rng, num_frames, config.frames, step, config.short_clip)
  if config.sampling == 'segments':
    return sampling.segment_train_indices(rng, num_frames, config.frames)
  if config.sampling == 'keyframe':
    return _keyframe_indices(dataset, config, row)
  return sampling.uniform_indices(num_frames, config.frames)


def _keyframe_indices(dataset: VideoDataset, config: ClipConfig, row: int) -> _Array:
  keyframe = dataset.keyframe(row)
  times, centre = keyframe.times / 1e6, keyframe.microseconds / 1e6
  return sampling.keyframe_indices(times, centre, config.frames, config.stride, config.fps)


def _step(dataset: VideoDataset, config: ClipConfig, row: int) -> float:
  frame_rate = float(dataset.frame_rate[row])
  if config.fps and frame_rate <= 0:
    raise DataError(
      f'{dataset.where}: the frame rate of {dataset.key(row)!r} (row {row}) is not stored, but '
      f'clip.fps is {config.fps}. Set clip.fps=0, or write the records with image/frame_rate.'
    )
  return sampling.frame_step(config.stride, config.fps, frame_rate)


def _train_window(
  config: ClipConfig, rng: np.random.Generator, height: int, width: int
) -> geometry.Window:
  if config.random_crop == 'inception':
    return geometry.inception_window(
      rng,
      height,
      width,
      crop=config.crop,
      area=config.crop_area,
      aspect=config.crop_aspect,
      flip_prob=config.flip_prob,
    )
  return geometry.random_window(
    rng,
    height,
    width,
    resize=config.resize_jitter or config.resize,
    crop=config.crop,
    fit=config.fit,
    scale_jitter=config.scale_jitter,
    scale_jitter_prob=config.scale_jitter_prob,
    flip_prob=config.flip_prob,
  )


def _eval_shape(config: ClipConfig, height: int, width: int) -> tuple[int, int]:
  if config.fit == 'pad':
    return geometry.padded_shape(height, width, config.crop)
  return geometry.resized_shape(height, width, config.resize)


def _eval_windows(
  config: ClipConfig, height: int, width: int, spatial_views: int
) -> Sequence[geometry.Window]:
  if config.fit == 'pad':
    return [geometry.Window(0, 0, height, width, height, width)]
  return geometry.spatial_crops(height, width, config.crop, spatial_views)


def _empty(clips: int, config: ClipConfig) -> _Array:
  return np.empty((clips, *config.shape), np.uint8)


def _needed_frames(
  dataset: VideoDataset, row: int, times: _Array
) -> Iterator[tuple[_Array, list[list[int]]]]:
  """Yields each distinct frame of `times` int [V, T] with its places: [v, t, t, ...] per clip."""
  distinct, inverse = np.unique(times, return_inverse=True)
  places: list[dict[int, list[int]]] = [{} for _ in distinct]
  for position, number in enumerate(inverse.ravel()):
    clip, t = divmod(position, times.shape[1])
    places[number].setdefault(clip, []).append(t)
  for frame, where in zip(dataset.frames(row, distinct), places, strict=True):
    yield frame, [[clip, *ts] for clip, ts in where.items()]
