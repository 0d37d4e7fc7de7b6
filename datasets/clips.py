"""From a video's frames to clips: which frames, which pixels. Pure functions on numpy arrays."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import simplejpeg

from errors import DataError

_Array = np.ndarray[Any, np.dtype[Any]]

SHORT_CLIP = ('loop', 'hold')
"""What to do when a video has fewer frames than the clip spans: wrap around, or repeat the last."""


def train_frame_indices(
  rng: np.random.Generator, num_frames: int, frames: int, stride: int, short: str = 'loop'
) -> _Array:
  """Frame numbers of a clip at a uniformly random offset in [0, num_frames - span], int64 [T].

  The span is (frames - 1) * stride + 1; a shorter video starts at 0 and is looped or held.
  """
  last = num_frames - _span(frames, stride)
  offset = int(rng.integers(0, max(last, 0) + 1))
  return _clip_indices(offset, num_frames, frames, stride, short)


def view_frame_indices(
  num_frames: int, frames: int, stride: int, views: int, short: str = 'loop'
) -> _Array:
  """Frame numbers of `views` clips, int64 [V, T], evenly placed over the video.

  Offsets run from 0 to num_frames - span inclusive, rounded down; a single view is the centre.
  """
  last = max(num_frames - _span(frames, stride), 0)
  offsets = [last // 2] if views == 1 else [view * last // (views - 1) for view in range(views)]
  return np.stack([_clip_indices(at, num_frames, frames, stride, short) for at in offsets])


def _span(frames: int, stride: int) -> int:
  return (frames - 1) * stride + 1


def _clip_indices(offset: int, num_frames: int, frames: int, stride: int, short: str) -> _Array:
  indices = offset + np.arange(frames, dtype=np.int64) * stride
  return indices % num_frames if short == 'loop' else np.minimum(indices, num_frames - 1)


def resized_shape(height: int, width: int, short_side: int) -> tuple[int, int]:
  """Height and width after resizing the shorter side to `short_side` px, the longer rounded down."""
  if height <= width:
    return short_side, max(width * short_side // height, short_side)
  return height * short_side // width, short_side


def spatial_crops(height: int, width: int, crop: int, n: int) -> tuple[tuple[int, int], ...]:
  """(top, left) of n square crops in px: the centre one, or 3 along the longer side.

  Three run from top or left to bottom or right; a centre rounds up, as in ViViT's evaluation.

  Raises:
    DataError: n is neither 1 nor 3, or the frame is smaller than the crop.
  """
  if n not in (1, 3):
    raise DataError(f'spatial crops: expected 1 or 3, got {n}.')
  if min(height, width) < crop:
    raise DataError(f'spatial crops: a {height}x{width} frame is smaller than the crop {crop}.')
  top, left = (height - crop + 1) // 2, (width - crop + 1) // 2
  if n == 1:
    return ((top, left),)
  if height > width:
    return ((0, left), (top, left), (height - crop, left))
  return ((top, 0), (top, left), (top, width - crop))


@dataclasses.dataclass(frozen=True)
class Window:
  """A square of source pixels that becomes the crop, mirrored left to right if `flip`."""

  top: int
  left: int
  size: int
  flip: bool


def train_window(
  rng: np.random.Generator,
  height: int,
  width: int,
  *,
  resize: int,
  crop: int,
  scale_jitter: tuple[float, float] | None = None,
  scale_jitter_prob: float = 1.0,
  flip_prob: float = 0.0,
) -> Window:
  """Draws the source window that equals: short side to `resize`, jitter, random crop, flip.

  The five uniforms are always drawn, so that one setting does not shift another's stream.

  DEVIATION: the window is rounded to whole source pixels, and a jitter that would make the short
  side smaller than the crop is raised to it (Scenic resizes whole frames, then crops): so that
  only the window is ever resized.

  Args:
    rng: random numbers of this example.
    height: frame height in px.
    width: frame width in px.
    resize: short side in px after the resize.
    crop: side of the square output in px.
    scale_jitter: range [lo, hi] of a further uniform scale, or None.
    scale_jitter_prob: probability that the jitter is applied.
    flip_prob: probability of a horizontal flip.
  """
  use_jitter, jitter, top, left, flip = rng.random(5)
  short_side = min(height, width)
  scale = resize / short_side
  if scale_jitter is not None and use_jitter < scale_jitter_prob:
    low, high = scale_jitter
    scale *= low + (high - low) * jitter
  size = min(max(round(crop / scale), 1), short_side)
  return Window(
    top=int(top * (height - size + 1)),
    left=int(left * (width - size + 1)),
    size=size,
    flip=bool(flip < flip_prob),
  )


def cut_window(frame: _Array, window: Window, crop: int) -> _Array:
  """Resizes only the window of a frame uint8 [H, W, 3] to uint8 [crop, crop, 3], bilinear."""
  patch = frame[window.top : window.top + window.size, window.left : window.left + window.size]
  if window.size != crop:
    patch = cv2.resize(patch, (crop, crop), interpolation=cv2.INTER_LINEAR)
  return patch[:, ::-1] if window.flip else patch


def resize_short_side(frame: _Array, short_side: int) -> _Array:
  """Resizes a frame uint8 [H, W, 3] so that its shorter side is `short_side` px, bilinear."""
  height, width = resized_shape(frame.shape[0], frame.shape[1], short_side)
  if (height, width) == frame.shape[:2]:
    return frame
  return cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)


def decode_frames(encoded: Sequence[bytes], where: Callable[[int], str] = str) -> list[_Array]:
  """Decodes frames to RGB uint8 [H, W, 3], all of one shape.

  JPEG by simplejpeg with the fast DCT, which agrees bit for bit with `tf.io.decode_jpeg`'s default;
  anything else by OpenCV.

  Raises:
    DataError: a frame cannot be decoded or differs in shape from the first; `where(i)` names it.
  """
  frames: list[_Array] = []
  for i, data in enumerate(encoded):
    try:
      frame = _decode(data)
    except (ValueError, cv2.error) as error:
      raise DataError(
        f'{where(i)}: cannot be decoded ({str(error).strip()}). Write the record again.'
      ) from error
    if frames and frame.shape != frames[0].shape:
      raise DataError(
        f"{where(i)}: is {frame.shape[0]}x{frame.shape[1]} px, the clip's first frame "
        f'{frames[0].shape[0]}x{frames[0].shape[1]}. Write the record with one frame size.'
      )
    frames.append(frame)
  return frames


def _decode(data: bytes) -> _Array:
  if data[:2] == b'\xff\xd8':
    return simplejpeg.decode_jpeg(data, colorspace='RGB', fastdct=True)
  image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
  if image is None:
    raise ValueError(f'starts with {data[:8]!r}, neither JPEG nor an image OpenCV knows')
  return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
