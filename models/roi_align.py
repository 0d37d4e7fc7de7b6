"""ROI-Align as a matrix product (He et al., Mask R-CNN, ICCV 2017, section 3)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from errors import ConfigError


def roi_align(
  features: jax.Array,
  boxes: jax.Array,
  *,
  output_size: Sequence[int] = (7, 7),
  sampling_ratio: int = 0,
  aligned: bool = True,
) -> jax.Array:
  """Averages bilinear samples of a feature map in each cell of a grid laid over each box.

  The numbers are torchvision's. Whether a sample counts, and what it weighs, is a product of a term
  in y and one in x, so what every feature weighs in a cell needs no loop over samples in two
  dimensions, and what remains is one matrix product a clip: on CPU and TPU faster than gathering the
  samples, forward and backward together (`benchmarks.roi_align`). A box more than a cell away from
  the map gives zeros, and so does one without area where the samples follow from the size; results
  and gradients are always finite.

  Args:
    features: [B, H, W, C], float.
    boxes: [B, N, 4] float32 (ymin, xmin, ymax, xmax) in cells of the feature map: 0 is the edge of
      the first cell, H or W that of the last. They may lie outside and have any size. Constants:
      no gradient flows to them.
    output_size: (ph, pw), cells laid over each box.
    sampling_ratio: samples per cell of this grid and axis; 0 or less: as many as the cell is long,
      rounded up, for each box and axis.
    aligned: True places a cell's value at its centre, which is right; False at its corner, and
      boxes are at least one cell long: what detectors before Detectron2 were trained with.

  Returns:
    [B, N, ph, pw, C] in the dtype of `features`; weights and sums are float32.

  Raises:
    ConfigError: `output_size` is not two positive numbers.
  """
  if len(output_size) != 2 or min(output_size) < 1:
    raise ConfigError(f'output_size={output_size}: expected (rows, columns), each at least 1.')
  boxes = jax.lax.stop_gradient(boxes.astype(jnp.float32))
  rows, columns = (
    _axis_weights(
      boxes[..., axis],
      boxes[..., axis + 2],
      features.shape[1 + axis],
      size,
      sampling_ratio,
      aligned,
    )
    for axis, size in enumerate(output_size)
  )  # [B, N, ph, H], [B, N, pw, W]
  weights = rows[..., :, None, :, None] * columns[..., None, :, None, :]  # [B, N, ph, pw, H, W]
  cells = jnp.einsum(
    'bnk,bkc->bnc',
    weights.reshape(boxes.shape[0], -1, features.shape[1] * features.shape[2]),
    features.reshape(features.shape[0], -1, features.shape[-1]),
    precision=jax.lax.Precision.HIGHEST,
    preferred_element_type=jnp.float32,
  )
  return cells.reshape(*boxes.shape[:2], *output_size, -1).astype(features.dtype)


def _axis_weights(
  low: jax.Array, high: jax.Array, length: int, cells: int, ratio: int, aligned: bool
) -> jax.Array:
  """What each of `length` features weighs in each cell, along one axis: float32 [B, N, cells, length].

  Args:
    low: [B, N], where the boxes begin.
    high: [B, N], where they end.
    length: H or W.
    cells: ph or pw.
    ratio: samples a cell; 0 or less, as many as it is long.
    aligned: see `roi_align`.
  """
  start = low - 0.5 if aligned else low
  size = high - low if aligned else jnp.maximum(high - low, 1.0)
  cell = (size / cells)[..., None, None]  # [B, N, 1, 1]
  first: jax.Array | float
  begin = start[..., None, None] + jnp.arange(cells, dtype=jnp.float32)[:, None] * cell
  if ratio > 0:
    count, first = jnp.full_like(cell, ratio), 0.0
    slots = ratio
  else:
    # Samples that follow from the size are at most 1 apart, and more than (count - 1) / count: at
    # most length + 2 of a cell's fall into [-1, length], however large the box. Those begin at
    # `first`; it may come out two early, one for rounding down and one for float32.
    count = jnp.maximum(jnp.ceil(cell), 0.0)
    step = cell / jnp.maximum(count, 1.0)
    before = (-1.0 - begin) / jnp.where(step > 0.0, step, 1.0) - 0.5
    first, slots = jnp.maximum(jnp.floor(before), 0.0), length + 4
  index = first + jnp.arange(slots, dtype=jnp.float32)  # [B, N, cells, slots]
  samples = begin + (index + 0.5) * cell / jnp.maximum(count, 1.0)
  counted = (index < count) & (samples >= -1.0) & (samples <= length)
  # Up to one cell outside the map, the value at its border counts.
  samples = jnp.clip(samples, 0.0, length - 1.0)[..., None]
  hats = jnp.maximum(1.0 - jnp.abs(samples - jnp.arange(length, dtype=jnp.float32)), 0.0)
  total = jnp.where(counted[..., None], hats, 0.0).sum(axis=-2)
  return total / jnp.maximum(count, 1.0)
