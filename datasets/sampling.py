"""Which frames of a video a clip holds. Pure functions on frame numbers."""

from typing import Any

import numpy as np

_Array = np.ndarray[Any, np.dtype[Any]]


def frame_step(stride: int, fps: float, frame_rate: float) -> float:
  """Distance of two sampled frames in frames of the video.

  Args:
    stride: distance at the rate `fps`.
    fps: frames per second that `stride` counts in; 0: the video's own.
    frame_rate: the video's frames per second; only read when `fps` is not 0.
  """
  return stride * frame_rate / fps if fps else stride


def dense_train_indices(
  rng: np.random.Generator, num_frames: int, frames: int, step: float, short: str = 'loop'
) -> _Array:
  """Frame numbers of a clip at a uniformly random offset in [0, num_frames - span], int64 [T].

  The span is floor((frames - 1) * step) + 1; a shorter video starts at 0 and is looped or held.
  """
  last = num_frames - _span(frames, step)
  offset = int(rng.integers(0, max(last, 0) + 1))
  return _dense_indices(offset, num_frames, frames, step, short)


def dense_view_indices(
  num_frames: int, frames: int, step: float, views: int, short: str = 'loop'
) -> _Array:
  """Frame numbers of `views` clips, int64 [V, T], evenly placed over the video.

  Offsets run from 0 to num_frames - span inclusive, rounded down; a single view is the centre.
  """
  last = max(num_frames - _span(frames, step), 0)
  offsets = [last // 2] if views == 1 else [view * last // (views - 1) for view in range(views)]
  return np.stack([_dense_indices(at, num_frames, frames, step, short) for at in offsets])


def _span(frames: int, step: float) -> int:
  return int((frames - 1) * step) + 1


def _dense_indices(offset: int, num_frames: int, frames: int, step: float, short: str) -> _Array:
  indices = offset + np.floor(np.arange(frames) * step).astype(np.int64)
  return indices % num_frames if short == 'loop' else np.minimum(indices, num_frames - 1)


def uniform_indices(num_frames: int, frames: int) -> _Array:
  """T frame numbers evenly from the first to the last inclusive, halves up, int64 [T].

  A single frame is the middle one.
  """
  if frames == 1:
    return np.array([(num_frames - 1) // 2], np.int64)
  return np.floor(np.arange(frames) * (num_frames - 1) / (frames - 1) + 0.5).astype(np.int64)


def segment_train_indices(rng: np.random.Generator, num_frames: int, frames: int) -> _Array:
  """One random frame from each of T equal segments of the video, int64 [T] (arXiv:1608.00859)."""
  return _segment_indices(num_frames, rng.random(frames))


def segment_view_indices(num_frames: int, frames: int, views: int) -> _Array:
  """int64 [V, T]: view v takes each segment's frame at (v + 1/2) / V of it; one view, the centre."""
  return np.stack(
    [_segment_indices(num_frames, np.full(frames, (v + 0.5) / views)) for v in range(views)]
  )


def _segment_indices(num_frames: int, within: _Array) -> _Array:
  """Frames at `within` [T], in [0, 1), of each of T segments; short videos repeat frames."""
  frames = len(within)
  indices = np.floor((np.arange(frames) + within) * num_frames / frames).astype(np.int64)
  return np.minimum(indices, num_frames - 1)


def keyframe_indices(
  times: _Array, keyframe: float, frames: int, stride: int, fps: float
) -> _Array:
  """Frame numbers about a keyframe, int64 [T]; frame T // 2 is the one nearest to it, ties earlier.

  Args:
    times: presentation times of the video's frames, ascending, [N] in seconds.
    keyframe: presentation time of the keyframe, in seconds.
    frames: T.
    stride: distance of two frames, at the rate `fps`.
    fps: frames per second that `stride` counts in, and each frame is the one nearest to its time;
      0: the video's own frames, whatever their times.
  """
  places = np.arange(frames) - frames // 2
  if fps:
    return _nearest(times, keyframe + places * stride / fps)
  centre = _nearest(times, np.array([keyframe]))
  return np.clip(centre + places * stride, 0, len(times) - 1)


def _nearest(times: _Array, wanted: _Array) -> _Array:
  return np.searchsorted((times[1:] + times[:-1]) / 2, wanted, 'left').astype(np.int64)
