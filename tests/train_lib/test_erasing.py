"""Random erasing: rectangles, fills and probabilities."""

import jax
import numpy as np
import pytest

from errors import ConfigError
from train_lib.erasing import RandomErasingConfig, erase

FRAMES, HEIGHT, WIDTH = 2, 40, 48
NUMBER = 300
run = jax.jit(erase, static_argnums=2)


def erased(config: RandomErasingConfig, number: int = NUMBER) -> np.ndarray:
  """The clips of sevens [number, T, H, W, 3] after erasing."""
  video = np.full((number, FRAMES, HEIGHT, WIDTH, 3), 7, np.float32)
  return np.asarray(run(jax.random.split(jax.random.key(0), number), video, config))


def sides(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Heights and widths of masks [N, H, W], which must be one full rectangle each."""
  rows, columns = mask.any(2), mask.any(1)
  np.testing.assert_array_equal(mask, rows[:, :, None] & columns[:, None, :])
  for side in (rows, columns):  # without gaps: one rise and one fall at most
    assert np.all(np.abs(np.diff(side.astype(int), axis=1)).sum(1) <= 2)
  return rows.sum(1), columns.sum(1)


def rejected_until_they_fit(number: int) -> np.ndarray:
  """Logarithms of aspects as the paper draws them, again and again until the rectangle fits."""
  rng, aspects = np.random.default_rng(0), []
  while len(aspects) < number:
    area = rng.uniform(0.02, 1 / 3) * HEIGHT * WIDTH
    aspect = np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3)))
    height, width = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
    if height < HEIGHT and width < WIDTH:
      aspects.append(np.log(height / width))
  return np.asarray(aspects)


def test_one_rectangle_within_the_ranges_the_same_in_all_frames():
  out = erased(RandomErasingConfig(prob=1.0, mode='const'))
  assert set(np.unique(out)) == {0, 7}
  mask = out == 0
  np.testing.assert_array_equal(mask, np.broadcast_to(mask[:, :1, :, :, :1], mask.shape))
  height, width = sides(mask[:, 0, :, :, 0])
  area = height * width / (HEIGHT * WIDTH)
  # Sides are rounded to whole pixels, of 5 or more.
  assert 0.015 < area.min() < 0.04 and 0.3 < area.max() < 0.35
  assert area.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.02)
  log_aspect, expected = np.log(height / width), rejected_until_they_fit(4000)
  assert np.abs(log_aspect).max() < np.log(1 / 0.3) + 0.15
  assert log_aspect.mean() == pytest.approx(expected.mean(), abs=0.12)
  assert log_aspect.std() == pytest.approx(expected.std(), abs=0.06)


def test_a_rectangle_always_fits():
  config = RandomErasingConfig(prob=1.0, mode='const', area=(0.9, 0.9), aspect=(3.0, 50.0))
  height, width = sides(erased(config)[:, 0, :, :, 0] == 0)
  # The nearest aspect with 0.9 of the area: full height, 0.9 of the width.
  assert set(height) == {HEIGHT} and set(width) == {round(0.9 * WIDTH)}


def test_places_are_uniform():
  config = RandomErasingConfig(prob=1.0, mode='const', area=(0.25, 0.25), aspect=(1.0, 1.0))
  mask = erased(config, 600)[:, 0, :, :, 0] == 0
  top, left = mask.any(2).argmax(1), mask.any(1).argmax(1)
  height, width = sides(mask)
  assert set(height) == set(width) == {round(np.sqrt(HEIGHT * WIDTH / 4))}
  for start, size in ((top, HEIGHT - 22), (left, WIDTH - 22)):
    assert start.min() == 0 and start.max() == size
    assert start.mean() == pytest.approx(size / 2, abs=size / 15)


def test_each_clip_is_erased_with_its_probability():
  out = erased(RandomErasingConfig(prob=0.25, mode='const'), 1000)
  assert np.mean(np.any(out != 7, axis=(1, 2, 3, 4))) == pytest.approx(0.25, abs=0.04)


def test_noise_is_normal_in_every_pixel_or_one_colour_a_frame():
  pixel = erased(RandomErasingConfig(prob=1.0, mode='pixel'), 60)
  values = pixel[pixel != 7]
  assert len(values) > 50_000
  assert values.mean() == pytest.approx(0, abs=0.02)
  assert values.std() == pytest.approx(1, abs=0.02)
  assert len(np.unique(values)) > 0.9 * len(values)
  for clip in erased(RandomErasingConfig(prob=1.0, mode='rand'), 5):
    inside = clip[:, np.any(clip[0] != 7, axis=-1)]  # [T, pixels, 3]
    assert len(np.unique(inside)) == FRAMES * 3


def test_several_rectangles_share_the_area():
  config = RandomErasingConfig(1.0, 'const', area=(0.3, 0.3), aspect=(1.0, 1.0), count=3)
  area = np.mean(erased(config)[:, 0, :, :, 0] == 0, axis=(1, 2))
  one = round(np.sqrt(0.3 * HEIGHT * WIDTH)) ** 2 / (HEIGHT * WIDTH)
  assert np.mean(area == one) == pytest.approx(1 / 3, abs=0.08)
  assert area.max() < one * 1.03
  assert area.min() < 0.2  # of several, some overlap


def test_off_compiles_to_nothing():
  video, keys = np.zeros((1, 1, 4, 4, 3), np.float32), jax.random.split(jax.random.key(0), 1)
  jaxpr = jax.make_jaxpr(lambda v: erase(keys, v, RandomErasingConfig()))(video)
  assert jaxpr.jaxpr.outvars == jaxpr.jaxpr.invars


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('prob', 2),
    ('mode', 'noise'),
    ('count', 0),
    ('count', 1.5),
    ('area', (0.0, 0.3)),
    ('area', (0.5, 0.3)),
    ('area', (0.5, 1.5)),
    ('aspect', (-1.0, 2.0)),
    ('aspect', (1.0, float('nan'))),
  ],
)
def test_config_names_the_field(field, value):
  with pytest.raises(ConfigError, match=rf'RandomErasingConfig\.{field}: expected .*, got '):
    RandomErasingConfig(**{field: value})
