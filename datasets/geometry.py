"""Which pixels of a frame a clip holds: windows, crops, flips and padding, for pixels and boxes."""

import dataclasses
import math
from typing import Any

import cv2
import numpy as np

from errors import DataError

_Array = np.ndarray[Any, np.dtype[Any]]

_INCEPTION_TRIES = 10


@dataclasses.dataclass(frozen=True)
class Window:
  """A rectangle of source pixels, resized to the top left corner of the square output.

  The rest of the output is zero. With `flip` the rectangle's content is mirrored left to right.
  """

  top: int
  left: int
  height: int
  width: int
  out_height: int
  out_width: int
  flip: bool = False


def resized_shape(height: int, width: int, short_side: int) -> tuple[int, int]:
  """Height and width after resizing the shorter side to `short_side` px, the longer rounded down."""
  if height <= width:
    return short_side, max(width * short_side // height, short_side)
  return height * short_side // width, short_side


def padded_shape(height: int, width: int, long_side: int) -> tuple[int, int]:
  """Height and width after resizing the longer side to `long_side` px, the shorter rounded."""
  scale = long_side / max(height, width)
  return max(round(height * scale), 1), max(round(width * scale), 1)


def resize(frame: _Array, height: int, width: int) -> _Array:
  """Resizes a frame uint8 [H, W, 3]; the same array when it has the size already.

  Bilinear without antialiasing, as the field has it, but by area below half the size, where that
  would skip pixels.
  """
  if (height, width) == frame.shape[:2]:
    return frame
  return cv2.resize(frame, (width, height), interpolation=_interpolation(frame, height, width))


def _interpolation(frame: _Array, height: int, width: int) -> int:
  shrinks = 2 * height < frame.shape[0] and 2 * width < frame.shape[1]
  return cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR


def spatial_crops(height: int, width: int, crop: int, n: int) -> tuple[Window, ...]:
  """n square windows of `crop` px: the centre one, or 3 along the longer side.

  Three run from top or left to bottom or right; a centre rounds up, as in ViViT's evaluation.

  Raises:
    DataError: n is neither 1 nor 3, or the frame is smaller than the crop.
  """
  if n not in (1, 3):
    raise DataError(f'spatial crops: expected 1 or 3, got {n}.')
  if min(height, width) < crop:
    raise DataError(f'spatial crops: a {height}x{width} frame is smaller than the crop {crop}.')
  top, left = (height - crop + 1) // 2, (width - crop + 1) // 2
  corners: tuple[tuple[int, int], ...]
  if n == 1:
    corners = ((top, left),)
  elif height > width:
    corners = ((0, left), (top, left), (height - crop, left))
  else:
    corners = ((top, 0), (top, left), (top, width - crop))
  return tuple(Window(y, x, crop, crop, crop, crop) for y, x in corners)


def random_window(
  rng: np.random.Generator,
  height: int,
  width: int,
  *,
  resize: int | tuple[int, int],
  crop: int,
  fit: str = 'crop',
  scale_jitter: tuple[float, float] | None = None,
  scale_jitter_prob: float = 1.0,
  flip_prob: float = 0.0,
) -> Window:
  """Draws the window that equals: resize, scale jitter, random crop, flip.

  The six uniforms are always drawn, so that one setting does not shift another's stream.

  DEVIATION: the window is rounded to whole source pixels, and with `fit='crop'` a scale that would
  make the shorter side smaller than the crop is raised to it (Scenic resizes whole frames, then
  crops): so that only the window is ever resized.

  Args:
    rng: random numbers of this example.
    height: frame height in px.
    width: frame width in px.
    resize: side in px after the resize, the shorter one or, with `fit='pad'`, the longer one; a
      pair (lo, hi) is drawn from uniformly (the short-side jitter of arXiv:1812.03982).
    crop: side of the square output in px.
    fit: 'crop', or 'pad': what the frame does not fill of the output is zero, at the bottom and at
      the right; what it exceeds is cropped at random.
    scale_jitter: range [lo, hi] of a further uniform scale, or None.
    scale_jitter_prob: probability that the jitter is applied.
    flip_prob: probability of a horizontal flip.
  """
  use_jitter, jitter, top, left, flip, side = rng.random(6)
  low, high = resize if isinstance(resize, tuple) else (resize, resize)
  target = int(low + side * (high - low + 1))
  scale = target / (min(height, width) if fit == 'crop' else max(height, width))
  if scale_jitter is not None and use_jitter < scale_jitter_prob:
    scale *= scale_jitter[0] + (scale_jitter[1] - scale_jitter[0]) * jitter
  if fit == 'crop':
    scale = max(scale, crop / min(height, width))
  out_height, out_width = (min(crop, max(round(side * scale), 1)) for side in (height, width))
  rows = min(height, max(round(out_height / scale), 1))
  columns = min(width, max(round(out_width / scale), 1))
  return Window(
    top=int(top * (height - rows + 1)),
    left=int(left * (width - columns + 1)),
    height=rows,
    width=columns,
    out_height=out_height,
    out_width=out_width,
    flip=bool(flip < flip_prob),
  )


def inception_window(
  rng: np.random.Generator,
  height: int,
  width: int,
  *,
  crop: int,
  area: tuple[float, float],
  aspect: tuple[float, float],
  flip_prob: float = 0.0,
) -> Window:
  """Draws a window of random area and aspect ratio, resized to a square (arXiv:1409.4842, sec. 6).

  The first of ten draws that fits into the frame; if none does, the largest centred window within
  the aspect range, as torchvision has it.

  Args:
    rng: random numbers of this example.
    height: frame height in px.
    width: frame width in px.
    crop: side of the square output in px.
    area: range of the window's area, as a fraction of the frame's.
    aspect: range of width / height, drawn uniformly on a log scale.
    flip_prob: probability of a horizontal flip.
  """
  draws = rng.random((_INCEPTION_TRIES, 2))
  top, left, flip = rng.random(3)
  low, high = math.log(aspect[0]), math.log(aspect[1])
  for fraction, shape in draws:
    pixels = height * width * (area[0] + (area[1] - area[0]) * fraction)
    ratio = math.exp(low + (high - low) * shape)
    columns, rows = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
    if 0 < columns <= width and 0 < rows <= height:
      y, x = int(top * (height - rows + 1)), int(left * (width - columns + 1))
      break
  else:
    rows = min(height, round(width / aspect[0]))
    columns = min(width, round(height * aspect[1]))
    y, x = (height - rows) // 2, (width - columns) // 2
  return Window(y, x, rows, columns, crop, crop, flip=bool(flip < flip_prob))


def cut(frame: _Array, window: Window, out: _Array) -> None:
  """Writes a window of a frame uint8 [H, W, 3] into `out` uint8 [crop, crop, 3], all of it."""
  patch = frame[window.top : window.top + window.height, window.left : window.left + window.width]
  target = out[: window.out_height, : window.out_width]
  if target.shape != out.shape:
    out[window.out_height :] = 0
    out[: window.out_height, window.out_width :] = 0
  # OpenCV writes only into contiguous arrays.
  result = target if target.flags.c_contiguous else np.empty(target.shape, np.uint8)
  if patch.shape == target.shape:
    result[...] = patch
  else:
    size = (window.out_width, window.out_height)
    method = _interpolation(patch, window.out_height, window.out_width)
    cv2.resize(patch, size, dst=result, interpolation=method)
  if window.flip:  # In place, which OpenCV does ten times as fast as from one array to another.
    cv2.flip(result, 1, dst=result)
  if result is not target:
    target[...] = result


def transform_boxes(
  boxes: _Array, height: int, width: int, window: Window, crop: int
) -> tuple[_Array, _Array]:
  """Boxes of a frame as boxes of the window's output.

  Args:
    boxes: float [N, 4] ymin, xmin, ymax, xmax in [0, 1] of the frame.
    height: frame height in px.
    width: frame width in px.
    window: what was cut.
    crop: side of the output in px.

  Returns:
    float32 [N, 4] in [0, 1] of the output, clipped to what the window shows, and bool [N]: whether
    anything of the box is left. A box that is not has zeros.
  """
  pixels = np.asarray(boxes, np.float64).reshape(-1, 4) * [height, width, height, width]
  origin = np.array([window.top, window.left] * 2)
  scale = np.array([window.out_height / window.height, window.out_width / window.width] * 2)
  limit = np.array([window.out_height, window.out_width] * 2)
  placed = np.clip((pixels - origin) * scale, 0, limit)
  if window.flip:
    placed[:, [1, 3]] = window.out_width - placed[:, [3, 1]]
  visible = (placed[:, 2] > placed[:, 0]) & (placed[:, 3] > placed[:, 1])
  return (placed / crop * visible[:, None]).astype(np.float32), visible
