"""Array operations that fit an image model's patch kernel and positions to a video model."""

from collections.abc import Sequence

import numpy as np

from errors import ConfigError
from models.interpolation import axis_weights

INFLATION_METHODS = ('central_frame', 'average', 'average_arp')


def square_side(count: int) -> int | None:
  """The side of a square of `count` cells, or None."""
  side = round(count**0.5)
  return side if side * side == count else None


def inflate_kernel(kernel: np.ndarray, num_frames: int, method: str) -> np.ndarray:
  """(h, w, 3, C) -> (num_frames, h, w, 3, C) for a tubelet embedding (ViViT sec. 3.4).

  Args:
    kernel: the image model's patch kernel.
    num_frames: the tubelet's t.
    method: 'central_frame' (Eq. 9), 'average' (Eq. 8), or 'average_arp': Eq. 8 weighted with the
      approximate rank pooling coefficients of dynamic image networks.

  Raises:
    ConfigError: unknown method.
  """
  if method == 'central_frame':
    weights = np.zeros(num_frames)
    weights[num_frames // 2] = 1.0
  elif method == 'average':
    weights = np.full(num_frames, 1.0 / num_frames)
  elif method == 'average_arp':
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, num_frames + 1))])
    ticks = np.arange(1, num_frames + 1)
    weights = 2.0 * (num_frames - ticks + 1) - (num_frames + 1) * (harmonic[-1] - harmonic[:-1])
    weights = weights / num_frames
  else:
    raise ConfigError(f'init_from.kernel_inflation={method!r}: one of {INFLATION_METHODS}.')
  return weights.astype(kernel.dtype).reshape(-1, 1, 1, 1, 1) * kernel[None]


def fit_kernel(array: np.ndarray, shape: Sequence[int], inflation: str) -> tuple[np.ndarray, str]:
  """An image model's patch kernel, or its bias, for a kernel over pixels of any shape.

  A constant image or clip gets the same value from the result as from the image model's kernel:
  over the height and width the sum of the kernel is kept (`axis_weights` with `keep_sum`), and
  'central_frame' and 'average' keep it over time. 'average_arp' changes it. If the trunk interpolates
  the result again, to a larger tube or from one kernel that tubes share, that stays so where its
  `interpolation` keeps sums; with 'trilinear' tokens then scale with the ratio of the volumes. A
  result with fewer channels has the first ones: tokens of several parts side by side begin as the
  same channels of neighbouring places.

  Args:
    array: (h, w, 3, C), or (C,).
    shape: (t, h', w', 3, C') or (C',). What cannot be had, more channels, is left as it is.
    inflation: as `inflate_kernel`'s method; not used for t = 1.

  Returns:
    The array, and what was done to it; '' if it has the same numbers.
  """
  how = []
  if shape[-1] < array.shape[-1]:
    how.append(f'first {shape[-1]} of {array.shape[-1]} channels')
    array = array[..., : shape[-1]]
  if len(shape) != 5:
    return array, ', '.join(how)
  frames, *sizes = shape[:3]
  if tuple(sizes) != array.shape[:2]:
    how.append(f'{by(array.shape[:2])} to {by(sizes)} px, sum kept')
    array = resize_table(array, sizes, 'bilinear_antialias', keep_sum=True)
  if frames == 1:
    return array[None], ', '.join(how)
  return inflate_kernel(array, frames, inflation), ', '.join([*how, inflation])


def by(sizes: Sequence[int]) -> str:
  """Sizes as people write them: 16x16."""
  return 'x'.join(map(str, sizes))


def resize_table(
  table: np.ndarray, sizes: Sequence[int], method: str, keep_sum: bool = False
) -> np.ndarray:
  """Resamples a table [n_1, ..., n_k, ...] to [*sizes, ...], axis by axis.

  Args:
    table: position embeddings on their grid, or a kernel.
    sizes: one per axis.
    method, keep_sum: see `interpolation.axis_weights`.
  """
  resized = table.astype(np.float64)
  for axis, size in enumerate(sizes):
    weights = axis_weights(table.shape[axis], size, method, keep_sum)
    resized = np.moveaxis(np.tensordot(weights, resized, axes=(1, axis)), 0, axis)
  return resized.astype(table.dtype)
