"""RandAugment on the device: one draw per clip, the same operation on every frame.

Of the sixteen operations at most one acts in a layer, so a layer is five cheap stages, each the
identity unless its operation was drawn: a look-up table per channel, a blend with grey, a blend
with a smoothed clip, one affine warp and one rectangle. Under `vmap` a switch would compute all
sixteen.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from errors import ConfigError

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

_FILL = 128  # grey where the warp or the cutout leaves nothing
_MAX_LEVEL = 10.0  # the magnitude at which AutoAugment's ranges end


def check_range(owner: str, field: str, value: float, low: float, high: float) -> None:
  """Raises ConfigError unless `low <= value <= high`; `owner` and `field` name the place."""
  number = isinstance(value, int | float) and not isinstance(value, bool)
  if not number or not low <= value <= high:
    raise ConfigError(f'{owner}.{field}: expected a number in [{low}, {high}], got {value!r}')


@dataclasses.dataclass(frozen=True)
class RandAugmentConfig:
  """RandAugment (arXiv:1909.13719); ViViT Table 7: 2 layers of magnitude 15 (EPIC), 20 (SSv2).

  `num_layers` operations, 0 (off) to 10, follow each other, each drawn uniformly from `OPS`.
  `magnitude` in [0, 30] is shared by all of them. `cutout_const` (half the side of the square) and
  `translate_const` are in pixels at magnitude 10; 40 and 100 are the public TensorFlow values,
  meant for 224 pixels. Raises ConfigError.
  """

  num_layers: int = 0
  magnitude: float = 10.0
  cutout_const: float = 40.0
  translate_const: float = 100.0

  def __post_init__(self) -> None:
    name = type(self).__name__
    if not isinstance(self.num_layers, int):
      raise ConfigError(f'{name}.num_layers: expected an integer, got {self.num_layers!r}')
    check_range(name, 'num_layers', self.num_layers, 0, 10)
    check_range(name, 'magnitude', self.magnitude, 0, 30)
    check_range(name, 'cutout_const', self.cutout_const, 0, 4096)
    check_range(name, 'translate_const', self.translate_const, 0, 4096)


@dataclasses.dataclass(frozen=True)
class Strengths:
  """What a magnitude means to each operation, on the public TensorFlow implementation's scale.

  On that scale Posterize and Solarize weaken as the magnitude grows: they keep more bits, and
  invert fewer pixels.
  """

  enhance: float  # factor of Color, Contrast, Brightness, Sharpness; 1 changes nothing
  degrees: float
  shear: float  # pixels per pixel
  translate: float  # pixels
  bits: int  # [1, 8] bits kept by Posterize
  threshold: int  # [0, 256] Solarize inverts values from here on
  addition: int  # SolarizeAdd
  cutout: int  # pixels, half the side


def strengths(config: RandAugmentConfig) -> Strengths:
  """Maps the magnitude to the strength of every operation.

  DEVIATION: Posterize is kept within 1..8 bits and Solarize's threshold within 0..256, so from
  magnitude 10 on Solarize changes nothing. In Scenic's copy the threshold wraps at 256: magnitude
  20 inverts every pixel.
  """
  level = config.magnitude / _MAX_LEVEL
  return Strengths(
    enhance=1.8 * level + 0.1,
    degrees=30.0 * level,
    shear=0.3 * level,
    translate=config.translate_const * level,
    bits=min(max(int(4 * level), 1), 8),
    threshold=min(int(256 * level), 256),
    addition=int(110 * level),
    cutout=int(config.cutout_const * level),
  )


def apply_policy(key: jax.Array, clip: jax.Array, config: RandAugmentConfig) -> jax.Array:
  """Applies `config.num_layers` operations drawn from `key` to a clip, all its frames alike.

  Args:
    key: one random key.
    clip: [T, H, W, 3] uint8, or float in [0, 255], which is rounded: the operations work on bytes.
    config: how many operations, how strong.

  Returns:
    [T, H, W, 3] float32 whole numbers in [0, 255]. Source: arXiv:1909.13719, section 3, and ViViT
    appendix A.1.
  """
  if clip.dtype != jnp.uint8:
    clip = jnp.clip(jnp.round(clip), 0, 255).astype(jnp.uint8)
  size = jnp.asarray(clip.shape[1:3])
  for layer_key in jax.random.split(key, config.num_layers):
    op_key, sign_key, centre_key = jax.random.split(layer_key, 3)
    op = jax.random.randint(op_key, (), 0, len(OPS))
    sign = jnp.where(jax.random.bernoulli(sign_key), 1.0, -1.0)
    centre = jax.random.randint(centre_key, (2,), 0, size)
    clip = apply_op(clip, op, sign, centre, strengths(config))
  return clip.astype(jnp.float32)


def apply_op(
  clip: jax.Array, op: jax.Array, sign: jax.Array, centre: jax.Array, strength: Strengths
) -> jax.Array:
  """Applies the operation `OPS[op]` to a clip.

  Args:
    clip: [T, H, W, 3] uint8.
    op: [] int32 index into `OPS`; may be traced.
    sign: [] float32, -1 or 1: the direction of rotation, shear and translation.
    centre: [2] int32 row and column of the middle of Cutout's square.
    strength: of every operation.

  Returns:
    [T, H, W, 3] uint8. Statistics (AutoContrast, Equalize, Contrast) are over the whole clip.
  """
  clip = _look_up(clip, _select_table(clip, op, strength))
  clip = _blend(_grey(clip), clip, jnp.where(_is(op, 'Color'), strength.enhance, 1.0))
  clip = _blend(_smooth(clip), clip, jnp.where(_is(op, 'Sharpness'), strength.enhance, 1.0))
  clip = _warp(clip, _warp_coefficients(clip, op, sign, strength))
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
  solarized = np.where(ramp < strength.threshold, ramp, 255 - ramp)
  tables = {
    'AutoContrast': _autocontrast_table(histogram),
    'Equalize': _equalize_table(histogram),
    'Invert': 255 - ramp,
    'Posterize': ramp & ~(2 ** (8 - strength.bits) - 1),
    'Solarize': solarized,
    'Contrast': _blend(_mean_grey(clip), jnp.asarray(ramp), strength.enhance),
    'Brightness': _blend(jnp.zeros(256), jnp.asarray(ramp), strength.enhance),
    'SolarizeAdd': np.where(ramp < 128, np.minimum(ramp + strength.addition, 255), ramp),
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


def _warp_coefficients(
  clip: jax.Array, op: jax.Array, sign: jax.Array, strength: Strengths
) -> jax.Array:
  """a..f [6] float32: source x = a x + b y + c, source y = d x + e y + f, of pixel centres."""
  middle_y, middle_x = clip.shape[1] / 2, clip.shape[2] / 2
  angle = math.radians(strength.degrees) * sign
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  offset_x = middle_x - cos * middle_x + sin * middle_y
  offset_y = middle_y - sin * middle_x - cos * middle_y
  warps = {
    'Rotate': (cos, -sin, offset_x, sin, cos, offset_y),  # anticlockwise
    'ShearX': (1, sign * strength.shear, 0, 0, 1, 0),
    'ShearY': (1, 0, 0, sign * strength.shear, 1, 0),
    'TranslateX': (1, 0, sign * strength.translate, 0, 1, 0),
    'TranslateY': (1, 0, 0, 0, 1, sign * strength.translate),
  }
  selected = jnp.asarray([1, 0, 0, 0, 1, 0], jnp.float32)
  for name, warp in warps.items():
    selected = jnp.where(_is(op, name), jnp.stack([jnp.float32(w) for w in warp]), selected)
  return selected


def _warp(clip: jax.Array, coefficients: jax.Array) -> jax.Array:
  """Nearest-pixel warp of every frame, grey where the source is outside (PIL's transform)."""
  frames, height, width, _ = clip.shape
  a, b, c, d, e, f = coefficients
  y, x = jnp.meshgrid(jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing='ij')
  source_x, source_y = a * x + b * y + c, d * x + e * y + f  # [H, W]
  inside = (source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height)
  column = jnp.clip(jnp.floor(source_x).astype(jnp.int32), 0, width - 1)
  row = jnp.clip(jnp.floor(source_y).astype(jnp.int32), 0, height - 1)
  flat = clip.reshape(frames, height * width, 3)  # [T, H*W, 3]
  warped = jnp.take(flat, row * width + column, axis=1)  # [T, H, W, 3]
  return jnp.where(inside[:, :, None], warped, jnp.uint8(_FILL))


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
