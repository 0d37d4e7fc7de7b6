"""RandAugment's operations against Pillow, or numpy where Pillow has no such operation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from errors import ConfigError
from train_lib import randaugment
from train_lib.randaugment import OPS, Draw, RandAugmentConfig

HEIGHT, WIDTH = 20, 24
CONFIG = RandAugmentConfig(2, 7.0, cutout_const=8, translate_const=6)
INCREASING = RandAugmentConfig(4, 7.0, 'increasing', magnitude_std=0.5, op_prob=0.5)
STRENGTH = randaugment.strengths(CONFIG, 7.0, 1.0, (HEIGHT, WIDTH))
CENTRE = (5, 18)


@functools.cache
def random_frame() -> np.ndarray:
  """A frame with channels of different ranges, so that stretching shows."""
  rng = np.random.default_rng(3)
  return np.stack(
    [rng.integers(low, high, (HEIGHT, WIDTH)) for low, high in ((30, 200), (90, 140), (5, 250))], -1
  ).astype(np.uint8)


@functools.cache
def compiled_op(config: RandAugmentConfig):
  def run(clip, op, magnitude, sign):
    strength = randaugment.strengths(config, magnitude, sign, (HEIGHT, WIDTH))
    return randaugment.apply_op(
      clip, Draw(op, strength, jnp.asarray(CENTRE)), config.policy == 'increasing'
    )

  return jax.jit(run)


def apply(name: str, clip: np.ndarray, sign=1.0, config=CONFIG, magnitude=7.0) -> np.ndarray:
  return np.asarray(compiled_op(config)(clip, OPS.index(name), magnitude, sign))


def affine(image: Image.Image, *coefficients: float, resample=Image.Resampling.NEAREST):
  return image.transform(
    image.size, Image.Transform.AFFINE, coefficients, resample, fillcolor=(128,) * 3
  )


def cutout(image: Image.Image) -> np.ndarray:
  pixels, half = np.array(image), int(STRENGTH.cutout)
  top, left = (max(0, c - half) for c in CENTRE)
  pixels[top : CENTRE[0] + half, left : CENTRE[1] + half] = 128
  return pixels


def solarize_add(image: Image.Image) -> np.ndarray:
  pixels = np.array(image).astype(int)
  return np.where(pixels < 128, np.minimum(pixels + int(STRENGTH.addition), 255), pixels)


EXACT = {
  'Identity': lambda im, s: im,
  'Equalize': lambda im, s: ImageOps.equalize(im),
  'Invert': lambda im, s: ImageOps.invert(im),
  'Posterize': lambda im, s: ImageOps.posterize(im, int(STRENGTH.bits)),
  'Solarize': lambda im, s: ImageOps.solarize(im, int(STRENGTH.threshold)),
  'SolarizeAdd': lambda im, s: solarize_add(im),
  'Cutout': lambda im, s: cutout(im),
  'ShearX': lambda im, s: affine(im, 1, s * float(STRENGTH.shear), 0, 0, 1, 0),
  'ShearY': lambda im, s: affine(im, 1, 0, 0, s * float(STRENGTH.shear), 1, 0),
  'TranslateX': lambda im, s: affine(im, 1, 0, s * float(STRENGTH.translate_x), 0, 1, 0),
  'TranslateY': lambda im, s: affine(im, 1, 0, 0, 0, 1, s * float(STRENGTH.translate_y)),
  'Rotate': lambda im, s: im.rotate(s * float(STRENGTH.degrees), fillcolor=(128,) * 3),
}
# Pillow computes these with other roundings, so that a value may differ by one.
WITHIN_ONE = {
  'AutoContrast': lambda im: ImageOps.autocontrast(im),
  'Color': lambda im: ImageEnhance.Color(im).enhance(float(STRENGTH.enhance)),
  'Contrast': lambda im: ImageEnhance.Contrast(im).enhance(float(STRENGTH.enhance)),
  'Brightness': lambda im: ImageEnhance.Brightness(im).enhance(float(STRENGTH.enhance)),
  'Sharpness': lambda im: ImageEnhance.Sharpness(im).enhance(float(STRENGTH.enhance)),
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
  # The clip's mean is 75, the factor 1.36; each frame's own mean would leave both as they are.
  np.testing.assert_array_equal(apply('Contrast', clip)[:, 0, 0, 0], [41, 109])
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
    (0, (0.1, 0, 0, 0, 0, 1, 0, 0, 0)),
    (10, (1.9, -30, -0.3, -100, -100, 4, 256, 110, 40)),
    (15, (2.8, -45, -0.45, -150, -150, 6, 256, 165, 60)),
    (20, (3.7, -60, -0.6, -200, -200, 8, 256, 220, 80)),
    (30, (5.5, -90, -0.9, -300, -300, 8, 256, 330, 120)),
  ],
)
def test_strengths_of_autoaugment(magnitude, expected):
  actual = randaugment.strengths(RandAugmentConfig(2), magnitude, -1.0, (224, 300))
  assert [float(x) for x in actual] == pytest.approx(expected)


@pytest.mark.parametrize(
  ('magnitude', 'sign', 'expected'),
  [
    (0, 1, (1.0, 0, 0, 0, 0, 4, 256, 0)),
    (7, 1, (1.63, 21, 0.21, 94.5, 63, 2, 77, 77)),
    (7, -1, (0.37, -21, -0.21, -94.5, -63, 2, 77, 77)),
    (9.9, -1, (0.109, -29.7, -0.297, -133.65, -89.1, 1, 3, 108)),
    (10, 1, (1.9, 30, 0.3, 135, 90, 1, 0, 110)),
    (10, -1, (0.1, -30, -0.3, -135, -90, 1, 0, 110)),
  ],
)
def test_strengths_of_increasing(magnitude, sign, expected):
  actual = randaugment.strengths(INCREASING, magnitude, sign, (200, 300))
  assert [float(x) for x in actual[:-1]] == pytest.approx(expected, rel=1e-5)


def test_whole_strengths_of_whole_magnitudes_are_exact():
  magnitudes = np.arange(31, dtype=np.float32)
  run = jax.jit(jax.vmap(lambda m: randaugment.strengths(RandAugmentConfig(2), m, 1.0, (9, 9))))
  actual = run(magnitudes)
  whole = np.arange(31)
  np.testing.assert_array_equal(actual.bits, np.clip(whole * 4 // 10, 1, 8))
  np.testing.assert_array_equal(actual.threshold, np.minimum(whole * 256 // 10, 256))
  np.testing.assert_array_equal(actual.addition, whole * 110 // 10)
  np.testing.assert_array_equal(actual.cutout, whole * 4)


def test_solarize_at_ssv2s_magnitude_leaves_the_clip():
  clip = random_frame()[None]
  np.testing.assert_array_equal(apply('Solarize', clip, magnitude=20.0), clip)


def bilinear(image: Image.Image, *coefficients: float) -> Image.Image:
  return affine(image, *coefficients, resample=Image.Resampling.BILINEAR)


# At magnitude 7 and sign s; translations are 0.45 * 0.7 of the side.
WARPS = {
  'ShearX': lambda im, s: bilinear(im, 1, s * 0.21, 0, 0, 1, 0),
  'ShearY': lambda im, s: bilinear(im, 1, 0, 0, s * 0.21, 1, 0),
  'TranslateX': lambda im, s: bilinear(im, 1, 0, s * 0.315 * WIDTH, 0, 1, 0),
  'TranslateY': lambda im, s: bilinear(im, 1, 0, 0, 0, 1, s * 0.315 * HEIGHT),
  'Rotate': lambda im, s: im.rotate(s * 21, Image.Resampling.BILINEAR, fillcolor=(128,) * 3),
}
INCREASING_TABLES = {
  'Posterize': lambda im, s: ImageOps.posterize(im, 2),
  'Solarize': lambda im, s: ImageOps.solarize(im, 77),
  'Color': lambda im, s: ImageEnhance.Color(im).enhance(1 + s * 0.63),
  'Contrast': lambda im, s: ImageEnhance.Contrast(im).enhance(1 + s * 0.63),
  'Brightness': lambda im, s: ImageEnhance.Brightness(im).enhance(1 + s * 0.63),
  'Sharpness': lambda im, s: ImageEnhance.Sharpness(im).enhance(1 + s * 0.63),
}


@pytest.mark.parametrize('sign', [1.0, -1.0])
@pytest.mark.parametrize('name', [*WARPS, *INCREASING_TABLES])
def test_increasing_op_equals_pillow_within_one(name, sign):
  frame = random_frame()
  expected = np.asarray({**WARPS, **INCREASING_TABLES}[name](Image.fromarray(frame), sign))
  difference = np.abs(apply(name, frame[None], sign, INCREASING)[0] - expected.astype(int))
  # Fractions are cut, and coordinates here are float32.
  assert difference.max() <= 1
  assert np.mean(difference > 0) < 0.06
  assert np.any(expected != frame)


def test_an_identity_warp_interpolates_nothing():
  clip = random_frame()[None]
  for name in ('Identity', 'Invert'):
    expected = clip if name == 'Identity' else 255 - clip
    np.testing.assert_array_equal(apply(name, clip, config=INCREASING), expected)


def test_draws_of_increasing():
  keys = jax.random.split(jax.random.key(0), 4000)
  op, strength, centre = jax.jit(jax.vmap(lambda k: randaugment.draw(k, INCREASING, (8, 9))))(keys)
  counts = np.bincount(op, minlength=len(OPS))
  by_name = dict(zip(OPS, counts))
  assert by_name.pop('Identity') == pytest.approx(2000, abs=130)  # the other half does something
  assert by_name.pop('Cutout') == 0
  assert len(by_name) == 15
  assert all(count == pytest.approx(2000 / 15, abs=50) for count in by_name.values())
  magnitude = np.abs(strength.degrees) / 3
  assert magnitude.mean() == pytest.approx(7, abs=0.05)
  assert magnitude.std() == pytest.approx(0.5, abs=0.03)
  up = np.asarray(strength.degrees) > 0
  assert up.mean() == pytest.approx(0.5, abs=0.04)
  np.testing.assert_allclose(
    strength.enhance, 1 + np.where(up, 1, -1) * 0.09 * magnitude, rtol=1e-4
  )
  assert np.all(np.asarray(centre) < [8, 9]) and np.all(np.asarray(centre) >= 0)


def test_noise_leaves_the_magnitude_in_its_range():
  config = RandAugmentConfig(1, 9.0, 'increasing', magnitude_std=5.0)
  keys = jax.random.split(jax.random.key(0), 1000)
  drawn = jax.jit(jax.vmap(lambda k: randaugment.draw(k, config, (8, 9))))(keys)
  degrees = np.abs(drawn.strength.degrees)
  assert degrees.max() == pytest.approx(30)
  # P(N(9, 5) > 10) = 0.42, P(N(9, 5) < 0) = 0.036.
  assert np.mean(degrees > 29.999) == pytest.approx(0.42, abs=0.05)
  assert np.mean(degrees == 0) == pytest.approx(0.036, abs=0.02)
  assert np.all(drawn.op != OPS.index('Identity'))


def test_draws_every_op_and_chains_the_layers():
  clip = np.stack([random_frame()] * 2)
  keys = jax.random.split(jax.random.key(0), 96)
  one = RandAugmentConfig(1, 7.0, cutout_const=8, translate_const=6)
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


def test_layers_follow_each_other():
  key, config = jax.random.key(3), RandAugmentConfig(3, 7.0, 'increasing', magnitude_std=0.5)
  clip = jnp.asarray(random_frame()[None])

  @jax.jit
  def layer(clip, layer_key):
    drawn = randaugment.draw(layer_key, config, (HEIGHT, WIDTH))
    return randaugment.apply_op(clip, drawn, bilinear=True)

  expected = functools.reduce(layer, jax.random.split(key, 3), clip)
  actual = np.asarray(jax.jit(randaugment.apply_policy, static_argnums=2)(key, clip, config))
  # Compiled in a loop, a fraction may be cut differently.
  assert np.mean(actual != np.asarray(expected)) < 0.01
  assert np.any(actual != random_frame())


def test_float_input_is_rounded_and_jit_changes_nothing():
  key = jax.random.key(1)
  config = RandAugmentConfig(1, 7.0, cutout_const=8, translate_const=6)
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
    ('policy', 'timm'),
    ('magnitude_std', -0.5),
    ('op_prob', 1.5),
    ('cutout_const', -1),
    ('translate_const', float('nan')),
  ],
)
def test_config_names_the_field(field, value):
  with pytest.raises(ConfigError, match=rf'RandAugmentConfig\.{field}: expected .* got {value!r}'):
    RandAugmentConfig(**{field: value})


def test_increasing_ends_at_magnitude_10():
  with pytest.raises(ConfigError, match=r'magnitude: expected a number in \[0, 10\.0\], got 15'):
    RandAugmentConfig(2, 15, 'increasing')
