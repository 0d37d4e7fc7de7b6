"""RandAugment on the device: one draw per clip, the same operation on every frame.

Of the operations at most one acts in a layer, so a layer is five cheap stages, each the identity
unless its operation was drawn: a look-up table per channel, a blend with grey, a blend with a
smoothed clip, one affine warp and one rectangle. Under `vmap` a switch would compute all of them.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from errors import ConfigError, check_integer, check_range

OPS = (
  'Identity',
  'AutoContrast',
  'Equalize',
  'Invert',
  'Rotate',
  'Posterize',
  'Solarize',
  'Color',
  'Contrast',
  'Brightness',
  'Sharpness',
  'ShearX',
  'ShearY',
  'TranslateX',
  'TranslateY',
  'Cutout',
  'SolarizeAdd',
)
# Operations each policy draws from; timm has neither Identity nor Cutout.
POLICY_OPS = {
  'autoaugment': OPS,
  'increasing': tuple(name for name in OPS if name not in ('Identity', 'Cutout')),
}

_FILL = 128  # grey where the warp or the cutout leaves nothing
_FULL = 10.0  # the magnitude at which the ranges of both policies end
_MAX_MAGNITUDE = {'autoaugment': 30.0, 'increasing': _FULL}
_TRANSLATE_FRACTION = 0.45  # of the width or height, at full magnitude of 'increasing'


@dataclasses.dataclass(frozen=True)
class RandAugmentConfig:
  """RandAugment (arXiv:1909.13719): operations drawn uniformly, one after the other.

  ViViT Table 7 has 2 layers of magnitude 15 (EPIC) and 20 (SSv2) on the `'autoaugment'` scale.
  MViTv2 and UniFormerV2 use timm's `rand-m7-n4-mstd0.5-inc1`, which
  `configs.common.rand_augment_from` reads.

  Attributes:
    num_layers: 0 (off) to 10 operations.
    magnitude: Strength shared by the operations; 10 is the end of their ranges. [0, 30] for
      `'autoaugment'`, [0, 10] for `'increasing'`.
    policy: `'autoaugment'`, the operations and scale of the public TensorFlow implementation, on
      which Posterize and Solarize weaken as the magnitude grows and the enhancing operations
      change nothing at 5; or `'increasing'`, those of timm's `inc1`, which all grow stronger.
    magnitude_std: [0, 10] deviation of the normal noise added to the magnitude of each operation,
      which then stays in the policy's range.
    op_prob: [0, 1] probability that a layer does anything; timm's is 0.5.
    cutout_const: Half the side of the square in pixels at magnitude 10; `'autoaugment'` only.
    translate_const: Pixels at magnitude 10; `'autoaugment'` only. The defaults of both constants
      are the public TensorFlow values, meant for 224 pixels.

  Raises:
    ConfigError: A value outside its range.
  """

  num_layers: int = 0
  magnitude: float = 10.0
  policy: Literal['autoaugment', 'increasing'] = 'autoaugment'
  magnitude_std: float = 0.0
  op_prob: float = 1.0
  cutout_const: float = 40.0
  translate_const: float = 100.0

  def __post_init__(self) -> None:
    name = type(self).__name__
    if self.policy not in POLICY_OPS:
      raise ConfigError(f'{name}.policy: expected one of {list(POLICY_OPS)}, got {self.policy!r}')
    check_integer(name, 'num_layers', self.num_layers, 0, 10)
    check_range(name, 'magnitude', self.magnitude, 0, _MAX_MAGNITUDE[self.policy])
    check_range(name, 'magnitude_std', self.magnitude_std, 0, 10)
    check_range(name, 'op_prob', self.op_prob, 0, 1)
    check_range(name, 'cutout_const', self.cutout_const, 0, 4096)
    check_range(name, 'translate_const', self.translate_const, 0, 4096)


class Strengths(NamedTuple):
  """What one drawn magnitude and sign mean to each operation; all [], may be traced."""

  enhance: jax.Array  # factor of Color, Contrast, Brightness, Sharpness; 1 changes nothing
  degrees: jax.Array
  shear: jax.Array  # pixels per pixel
  translate_x: jax.Array  # pixels
  translate_y: jax.Array  # pixels
  bits: jax.Array  # int32 [1, 8] bits kept by Posterize
  threshold: jax.Array  # int32 [0, 256] Solarize inverts values from here on
  addition: jax.Array  # int32 SolarizeAdd
  cutout: jax.Array  # int32 pixels, half the side


class Draw(NamedTuple):
  """One layer's operation: `op` [] int32 index into `OPS`, its strength, Cutout's middle [2]."""

  op: jax.Array
  strength: Strengths
  centre: jax.Array  # int32 row and column


def strengths(
  config: RandAugmentConfig,
  magnitude: jax.Array | float,
  sign: jax.Array | float,
  size: tuple[int, int],
) -> Strengths:
  """Maps a magnitude to the strength of every operation.

  Args:
    config: policy and constants; its own magnitude is not read.
    magnitude: [] in the policy's range.
    sign: [] -1 or 1: the direction of rotation, shear and translation, and under `'increasing'`
      whether the enhancing operations add or take away.
    size: height and width in pixels.

  DEVIATION: Posterize keeps at least one bit (timm keeps none at magnitude 10, a black clip) and
  Solarize's threshold at most 256, so from magnitude 10 on the Solarize of `'autoaugment'` changes
  nothing. In Scenic's copy the threshold wraps at 256: magnitude 20 inverts every pixel.
  """

  def scaled(full: float) -> jax.Array:
    return jnp.float32(magnitude) * (full / _FULL)

  def whole(full: float) -> jax.Array:
    return jnp.floor(scaled(full)).astype(jnp.int32)

  if config.policy == 'increasing':
    enhance = jnp.maximum(1 + sign * scaled(0.9), 0.1)
    bits, threshold = 4 - whole(4), 256 - whole(256)
    translate_y, translate_x = (scaled(_TRANSLATE_FRACTION * side) for side in size)
  else:
    enhance = scaled(1.8) + 0.1
    bits, threshold = whole(4), jnp.minimum(whole(256), 256)
    translate_y = translate_x = scaled(config.translate_const)
  return Strengths(
    enhance=enhance,
    degrees=sign * scaled(30),
    shear=sign * scaled(0.3),
    translate_x=sign * translate_x,
    translate_y=sign * translate_y,
    bits=jnp.clip(bits, 1, 8),
    threshold=threshold,
    addition=whole(110),
    cutout=whole(config.cutout_const),
  )


def draw(key: jax.Array, config: RandAugmentConfig, size: tuple[int, int]) -> Draw:
  """Draws one layer for clips of `size` (height, width)."""
  op_key, use_key, magnitude_key, sign_key, centre_key = jax.random.split(key, 5)
  choices = jnp.asarray([OPS.index(name) for name in POLICY_OPS[config.policy]])
  op = jax.random.choice(op_key, choices)
  op = jnp.where(jax.random.bernoulli(use_key, config.op_prob), op, OPS.index('Identity'))
  magnitude = config.magnitude + config.magnitude_std * jax.random.normal(magnitude_key)
  magnitude = jnp.clip(magnitude, 0, _MAX_MAGNITUDE[config.policy])
  sign = jnp.where(jax.random.bernoulli(sign_key), 1.0, -1.0)
  centre = jax.random.randint(centre_key, (2,), 0, jnp.asarray(size))
  return Draw(op, strengths(config, magnitude, sign, size), centre)


def apply_policy(key: jax.Array, clip: jax.Array, config: RandAugmentConfig) -> jax.Array:
  """Applies `config.num_layers` operations drawn from `key` to a clip, all its frames alike.

  Args:
    key: one random key.
    clip: [T, H, W, 3] uint8, or float in [0, 255], which is rounded: the operations work on bytes.
    config: which operations, how many, how strong.

  Returns:
    [T, H, W, 3] float32 whole numbers in [0, 255]. Source: arXiv:1909.13719, section 3, and ViViT
    appendix A.1.

  DEVIATION: `'increasing'` warps bilinearly, where timm draws bilinear or bicubic for each
  operation: bicubic would read four times the pixels.
  """
  if clip.dtype != jnp.uint8:
    clip = jnp.clip(jnp.round(clip), 0, 255).astype(jnp.uint8)
  height, width = clip.shape[1:3]

  def layer(clip: jax.Array, layer_key: jax.Array) -> tuple[jax.Array, None]:
    drawn = draw(layer_key, config, (height, width))
    return apply_op(clip, drawn, bilinear=config.policy == 'increasing'), None

  # A loop, so that the layers are compiled once.
  clip, _ = jax.lax.scan(layer, clip, jax.random.split(key, config.num_layers))
  return clip.astype(jnp.float32)


def apply_op(clip: jax.Array, drawn: Draw, bilinear: bool = False) -> jax.Array:
  """Applies one drawn operation to a clip.

  Args:
    clip: [T, H, W, 3] uint8.
    drawn: the operation; may be traced.
    bilinear: whether warps interpolate rather than take the nearest pixel.

  Returns:
    [T, H, W, 3] uint8. Statistics (AutoContrast, Equalize, Contrast) are over the whole clip.
  """
  op, strength, centre = drawn
  clip = _look_up(clip, _select_table(clip, op, strength))
  clip = _blend(_grey(clip), clip, jnp.where(_is(op, 'Color'), strength.enhance, 1.0))
  clip = _blend(_smooth(clip), clip, jnp.where(_is(op, 'Sharpness'), strength.enhance, 1.0))
  warp = _warp_bilinear if bilinear else _warp_nearest
  clip = warp(clip, _warp_coefficients(clip, op, strength))
  return _cut_out(clip, centre, jnp.where(_is(op, 'Cutout'), strength.cutout, 0))


def _is(op: jax.Array, name: str) -> jax.Array:
  return op == OPS.index(name)


def _blend(degenerate: jax.Array, clip: jax.Array, factor: jax.Array | float) -> jax.Array:
  """PIL's Image.blend in uint8: `factor` 1 is the clip, 0 the degenerate one; fractions are cut."""
  # Written around the clip, so that factor 1 returns exactly the clip.
  clip = clip.astype(jnp.float32)
  blended = clip + (1.0 - factor) * (degenerate.astype(jnp.float32) - clip)
  return jnp.clip(blended, 0, 255).astype(jnp.uint8)


# --- Stage 1: a table of 256 entries per channel ---


def _select_table(clip: jax.Array, op: jax.Array, strength: Strengths) -> jax.Array:
  """The table [3, 256] uint8 of the operation drawn; the identity if that is no table operation."""
  ramp = np.arange(256)
  histogram = _histogram(clip)
  tables = {
    'AutoContrast': _autocontrast_table(histogram),
    'Equalize': _equalize_table(histogram),
    'Invert': 255 - ramp,
    'Posterize': ramp & ~((1 << (8 - strength.bits)) - 1),
    'Solarize': jnp.where(ramp < strength.threshold, ramp, 255 - ramp),
    'Contrast': _blend(_mean_grey(clip), jnp.asarray(ramp), strength.enhance),
    'Brightness': _blend(jnp.zeros(256), jnp.asarray(ramp), strength.enhance),
    'SolarizeAdd': jnp.where(ramp < 128, jnp.minimum(ramp + strength.addition, 255), ramp),
  }
  selected = jnp.broadcast_to(jnp.asarray(ramp, jnp.uint8), (3, 256))
  for name, table in tables.items():
    selected = jnp.where(_is(op, name), jnp.asarray(table).astype(jnp.uint8), selected)
  return selected


def _look_up(clip: jax.Array, table: jax.Array) -> jax.Array:
  return table.reshape(-1)[clip.astype(jnp.int32) + 256 * jnp.arange(3)]


def _histogram(clip: jax.Array) -> jax.Array:
  """[3, 256] int32 counts of each value per channel over the whole clip."""
  values = clip.reshape(-1, 3)  # [T*H*W, 3]
  # A CPU scatters quickly. Accelerators serialise the collisions but fuse the comparison.
  return jax.lax.platform_dependent(
    values, cpu=histogram_by_scatter, default=histogram_by_comparison
  )


def histogram_by_scatter(values: jax.Array) -> jax.Array:
  """Counts [N, 3] uint8 into [3, 256] int32 by scatter-add."""
  bins = values.astype(jnp.int32) + 256 * jnp.arange(3)
  return jnp.zeros(3 * 256, jnp.int32).at[bins].add(1).reshape(3, 256)


def histogram_by_comparison(values: jax.Array) -> jax.Array:
  """Counts [N, 3] uint8 into [3, 256] int32 by comparing with each of the 256 values."""
  equal = values[:, :, None] == jnp.arange(256, dtype=jnp.uint8)
  return jnp.sum(equal, axis=0, dtype=jnp.int32)


def _autocontrast_table(histogram: jax.Array) -> jax.Array:
  """Stretches each channel to 0..255 (PIL's ImageOps.autocontrast); a flat one stays."""
  ramp = jnp.arange(256)
  present = histogram > 0
  low = jnp.argmax(present, axis=1, keepdims=True)
  high = 255 - jnp.argmax(present[:, ::-1], axis=1, keepdims=True)
  stretched = (ramp - low) * 255 // jnp.maximum(high - low, 1)
  return jnp.where(high > low, jnp.clip(stretched, 0, 255), ramp)


def _equalize_table(histogram: jax.Array) -> jax.Array:
  """Flattens each channel's histogram (PIL's ImageOps.equalize); too few pixels stay."""
  total = jnp.sum(histogram, axis=1, keepdims=True)
  last = 255 - jnp.argmax(histogram[:, ::-1] > 0, axis=1, keepdims=True)
  step = (total - jnp.take_along_axis(histogram, last, axis=1)) // 255
  below = jnp.cumsum(histogram, axis=1) - histogram  # pixels darker than each value
  table = (below + step // 2) // jnp.maximum(step, 1)
  return jnp.where(step > 0, jnp.minimum(table, 255), jnp.arange(256))


def _mean_grey(clip: jax.Array) -> jax.Array:
  """The clip's mean luma, rounded, [] float32, as in PIL's ImageEnhance.Contrast.

  DEVIATION: Scenic's copy divides the number of pixels by 256 instead and so pushes away from
  white.
  """
  per_frame = jnp.mean(_grey(clip).astype(jnp.float32), axis=(1, 2, 3))
  return jnp.floor(jnp.mean(per_frame) + 0.5)


# --- Stages 2 and 3: blends with grey and with a smoothed clip ---


def _grey(clip: jax.Array) -> jax.Array:
  """ITU-R 601-2 luma in PIL's fixed point. [T, H, W, 3] uint8 -> [T, H, W, 1] int32 in [0, 255]."""
  weighted = clip.astype(jnp.int32) * jnp.asarray([19595, 38470, 7471])
  return (jnp.sum(weighted, axis=-1, keepdims=True) + 32768) >> 16


def _smooth(clip: jax.Array) -> jax.Array:
  """PIL's SMOOTH filter, 3x3 ones with 5 in the middle over 13, border pixels kept. float32."""
  clip = clip.astype(jnp.float32)
  rows = clip[:, :-2] + clip[:, 1:-1] + clip[:, 2:]
  box = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
  inner = jnp.floor((box + 4 * clip[:, 1:-1, 1:-1]) / 13 + 0.5)
  return clip.at[:, 1:-1, 1:-1].set(inner)


# --- Stage 4: one affine warp ---


def _warp_coefficients(clip: jax.Array, op: jax.Array, strength: Strengths) -> jax.Array:
  """a..f [6] float32: source x = a x + b y + c, source y = d x + e y + f, of pixel centres."""
  middle_y, middle_x = clip.shape[1] / 2, clip.shape[2] / 2
  angle = jnp.deg2rad(strength.degrees)
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  offset_x = middle_x - cos * middle_x + sin * middle_y
  offset_y = middle_y - sin * middle_x - cos * middle_y
  warps = {
    'Rotate': (cos, -sin, offset_x, sin, cos, offset_y),  # anticlockwise
    'ShearX': (1, strength.shear, 0, 0, 1, 0),
    'ShearY': (1, 0, 0, strength.shear, 1, 0),
    'TranslateX': (1, 0, strength.translate_x, 0, 1, 0),
    'TranslateY': (1, 0, 0, 0, 1, strength.translate_y),
  }
  selected = jnp.asarray([1, 0, 0, 0, 1, 0], jnp.float32)
  for name, warp in warps.items():
    selected = jnp.where(_is(op, name), jnp.stack([jnp.float32(w) for w in warp]), selected)
  return selected


def _source(clip: jax.Array, coefficients: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Source x and y [H, W] float32 of every pixel, and whether [H, W, 1] they are in the frame."""
  height, width = clip.shape[1:3]
  a, b, c, d, e, f = coefficients
  y, x = jnp.meshgrid(jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing='ij')
  x, y = a * x + b * y + c, d * x + e * y + f
  inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
  return x, y, inside[:, :, None]


def _at(clip: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
  """Pixels [T, H, W, 3] of every frame at whole [H, W] rows and columns, cut to the frame."""
  frames, height, width, channels = clip.shape
  row = jnp.clip(row.astype(jnp.int32), 0, height - 1)
  column = jnp.clip(column.astype(jnp.int32), 0, width - 1)
  flat = clip.reshape(frames, height * width, channels)  # [T, H*W, 3]
  return jnp.take(flat, row * width + column, axis=1)


def _warp_nearest(clip: jax.Array, coefficients: jax.Array) -> jax.Array:
  """Nearest-pixel warp of every frame, grey where the source is outside (PIL's transform)."""
  x, y, inside = _source(clip, coefficients)
  return jnp.where(inside, _at(clip, jnp.floor(y), jnp.floor(x)), jnp.uint8(_FILL))


def _warp_bilinear(clip: jax.Array, coefficients: jax.Array) -> jax.Array:
  """Bilinear warp of every frame, grey where the source is outside (PIL's transform)."""
  x, y, inside = _source(clip, coefficients)
  x, y = x - 0.5, y - 0.5
  column, row = jnp.floor(x), jnp.floor(y)
  right, down = (x - column)[:, :, None], (y - row)[:, :, None]  # [H, W, 1] in [0, 1)

  def along_row(row: jax.Array) -> jax.Array:
    left_pixel = _at(clip, row, column).astype(jnp.float32)
    return left_pixel + right * (_at(clip, row, column + 1) - left_pixel)

  upper = along_row(row)
  value = upper + down * (along_row(row + 1) - upper)
  return jnp.where(inside, value.astype(jnp.uint8), jnp.uint8(_FILL))


# --- Stage 5: one rectangle ---


def _cut_out(clip: jax.Array, centre: jax.Array, half: jax.Array) -> jax.Array:
  """Fills a square of side 2 `half` pixels around `centre` with grey, in every frame
  (arXiv:1708.04552).

  DEVIATION: Scenic's copy loses the fill value on the way and leaves black.
  """
  rows, columns = (
    (jnp.arange(size) >= middle - half) & (jnp.arange(size) < middle + half)
    for size, middle in zip(clip.shape[1:3], centre)
  )
  mask = rows[:, None, None] & columns[None, :, None]  # [H, W, 1]
  return jnp.where(mask, jnp.uint8(_FILL), clip)
