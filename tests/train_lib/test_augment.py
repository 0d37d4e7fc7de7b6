"""Colour jitter, mixup and normalisation, and that each clip of a batch has one draw of its own."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errors import ConfigError
from train_lib import augment as aug
from train_lib.augment import ColorJitterConfig, MixupConfig
from train_lib.randaugment import RandAugmentConfig

JITTER = ColorJitterConfig(prob=1.0, grayscale_prob=0.0)
OFF = ColorJitterConfig()
POLICY = RandAugmentConfig(2, 7.0, cutout_const=4, translate_const=6)
NO_POLICY = RandAugmentConfig()

run = jax.jit(aug.augment, static_argnums=(2, 3))


def random_pixels(*shape: int) -> np.ndarray:
  return np.random.default_rng(5).integers(0, 256, (*shape, 3)).astype(np.uint8)


def still_batch(batch: int = 4) -> np.ndarray:
  """The same frame everywhere: [B, 3, 12, 14, 3] uint8."""
  return np.broadcast_to(random_pixels(12, 14), (batch, 3, 12, 14, 3)).copy()


def test_off_returns_the_input_as_float():
  inputs = still_batch()
  out = aug.augment(jax.random.key(0), inputs, OFF, NO_POLICY)
  assert out.dtype == jnp.float32
  np.testing.assert_array_equal(out, inputs)


def test_probability_zero_leaves_colours():
  clip = random_pixels(2, 6, 7)
  drop = ColorJitterConfig(prob=0.0, grayscale_prob=1.0)
  out = aug.jitter_colors(jax.random.key(0), clip, drop)
  expected = clip.astype(np.float32) @ np.float32([0.2989, 0.5870, 0.1140])
  np.testing.assert_allclose(out, np.repeat(expected[..., None], 3, -1), rtol=1e-5)


@pytest.mark.parametrize(
  ('jitter', 'policy'), [(JITTER, NO_POLICY), (OFF, POLICY), (JITTER, POLICY)]
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
  eager = aug.augment(key, inputs, JITTER, NO_POLICY)
  jitted = run(key, inputs, JITTER, NO_POLICY)
  np.testing.assert_allclose(eager, jitted, atol=1e-3)


def test_an_example_does_not_depend_on_the_others():
  inputs, key = still_batch(4), jax.random.key(6)
  out = run(key, inputs, JITTER, POLICY)
  inputs[1:] = 0
  np.testing.assert_array_equal(run(key, inputs, JITTER, POLICY)[0], out[0])


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


# --- Mixup and normalisation ---


def test_mixup_uses_one_weight_and_the_reversed_batch():
  rng = np.random.default_rng(0)
  inputs = rng.normal(size=(5, 2, 3, 3, 3)).astype(np.float32)
  labels = {'verb': np.eye(5, dtype=np.float32), 'noun': np.eye(7, dtype=np.int32)[:5]}
  mixed, targets = aug.mixup(jax.random.key(1), inputs, labels, 0.3)
  weight = float(targets['verb'][0, 0])
  assert 0 < weight < 1
  np.testing.assert_allclose(mixed, weight * inputs + (1 - weight) * inputs[::-1], atol=1e-5)
  for task, label in labels.items():
    expected = weight * label + (1 - weight) * label[::-1]
    np.testing.assert_allclose(targets[task], expected, atol=1e-6)
    np.testing.assert_allclose(targets[task].sum(-1), 1, atol=1e-6)
  other = aug.mixup(jax.random.key(2), inputs, labels, 0.3)[1]
  assert float(other['verb'][0, 0]) != weight


def test_mixup_weight_is_beta():
  labels = {'a': np.eye(2, dtype=np.float32)}
  keys = jax.random.split(jax.random.key(0), 4000)
  draw = jax.vmap(lambda k: aug.mixup(k, jnp.zeros((2, 1)), labels, 0.3)[1]['a'][0, 0])
  weights = np.asarray(draw(keys))
  assert np.all((weights >= 0) & (weights <= 1))
  assert weights.mean() == pytest.approx(0.5, abs=0.03)
  assert weights.var() == pytest.approx(1 / (4 * (2 * 0.3 + 1)), abs=0.01)


def test_mixup_keeps_the_dtype_of_the_inputs():
  inputs = jnp.ones((2, 4), jnp.bfloat16)
  mixed, targets = aug.mixup(jax.random.key(0), inputs, {'a': jnp.eye(2, dtype=jnp.bfloat16)}, 1.0)
  assert mixed.dtype == jnp.bfloat16
  assert targets['a'].dtype == jnp.float32


def test_normalize():
  inputs = np.uint8([[[0, 255, 51]]])
  np.testing.assert_allclose(aug.normalize(inputs, 0.5, 0.5), [[[-1, 1, -0.6]]], atol=1e-6)
  out = aug.normalize(inputs, (0.0, 0.5, 0.1), (1.0, 0.25, 0.2))
  np.testing.assert_allclose(out, [[[0, 2, 0.5]]], atol=1e-6)
  assert out.dtype == jnp.float32


@pytest.mark.parametrize(
  ('kind', 'field', 'value'),
  [
    (ColorJitterConfig, 'prob', 1.1),
    (ColorJitterConfig, 'hue', 0.6),
    (ColorJitterConfig, 'brightness', 32),
    (ColorJitterConfig, 'grayscale_prob', -0.1),
    (MixupConfig, 'alpha', -1),
    (MixupConfig, 'alpha', True),
  ],
)
def test_config_names_the_field(kind, field, value):
  with pytest.raises(ConfigError, match=rf'{kind.__name__}\.{field}: expected .* got {value!r}'):
    kind(**{field: value})
