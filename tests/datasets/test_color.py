import dataclasses

import numpy as np
import pytest

from datasets import color
from datasets.color import ColorJitterConfig
from errors import ConfigError

FULL = ColorJitterConfig(prob=1.0, where='host')
NONE = np.zeros(3)


def random_clip(seed=0):
  return np.random.default_rng(seed).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)


def apply(matrix, pixel):
  return matrix[:3, :3] @ np.array(pixel, float) + matrix[:3, 3]


def test_no_strength_is_the_identity():
  np.testing.assert_allclose(color.distortion(np.zeros(4), FULL, NONE), np.eye(4), atol=1e-12)


def test_brightness_shifts():
  matrix = color.distortion(np.array([0.5, 0, 0, 0]), FULL, NONE)
  np.testing.assert_allclose(apply(matrix, [10, 20, 30]), [26, 36, 46])


def test_saturation_blends_with_grey():
  matrix = color.distortion(np.array([0, -1, 0, 0]), FULL, NONE)  # factor 0.6
  pixel = np.array([200.0, 100.0, 0.0])
  grey = pixel @ color.LUMA
  np.testing.assert_allclose(apply(matrix, pixel), grey + 0.6 * (pixel - grey), rtol=1e-3)


def test_contrast_keeps_the_clips_mean():
  mean = np.array([90.0, 110.0, 50.0])
  matrix = color.distortion(np.array([0, 0, 1, 0]), FULL, mean)  # factor 1.4
  np.testing.assert_allclose(apply(matrix, mean), mean)
  np.testing.assert_allclose(apply(matrix, mean + 10), mean + 14)


def test_hue_turns_and_keeps_grey():
  matrix = color.distortion(np.array([0, 0, 0, 1]), dataclasses.replace(FULL, hue=0.5), NONE)
  np.testing.assert_allclose(apply(matrix, [80, 80, 80]), [80, 80, 80], atol=0.2)
  red = apply(matrix, [200, 0, 0])
  assert red[0] < min(red[1], red[2])  # half a circle from red is cyan
  whole = color.distortion(np.array([0, 0, 0, 1]), dataclasses.replace(FULL, hue=0.5), NONE)
  np.testing.assert_allclose(whole @ whole, np.eye(4), atol=1e-9)


def test_order_is_brightness_saturation_contrast_hue():
  strengths, mean = np.array([0.3, -0.4, 0.8, 0.0]), np.array([100.0, 90.0, 80.0])
  pixel = np.array([120.0, 60.0, 30.0])

  def steps(value):
    value = value + 255 * FULL.brightness * 0.3
    factor = 1 - 0.4 * FULL.saturation
    return value @ color.LUMA * (1 - factor) + factor * value

  factor = 1 + 0.8 * FULL.contrast
  wanted = steps(mean) + factor * (steps(pixel) - steps(mean))
  found = apply(color.distortion(strengths, FULL, mean), pixel)
  np.testing.assert_allclose(found, wanted, rtol=1e-9)


def test_jitter_is_one_matrix_for_all_frames():
  clip = random_clip()
  before = clip.copy()
  color.jitter(np.random.default_rng(1), clip, FULL)
  draws = np.random.default_rng(1).random(6)
  mean = before.reshape(-1, 3).mean(0)
  matrix = color.distortion(2 * draws[2:] - 1, FULL, mean)
  wanted = np.clip(np.rint(before @ matrix[:3, :3].T + matrix[:3, 3]), 0, 255)
  assert np.abs(clip - wanted).max() <= 1
  assert np.abs(clip.astype(int) - before).max() > 5


def test_probabilities():
  never = dataclasses.replace(FULL, prob=0.0)
  clip = random_clip()
  color.jitter(np.random.default_rng(0), clip, never)
  np.testing.assert_array_equal(clip, random_clip())
  changed = 0
  for seed in range(300):
    clip = random_clip()
    color.jitter(np.random.default_rng(seed), clip, dataclasses.replace(FULL, prob=0.3))
    changed += not np.array_equal(clip, random_clip())
  assert 60 < changed < 120


def test_colour_drop():
  clip = random_clip()
  color.jitter(np.random.default_rng(0), clip, ColorJitterConfig(grayscale_prob=1.0, where='host'))
  wanted = random_clip() @ np.array(color.LUMA)
  assert (
    np.abs(clip - wanted[..., None]).max() <= 0.55
  )  # half a level of rounding, and the weights' float32


@pytest.mark.parametrize(('field', 'value'), [('prob', 1.1), ('hue', 0.6), ('brightness', -0.1)])
def test_ranges(field, value):
  with pytest.raises(ConfigError, match=rf'ColorJitterConfig\.{field}: expected a number in \[0, '):
    ColorJitterConfig(**{field: value})


def test_active():
  assert FULL.active('host')
  assert not FULL.active('device')
  assert not ColorJitterConfig().active('device')
  assert ColorJitterConfig(grayscale_prob=0.1).active('device')
