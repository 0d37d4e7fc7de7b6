"""Linear and cubic resampling along axes, as matrices."""

import numpy as np

METHODS = ('scenic', 'bilinear', 'bilinear_antialias', 'bicubic', 'bicubic_antialias')


def axis_weights(n_in: int, n_out: int, method: str, keep_sum: bool = False) -> np.ndarray:
  """Interpolation along one axis as a matrix, float64 [n_out, n_in].

  Args:
    n_in, n_out: lengths of the axis before and after.
    method: 'scenic' aligns the corners, linear (scipy.ndimage.zoom order 1, big_vision too);
      'bilinear' has half-pixel centres (timm's npz loader), 'bicubic_antialias' is timm's default
      for PyTorch checkpoints; also 'bicubic' and 'bilinear_antialias'.
    keep_sum: columns sum to one instead of rows. A value is then dealt out among the places near
      it, so that the sum over the axis stays what it was; where values are interpolated, it is their
      size that stays. Equal values do not stay equal near the borders: eight ones dealt out among 16
      places give .43 .55 .52 .5 ... .5 .52 .55 .43. Shrinking needs an antialiased method: the
      others leave values out.

  Raises:
    ValueError: unknown method, or one that leaves out a value whose sum is to be kept.
  """
  if method not in METHODS:
    raise ValueError(f'method={method!r}: expected one of {METHODS}.')
  antialias = method.endswith('_antialias')
  width = max(n_in / n_out, 1.0) if antialias else 1.0
  if method == 'scenic':
    centres = np.arange(n_out) * (n_in - 1) / max(n_out - 1, 1)
  else:
    centres = (np.arange(n_out) + 0.5) * n_in / n_out - 0.5
  # Taps beyond the border repeat its value; with antialiasing they are left out instead.
  pad = 0 if antialias else 2
  taps = np.arange(-pad, n_in + pad)
  distance = np.abs(centres[:, None] - taps[None, :]) / width
  if method.startswith('bicubic'):
    values = _cubic(distance, -0.5 if antialias else -0.75)  # as PIL and as PyTorch respectively
  else:
    values = np.maximum(1.0 - distance, 0.0)
  weights = np.zeros((n_out, n_in))
  for column, tap in enumerate(np.clip(taps, 0, n_in - 1)):
    weights[:, tap] += values[:, column]
  sums = weights.sum(axis=0 if keep_sum else 1, keepdims=True)
  if not np.all(sums):
    raise ValueError(f'{method!r} from {n_in} to {n_out} leaves values out: their sum is lost.')
  return weights / sums


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
  """Keys' cubic convolution kernel at distances x >= 0."""
  near = ((a + 2) * x - (a + 3)) * x * x + 1
  far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
  return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
