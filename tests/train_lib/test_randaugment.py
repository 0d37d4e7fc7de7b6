"""RandAugment's operations against Pillow, or numpy where Pillow has no such operation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from errors import ConfigError
from train_lib import randaugment
from train_lib.randaugment import OPS, RandAugmentConfig

HEIGHT, WIDTH = 20, 24
CONFIG = RandAugmentConfig(2, 7.0, cutout_const=8, translate_const=6)
STRENGTH = randaugment.strengths(CONFIG)
CENTRE = (5, 18)


@functools.cache
def random_frame() -> np.ndarray:
  """A frame with channels of different ranges, so that stretching shows."""
  rng = np.random.default_rng(3)
  return np.stack(
    [rng.integers(low, high, (HEIGHT, WIDTH)) for low, high in ((30, 200), (90, 140), (5, 250))], -1
  ).astype(np.uint8)


@functools.cache
def compiled_op():
  return jax.jit(functools.partial(randaugment.apply_op, strength=STRENGTH))


def apply(name: str, clip: np.ndarray, sign: float = 1.0) -> np.ndarray:
  return np.asarray(compiled_op()(clip, OPS.index(name), sign, jnp.asarray(CENTRE)))


def affine(image: Image.Image, *coefficients: float) -> Image.Image:
  return image.transform(
    image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.NEAREST, fillcolor=(128,) * 3
  )


def cutout(image: Image.Image) -> np.ndarray:
  pixels, half = np.array(image), STRENGTH.cutout
  top, left = (max(0, c - half) for c in CENTRE)
  pixels[top : CENTRE[0] + half, left : CENTRE[1] + half] = 128
  return pixels


def solarize_add(image: Image.Image) -> np.ndarray:
  pixels = np.array(image).astype(int)
  return np.where(pixels < 128, np.minimum(pixels + STRENGTH.addition, 255), pixels)


EXACT = {
  'Identity': lambda im, s: im,
  'Equalize': lambda im, s: ImageOps.equalize(im),
  'Invert': lambda im, s: ImageOps.invert(im),
  'Posterize': lambda im, s: ImageOps.posterize(im, STRENGTH.bits),
  'Solarize': lambda im, s: ImageOps.solarize(im, STRENGTH.threshold),
  'SolarizeAdd': lambda im, s: solarize_add(im),
  'Cutout': lambda im, s: cutout(im),
  'ShearX': lambda im, s: affine(im, 1, s * STRENGTH.shear, 0, 0, 1, 0),
  'ShearY': lambda im, s: affine(im, 1, 0, 0, s * STRENGTH.shear, 1, 0),
  'TranslateX': lambda im, s: affine(im, 1, 0, s * STRENGTH.translate, 0, 1, 0),
  'TranslateY': lambda im, s: affine(im, 1, 0, 0, 0, 1, s * STRENGTH.translate),
  'Rotate': lambda im, s: im.rotate(s * STRENGTH.degrees, fillcolor=(128,) * 3),
}
# Pillow computes these with other roundings, so that a value may differ by one.
WITHIN_ONE = {
  'AutoContrast': lambda im: ImageOps.autocontrast(im),
  'Color': lambda im: ImageEnhance.Color(im).enhance(STRENGTH.enhance),
  'Contrast': lambda im: ImageEnhance.Contrast(im).enhance(STRENGTH.enhance),
  'Brightness': lambda im: ImageEnhance.Brightness(im).enhance(STRENGTH.enhance),
  'Sharpness': lambda im: ImageEnhance.Sharpness(im).enhance(STRENGTH.enhance),
}


def test_every_op_has_a_reference():
  assert set(EXACT) | set(WITHIN_ONE) == set(OPS)
  assert len(OPS) == 17


@pytest.mark.parametrize('sign', [1.0, -1.0])
@pytest.mark.parametrize('name', EXACT)
def test_op_equals_pillow(name, sign):
  frame = random_frame()
  expected = np.asarray(EXACT[name](Image.fromarray(frame), sign))
  actual = apply(name, frame[None], sign)[0]
  # A source coordinate that falls on a pixel's edge may round to either side.
  different = np.mean(np.any(actual != expected, axis=-1))
  assert different <= (0.01 if name in ('Rotate', 'ShearX', 'ShearY') else 0.0)
  assert name == 'Identity' or np.any(actual != frame)


@pytest.mark.parametrize('name', WITHIN_ONE)
def test_op_equals_pillow_within_one(name):
  frame = random_frame()
  expected = np.asarray(WITHIN_ONE[name](Image.fromarray(frame))).astype(int)
  difference = np.abs(apply(name, frame[None])[0].astype(int) - expected)
  assert difference.max() <= 1
  assert np.mean(difference > 0) < 0.02
  assert np.any(expected != frame)


def test_statistics_are_over_the_whole_clip():
  clip = np.zeros((2, HEIGHT, WIDTH, 3), np.uint8)
  clip[0], clip[1] = 50, 100
  np.testing.assert_array_equal(apply('AutoContrast', clip)[:, 0, 0, 0], [0, 255])
  # The clip's mean is 75; each frame's own would leave both frames as they are.
  factor = STRENGTH.enhance
  expected = [int(75 - 25 * factor), int(75 + 25 * factor)]
  np.testing.assert_array_equal(apply('Contrast', clip)[:, 0, 0, 0], expected)
  frame = random_frame()
  tall = Image.fromarray(np.concatenate([frame, frame // 2]))
  expected = np.asarray(ImageOps.equalize(tall)).reshape(2, HEIGHT, WIDTH, 3)
  np.testing.assert_array_equal(apply('Equalize', np.stack([frame, frame // 2])), expected)


@pytest.mark.parametrize('name', ['AutoContrast', 'Equalize'])
def test_flat_clip_is_unchanged(name):
  clip = np.full((1, HEIGHT, WIDTH, 3), 77, np.uint8)
  np.testing.assert_array_equal(apply(name, clip), clip)


@pytest.mark.parametrize('name', OPS)
def test_frames_are_treated_alike(name):
  frame = random_frame()
  out = apply(name, np.stack([frame] * 3))
  np.testing.assert_array_equal(out[0], out[1])
  np.testing.assert_array_equal(out[0], out[2])


def test_histograms_of_both_backends_are_numpys():
  values = np.random.default_rng(0).integers(0, 256, (500, 3)).astype(np.uint8)
  expected = np.stack([np.bincount(values[:, c], minlength=256) for c in range(3)])
  np.testing.assert_array_equal(randaugment.histogram_by_scatter(values), expected)
  np.testing.assert_array_equal(randaugment.histogram_by_comparison(jnp.asarray(values)), expected)


@pytest.mark.parametrize(
  ('magnitude', 'expected'),
  [
    (0, (0.1, 0, 0, 0, 1, 0, 0, 0)),
    (10, (1.9, 30, 0.3, 100, 4, 256, 110, 40)),
    (15, (2.8, 45, 0.45, 150, 6, 256, 165, 60)),
    (20, (3.7, 60, 0.6, 200, 8, 256, 220, 80)),
    (30, (5.5, 90, 0.9, 300, 8, 256, 330, 120)),
  ],
)
def test_strengths(magnitude, expected):
  actual = dataclasses.astuple(randaugment.strengths(RandAugmentConfig(2, magnitude)))
  assert actual == pytest.approx(expected)


def test_solarize_at_ssv2s_magnitude_leaves_the_clip():
  strength = randaugment.strengths(RandAugmentConfig(2, 20.0))
  clip = random_frame()[None]
  run = jax.jit(functools.partial(randaugment.apply_op, strength=strength))
  out = run(clip, OPS.index('Solarize'), 1.0, jnp.asarray(CENTRE))
  np.testing.assert_array_equal(out, clip)


def test_draws_every_op_and_chains_the_layers():
  clip = np.stack([random_frame()] * 2)
  keys = jax.random.split(jax.random.key(0), 96)
  one = RandAugmentConfig(1, 7.0, 8, 6)
  out = np.asarray(
    jax.jit(jax.vmap(lambda k: randaugment.apply_policy(k, jnp.asarray(clip), one)))(keys)
  )
  assert out.dtype == np.float32 and out.shape == (96, 2, HEIGHT, WIDTH, 3)
  np.testing.assert_array_equal(out[:, 0], out[:, 1])
  possible = {
    apply(name, clip, sign).tobytes() for name in OPS if name != 'Cutout' for sign in (1, -1)
  }
  drawn = {x.astype(np.uint8).tobytes() for x in out}
  # Translations, shears and rotations count twice; Cutout's places are not listed.
  assert len(possible) == 16 + 5
  assert len(possible & drawn) >= 18
  cut_outs = [x for x in out if x.astype(np.uint8).tobytes() not in possible]
  assert 1 <= len(cut_outs) <= 16
  assert all(np.all((x == clip) | (x == 128)) for x in cut_outs)


def test_float_input_is_rounded_and_jit_changes_nothing():
  key, config = jax.random.key(1), RandAugmentConfig(1, 7.0, 8, 6)
  run = jax.jit(randaugment.apply_policy, static_argnums=2)
  clip = random_frame()[None]
  noisy = jnp.asarray(clip, jnp.float32) + 0.4
  expected = randaugment.apply_policy(key, jnp.asarray(clip), config)
  np.testing.assert_array_equal(run(key, noisy, config), expected)


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('num_layers', -1),
    ('num_layers', 1.5),
    ('magnitude', 31),
    ('magnitude', 'high'),
    ('cutout_const', -1),
    ('translate_const', float('nan')),
  ],
)
def test_config_names_the_field(field, value):
  with pytest.raises(ConfigError, match=rf'RandAugmentConfig\.{field}: expected .* got {value!r}'):
    RandAugmentConfig(**{field: value})
