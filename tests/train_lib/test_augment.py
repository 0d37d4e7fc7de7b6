"""Colour jitter and normalisation, and that each clip of a batch has one draw of its own."""

import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from datasets.color import ColorJitterConfig
from errors import ConfigError
from train_lib import augment as aug
from train_lib.randaugment import RandAugmentConfig

JITTER = ColorJitterConfig(prob=1.0, grayscale_prob=0.0)
OFF = ColorJitterConfig()
POLICY = RandAugmentConfig(2, 7.0, cutout_const=4, translate_const=6)
INCREASING = RandAugmentConfig(2, 7.0, 'increasing', magnitude_std=0.5)
NO_POLICY = RandAugmentConfig()


@functools.partial(jax.jit, static_argnums=(2, 3))
def run(key, inputs, jitter, policy):
  keys = aug.example_keys(key, jnp.arange(len(inputs)))
  return aug.augment(keys, inputs, jitter, policy)


def random_pixels(*shape: int) -> np.ndarray:
  return np.random.default_rng(5).integers(0, 256, (*shape, 3)).astype(np.uint8)


def still_batch(batch: int = 4) -> np.ndarray:
  """The same frame everywhere: [B, 3, 12, 14, 3] uint8."""
  return np.broadcast_to(random_pixels(12, 14), (batch, 3, 12, 14, 3)).copy()


def test_off_returns_the_input_as_float():
  inputs = still_batch()
  out = aug.augment(jax.random.split(jax.random.key(0), 4), inputs, OFF, NO_POLICY)
  assert out.dtype == jnp.float32
  np.testing.assert_array_equal(out, inputs)


def test_probability_zero_leaves_colours():
  clip = random_pixels(2, 6, 7)
  drop = ColorJitterConfig(prob=0.0, grayscale_prob=1.0)
  out = aug.jitter_colors(jax.random.key(0), clip, drop)
  expected = clip.astype(np.float32) @ np.float32([0.2989, 0.5870, 0.1140])
  np.testing.assert_allclose(out, np.repeat(expected[..., None], 3, -1), rtol=1e-5)


@pytest.mark.parametrize(
  ('jitter', 'policy'), [(JITTER, NO_POLICY), (OFF, POLICY), (JITTER, INCREASING)]
)
def test_one_draw_per_clip(jitter, policy):
  inputs, key = still_batch(6), jax.random.key(2)
  out = np.asarray(run(key, inputs, jitter, policy))
  assert out.dtype == np.float32 and out.min() >= 0 and out.max() <= 255
  np.testing.assert_array_equal(out, np.repeat(out[:, :1], 3, axis=1))
  different = {x.tobytes() for x in out}
  assert len(different) >= 5  # two clips may draw the same operations
  np.testing.assert_array_equal(run(key, inputs, jitter, policy), out)
  assert np.any(np.asarray(run(jax.random.key(3), inputs, jitter, policy)) != out)


def test_jit_changes_nothing():
  inputs, key = still_batch(2), jax.random.key(4)
  keys = aug.example_keys(key, jnp.arange(2))
  eager = aug.augment(keys, inputs, JITTER, NO_POLICY)
  jitted = run(key, inputs, JITTER, NO_POLICY)
  np.testing.assert_allclose(eager, jitted, atol=1e-3)


def test_an_example_does_not_depend_on_the_others_nor_on_their_number():
  inputs, key = still_batch(4), jax.random.key(6)
  out = run(key, inputs, JITTER, POLICY)
  inputs[2:] = 0
  np.testing.assert_array_equal(run(key, inputs, JITTER, POLICY)[:2], out[:2])
  np.testing.assert_array_equal(run(key, inputs[:2], JITTER, POLICY), out[:2])


def test_keys_follow_the_position():
  key = jax.random.key(0)
  data = np.asarray(jax.random.key_data(aug.example_keys(key, jnp.arange(6))))
  assert len({row.tobytes() for row in data}) == 6
  dealt = jax.random.key_data(aug.example_keys(key, jnp.asarray([5, 0, 3])))
  np.testing.assert_array_equal(dealt, data[[5, 0, 3]])


# --- Colour operations ---


def in_hsv(pixels: np.ndarray, change) -> np.ndarray:
  """Applies `change(h, s, v)` to every pixel by the standard library's conversions."""
  flat = pixels.reshape(-1, 3) / 255.0
  changed = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*p))) for p in flat]
  return np.array(changed).reshape(pixels.shape) * 255


@pytest.mark.parametrize('delta', [-0.2, 0.0, 0.13, 0.5])
def test_hue_is_hsv(delta):
  pixels = np.concatenate([random_pixels(5, 8), np.full((1, 8, 3), 90, np.uint8)])
  expected = in_hsv(pixels, lambda h, s, v: ((h + delta) % 1, s, v))
  actual = aug.shift_hue(jnp.asarray(pixels, jnp.float32), delta)
  np.testing.assert_allclose(actual, expected, atol=0.01)


@pytest.mark.parametrize('factor', [0.0, 0.6, 1.4, 3.0])
def test_saturation_is_hsv(factor):
  pixels = np.concatenate([random_pixels(5, 8), np.zeros((1, 8, 3), np.uint8)])
  expected = in_hsv(pixels, lambda h, s, v: (h, min(s * factor, 1), v))
  actual = aug.scale_saturation(jnp.asarray(pixels, jnp.float32), factor)
  np.testing.assert_allclose(actual, expected, atol=0.01)


def test_contrast_scales_around_the_clips_channel_means():
  clip = random_pixels(3, 4, 5).astype(np.float64)
  mean = clip.mean(axis=(0, 1, 2))
  actual = aug.scale_contrast(jnp.asarray(clip, jnp.float32), 1.4)
  np.testing.assert_allclose(actual, mean + 1.4 * (clip - mean), atol=0.01)


def test_brightness_shift_is_within_its_range():
  config = ColorJitterConfig(prob=1.0, brightness=0.1, contrast=0, saturation=0, hue=0)
  clip = np.full((1, 2, 2, 3), 128, np.uint8)
  keys = jax.random.split(jax.random.key(0), 200)
  out = np.asarray(jax.jit(jax.vmap(lambda k: aug.jitter_colors(k, clip, config)))(keys))
  shifts = out[:, 0, 0, 0, 0] - 128
  assert np.abs(shifts).max() <= 25.5 + 1e-3
  assert shifts.min() < -20 and shifts.max() > 20
  np.testing.assert_allclose(out, np.broadcast_to(out[:, :1, :1, :1, :1], out.shape), atol=1e-3)


def test_a_clip_is_distorted_with_its_probability():
  config = ColorJitterConfig(prob=0.8, grayscale_prob=0.1)
  clip = random_pixels(1, 3, 3)
  keys = jax.random.split(jax.random.key(0), 2000)
  out = np.asarray(jax.jit(jax.vmap(lambda k: aug.jitter_colors(k, clip, config)))(keys))
  unchanged = np.mean(np.all(out == clip, axis=(1, 2, 3, 4)))
  grey = np.mean(np.all(np.ptp(out, axis=-1) == 0, axis=(1, 2, 3)))
  assert unchanged == pytest.approx(0.2 * 0.9, abs=0.03)
  assert grey == pytest.approx(0.1, abs=0.03)


# --- Normalisation and ranges ---


def test_normalize():
  inputs = np.uint8([[[0, 255, 51]]])
  np.testing.assert_allclose(aug.normalize(inputs, 0.5, 0.5), [[[-1, 1, -0.6]]], atol=1e-6)
  out = aug.normalize(inputs, (0.0, 0.5, 0.1), (1.0, 0.25, 0.2))
  np.testing.assert_allclose(out, [[[0, 2, 0.5]]], atol=1e-6)
  assert out.dtype == jnp.float32


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('prob', 1.1),
    ('hue', 0.6),
    ('brightness', 32),
    ('grayscale_prob', -0.1),
    ('prob', True),
  ],
)
def test_config_names_the_field(field, value):
  with pytest.raises(ConfigError, match=rf'ColorJitterConfig\.{field}: expected .* got {value!r}'):
    ColorJitterConfig(**{field: value})
