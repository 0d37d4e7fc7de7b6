"""Random erasing of normalised clips, inside the compiled train step."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from errors import ConfigError, check_integer, check_range

MODES = ('pixel', 'rand', 'const')


@dataclasses.dataclass(frozen=True)
class RandomErasingConfig:
  """Random erasing (arXiv:1708.04896), with the modes and the count of timm.

  MViTv2 and UniFormerV2 use probability 0.25, mode 'pixel' and one rectangle.

  Attributes:
    prob: [0, 1] probability that a clip loses something; 0 is off.
    mode: What replaces it: `'pixel'`, normal noise in every pixel; `'rand'`, one normal colour a
      frame; `'const'`, zeros, which is the mean colour of normalised pixels.
    area: Range within (0, 1] of the erased fraction of the frame, all rectangles together.
    aspect: Range of a rectangle's height over its width, positive; drawn log-uniformly.
    count: At most so many rectangles, 1 to 10; their number is drawn uniformly from 1 on.

  Raises:
    ConfigError: A value outside its range.
  """

  prob: float = 0.0
  mode: Literal['pixel', 'rand', 'const'] = 'pixel'
  area: tuple[float, float] = (0.02, 1 / 3)
  aspect: tuple[float, float] = (0.3, 1 / 0.3)
  count: int = 1

  def __post_init__(self) -> None:
    name = type(self).__name__
    check_range(name, 'prob', self.prob, 0, 1)
    check_integer(name, 'count', self.count, 1, 10)
    if self.mode not in MODES:
      raise ConfigError(f'{name}.mode: expected one of {list(MODES)}, got {self.mode!r}')
    for field, limit in (('area', 1.0), ('aspect', 100.0)):
      low, high = getattr(self, field)
      if not 0 < low <= high <= limit:
        raise ConfigError(
          f'{name}.{field}: expected (low, high) with 0 < low <= high <= {limit}, '
          f'got {(low, high)!r}'
        )


def erase(keys: jax.Array, video: jax.Array, config: RandomErasingConfig) -> jax.Array:
  """Erases rectangles of each clip, the same in all its frames, with a key of its own.

  Args:
    keys: [B] random keys.
    video: [B, T, H, W, 3] float, normalised.
    config: not compiled in when `prob` is 0.

  Returns:
    [B, T, H, W, 3] in the dtype of `video`. Noise is drawn anew for each frame, as in SlowFast.
  """
  if not config.prob:
    return video
  return jax.vmap(lambda key, clip: _erase_clip(key, clip, config))(keys, video)


def _erase_clip(key: jax.Array, clip: jax.Array, config: RandomErasingConfig) -> jax.Array:
  use_key, count_key, box_key, fill_key = jax.random.split(key, 4)
  number = jax.random.randint(count_key, (), 1, config.count + 1)
  boxes = jnp.stack(
    [_draw_box(k, clip.shape[1:3], number, config) for k in jax.random.split(box_key, config.count)]
  )  # [count, H, W]
  in_use = jnp.arange(config.count) < number
  mask = jnp.any(boxes & in_use[:, None, None], axis=0)
  mask &= jax.random.bernoulli(use_key, config.prob)
  return jnp.where(mask[:, :, None], _fill(fill_key, clip, config.mode), clip)


def _draw_box(
  key: jax.Array, size: tuple[int, ...], number: jax.Array, config: RandomErasingConfig
) -> jax.Array:
  """Draws one of `number` rectangles, as a mask [H, W] bool.

  DEVIATION: the paper and timm draw area and aspect again (timm: up to 10 times) until the
  rectangle fits. Here the aspect is drawn among those that fit the area, so one draw is enough and
  every area is equally likely. On square frames, up to a third of the area, that is the same but
  for aspects beyond 1:3.
  """
  height, width = size
  area_key, aspect_key, top_key, left_key = jax.random.split(key, 4)
  low, high = config.area
  area = jax.random.uniform(area_key, (), minval=low, maxval=high) * height * width / number
  log_low, log_high = (
    jnp.log(jnp.clip(aspect, area / width**2, height**2 / area)) for aspect in config.aspect
  )
  aspect = jnp.exp(log_low + (log_high - log_low) * jax.random.uniform(aspect_key))
  rows = _draw_span(top_key, jnp.sqrt(area * aspect), height)
  columns = _draw_span(left_key, jnp.sqrt(area / aspect), width)
  return rows[:, None] & columns[None, :]


def _draw_span(key: jax.Array, length: jax.Array, size: int) -> jax.Array:
  """Places a span of about `length` pixels, at least one, uniformly in a side, as a mask [size]."""
  length = jnp.clip(jnp.round(length), 1, size).astype(jnp.int32)
  start = jax.random.randint(key, (), 0, size - length + 1)
  place = jnp.arange(size)
  return (place >= start) & (place < start + length)


def _fill(key: jax.Array, clip: jax.Array, mode: str) -> jax.Array:
  frames, _, _, channels = clip.shape
  if mode == 'const':
    return jnp.zeros((), clip.dtype)
  shape = clip.shape if mode == 'pixel' else (frames, 1, 1, channels)
  return jax.random.normal(key, shape, clip.dtype)
