"""Sliding windows over a video: each is cut as if it were a video of its own."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from datasets import clips, sampling
from datasets.clip_config import ClipConfig, require
from datasets.dataset import VideoDataset
from errors import DataError

_Array = np.ndarray[Any, np.dtype[Any]]


class Windows(NamedTuple):
  """N windows of a video, of `span` frames each.

  Attributes:
    starts: first frame of each window, int64 [N], ascending.
    span: frames from the first of a window to its last, inclusive.
    centres: the middle of each window, float64 [N], in seconds from the first frame, at a constant
      frame rate.
  """

  starts: _Array
  span: int
  centres: _Array


def span_of(clip: ClipConfig, frame_rate: float) -> int:
  """Frames from the first of a clip to its last, inclusive; 0 where a clip spans the whole video.

  Raises:
    DataError: `clip.fps` needs a frame rate, and it is not known.
  """
  if clip.sampling in ('uniform', 'segments'):
    return 0
  return int((clip.frames - 1) * _step(clip, frame_rate)) + 1


def windows(
  num_frames: int, clip: ClipConfig, hop_frames: int, frame_rate: float, span: int = 0
) -> Windows:
  """Windows that cover a video: the first begins with it, and the last ends with it.

  Args:
    num_frames: of the video.
    clip: what is cut from a window.
    hop_frames: distance of two windows' first frames; the last one's may be smaller.
    frame_rate: frames per second of the video.
    span: frames of a window; 0: what `span_of` says, or the whole video where that is 0.

  Returns:
    The windows: one, of all frames, if the video is no longer than that.

  Raises:
    ConfigError: `hop_frames` is below 1 or `span` is negative.
    DataError: as `span_of`.
  """
  require(hop_frames >= 1, 'hop_frames', 'at least 1', hop_frames)
  require(span >= 0, 'span', 'at least 0', span)
  span = min(span or span_of(clip, frame_rate) or num_frames, num_frames)
  last = num_frames - span
  starts = np.append(np.arange(0, last, hop_frames, dtype=np.int64), last)
  rate = frame_rate if frame_rate > 0 else 1.0
  return Windows(starts, span, (starts + (span - 1) / 2) / rate)


def indices(found: Windows, clip: ClipConfig, frame_rate: float) -> _Array:
  """The frames of each window's clip, int64 [N, T]: those of its one view, were it a whole video.

  Raises:
    DataError: as `span_of`.
  """
  if clip.sampling == 'segments':
    within = sampling.segment_view_indices(found.span, clip.frames, 1)[0]
  elif clip.sampling == 'uniform':
    within = sampling.uniform_indices(found.span, clip.frames)
  else:
    step = _step(clip, frame_rate)
    within = sampling.dense_view_indices(found.span, clip.frames, step, 1, clip.short_clip)[0]
  return found.starts[:, None] + within


def cut(dataset: VideoDataset, row: int, clip: ClipConfig, found: Windows) -> Iterator[_Array]:
  """Each window's clip, its centre crop, uint8 [T, crop, crop, 3]; see `cut_views`."""
  return (views[0] for views in cut_views(dataset, row, clip, found, 1))


def cut_views(
  dataset: VideoDataset, row: int, clip: ClipConfig, found: Windows, spatial_views: int
) -> Iterator[_Array]:
  """The spatial views of each window's clip, uint8 [V, T, crop, crop, 3].

  A frame is decoded once, however many windows show it, and kept, cropped, until the last of them.

  Raises:
    DataError: a frame cannot be read.
  """
  times = indices(found, clip, float(dataset.frame_rate[row]))
  wanted = np.unique(times)
  frames = zip(wanted.tolist(), dataset.frames(row, wanted))
  kept: dict[int, _Array] = {}
  for number, window in enumerate(times.tolist()):
    while not kept or max(kept) < max(window):
      index, frame = next(frames)
      kept[index] = clips.cut_crops(frame, clip, spatial_views)
    yield np.stack([kept[index] for index in window], 1)
    # All windows have the same steps, so the next one has the first frame that is still needed.
    following = times[number + 1 : number + 2].min(initial=np.iinfo(np.int64).max)
    kept = {index: pixels for index, pixels in kept.items() if index >= following}


def _step(clip: ClipConfig, frame_rate: float) -> float:
  if clip.fps and frame_rate <= 0:
    raise DataError(f'The frame rate is not known, but clip.fps is {clip.fps}.')
  return sampling.frame_step(clip.stride, clip.fps, frame_rate)
