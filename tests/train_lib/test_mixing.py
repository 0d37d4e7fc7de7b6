"""Mixup and CutMix: shares, labels, partners and what stays unmixed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errors import ConfigError
from train_lib import mixing
from train_lib.mixing import MixConfig

MIXUP = MixConfig(mixup_alpha=0.3)
CUTMIX = MixConfig(cutmix_alpha=1.0)
BOTH = MixConfig(mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.25, prob=0.6)
HEIGHT, WIDTH = 8, 10

mix = jax.jit(mixing.mix, static_argnums=4)


def run(key, video, labels, mask, config):
  """The mixed video and labels of examples that all carry every task, but for padding."""
  mixed, targets, weights = mix(key, video, labels, dict.fromkeys(labels, mask), config)
  for weight in weights.values():
    np.testing.assert_allclose(weight, mask, atol=1e-6)
  return mixed, targets


@functools.cache
def batch(size: int = 5):
  rng = np.random.default_rng(0)
  video = rng.normal(size=(size, 2, HEIGHT, WIDTH, 3)).astype(np.float32)
  labels = {'verb': np.eye(5, dtype=np.float32)[:size], 'noun': np.eye(7, dtype=np.int32)[:size]}
  return video, labels, np.ones(size, np.float32)


def shares(config: MixConfig, number: int):
  keys = jax.random.split(jax.random.key(0), number)
  draw = jax.jit(jax.vmap(lambda k: mixing.draw_shares(k, HEIGHT, WIDTH, config)))
  return tuple(np.asarray(x) for x in draw(keys))


def test_mixup_uses_one_weight_and_the_reversed_batch():
  video, labels, mask = batch()
  mixed, targets = run(jax.random.key(1), video, labels, mask, MIXUP)
  weight = float(targets['verb'][0, 0])
  assert 0 < weight < 1
  np.testing.assert_allclose(mixed, weight * video + (1 - weight) * video[::-1], atol=1e-5)
  for task, label in labels.items():
    expected = weight * label + (1 - weight) * label[::-1]
    np.testing.assert_allclose(targets[task], expected, atol=1e-6)
    np.testing.assert_allclose(targets[task].sum(-1), 1, atol=1e-6)
  other = run(jax.random.key(2), video, labels, mask, MIXUP)[1]
  assert float(other['verb'][0, 0]) != weight


def test_cutmix_pastes_one_box_and_weighs_labels_by_its_area():
  video, labels, mask = batch()
  video = video.copy()
  video[:] = np.arange(5, dtype=np.float32)[:, None, None, None, None]
  mixed, targets = run(jax.random.key(4), video, labels, mask, CUTMIX)
  pasted = np.asarray(mixed)[0] == 4  # [T, H, W, 3]
  assert np.all(np.asarray(mixed) == np.where(pasted, video[::-1], video))
  assert np.all(pasted == pasted[:1, :, :, :1])
  rows, columns = pasted[0, :, :, 0].any(1), pasted[0, :, :, 0].any(0)
  np.testing.assert_array_equal(pasted[0, :, :, 0], rows[:, None] & columns[None])
  assert 0 < pasted.mean() < 1
  assert float(targets['verb'][0, 0]) == pytest.approx(1 - pasted.mean(), abs=1e-6)
  assert float(targets['noun'][0, 4]) == pytest.approx(pasted.mean(), abs=1e-6)
  assert float(targets['noun'][2, 2]) == pytest.approx(1, abs=1e-6)  # its own partner


def test_mixup_weight_is_beta():
  kept, share = shares(MIXUP, 4000)
  np.testing.assert_array_equal(kept, np.broadcast_to(share[:, None, None], kept.shape))
  assert np.all((share >= 0) & (share <= 1))
  assert share.mean() == pytest.approx(0.5, abs=0.03)
  assert share.var() == pytest.approx(1 / (4 * (2 * 0.3 + 1)), abs=0.01)


def expected_boxes(number: int) -> np.ndarray:
  """Areas of CutMix's boxes by its paper's formula, with numpy's generator."""
  rng, areas = np.random.default_rng(1), []
  for _ in range(number):
    side = np.sqrt(1 - rng.beta(1, 1))
    sides = []
    for size in (HEIGHT, WIDTH):
      half, middle = int(size * side) // 2, rng.integers(size)
      sides.append(min(middle + half, size) - max(middle - half, 0))
    areas.append(sides[0] * sides[1] / (HEIGHT * WIDTH))
  return np.asarray(areas)


def test_cutmix_boxes_are_those_of_the_paper():
  kept, share = shares(CUTMIX, 4000)
  assert set(np.unique(kept)) == {0, 1}
  np.testing.assert_allclose(share, kept.mean((1, 2)), atol=1e-6)
  expected = expected_boxes(4000)
  assert 1 - share.mean() == pytest.approx(expected.mean(), abs=0.02)
  assert share.std() == pytest.approx(expected.std(), abs=0.02)
  # Centres are everywhere: a border pixel is pasted less often than the middle, but is.
  pasted = 1 - kept.mean(0)
  assert 0.02 < pasted[0, 0] < pasted[HEIGHT // 2, WIDTH // 2]


def test_switch_and_mixing_probabilities():
  kept, share = shares(BOTH, 4000)
  unmixed = share == 1
  cutmix = np.all((kept == 0) | (kept == 1), axis=(1, 2)) & ~unmixed
  # Some of CutMix's boxes are empty: sides below 2 pixels.
  assert unmixed.mean() == pytest.approx(0.4 + 0.15 * np.mean(expected_boxes(4000) == 0), abs=0.03)
  assert cutmix.mean() == pytest.approx(0.15, abs=0.02)


@pytest.mark.parametrize('config', [MIXUP, CUTMIX])
def test_padding_does_not_leak_into_its_partner(config):
  video, labels, mask = batch()
  mask = np.asarray([1, 1, 1, 0, 0], np.float32)
  key = jax.random.key(4)
  mixed, targets = run(key, video, labels, mask, config)
  whole, whole_targets = run(key, video, labels, np.ones(5, np.float32), config)
  np.testing.assert_array_equal(mixed[:2], video[:2])
  np.testing.assert_array_equal(targets['verb'][:2], labels['verb'][:2])
  assert np.any(np.asarray(whole[:2]) != video[:2])
  np.testing.assert_array_equal(mixed[2:], whole[2:])
  np.testing.assert_array_equal(targets['noun'][2], whole_targets['noun'][2])


def test_partners_of_several_datasets_keep_each_its_own_label():
  video, labels, _ = batch()
  masks = {'verb': np.float32([1, 1, 0, 0, 0]), 'noun': np.float32([0, 0, 1, 1, 1])}
  mixed, targets, weights = mix(jax.random.key(1), video, labels, masks, MIXUP)
  share = float(weights['verb'][0])
  assert 0 < share < 1
  np.testing.assert_allclose(mixed, share * video + (1 - share) * video[::-1], atol=1e-5)
  np.testing.assert_allclose(weights['verb'], [share, share, 0, 1 - share, 1 - share], atol=1e-6)
  np.testing.assert_allclose(weights['noun'], [1 - share, 1 - share, 1, share, share], atol=1e-6)
  # Label of the partner that carries the task: 4 is mixed with 0, and both name 0's verb.
  np.testing.assert_allclose(
    targets['verb'], labels['verb'][[0, 1, 2, 1, 0]] * [[1], [1], [0], [1], [1]], atol=1e-6
  )
  np.testing.assert_allclose(targets['noun'], labels['noun'][[4, 3, 2, 3, 4]], atol=1e-6)


@pytest.mark.parametrize('config', [MixConfig(), MixConfig(mixup_alpha=1.0, prob=0.0)])
def test_off_compiles_to_nothing(config):
  video, labels, mask = batch()
  jaxpr = jax.make_jaxpr(
    lambda v: mixing.mix(jax.random.key(0), v, labels, dict.fromkeys(labels, mask), config)[0]
  )(video)
  assert jaxpr.jaxpr.outvars == jaxpr.jaxpr.invars


def test_mixing_keeps_the_dtype_of_the_video():
  video, labels, mask = batch()
  mixed, targets, _ = jax.eval_shape(
    functools.partial(mixing.mix, config=MIXUP),
    jax.random.key(0),
    jnp.asarray(video, jnp.bfloat16),
    labels,
    dict.fromkeys(labels, mask),
  )
  assert mixed.dtype == jnp.bfloat16
  assert targets['noun'].dtype == jnp.float32


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('mixup_alpha', -1),
    ('mixup_alpha', True),
    ('cutmix_alpha', 101),
    ('switch_prob', 1.1),
    ('prob', -0.1),
  ],
)
def test_config_names_the_field(field, value):
  with pytest.raises(ConfigError, match=rf'MixConfig\.{field}: expected .* got {value!r}'):
    MixConfig(**{field: value})
