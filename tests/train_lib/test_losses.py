"""Losses against values that Scenic computed, and hits that constant logits must not earn."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train_lib import losses, mixing

FIXTURE = Path(__file__).parents[1] / 'fixtures' / 'scenic_regularisers_losses'


@pytest.fixture(scope='module')
def scenic():
  with np.load(FIXTURE.with_suffix('.npz')) as arrays:
    return dict(arrays)


@pytest.fixture(scope='module')
def atol():
  return json.loads(FIXTURE.with_suffix('.json').read_text())['tolerance']['atol']


@pytest.mark.parametrize('smoothing', [0.1, 0.3])
def test_smoothed_softmax_is_scenics(scenic, atol, smoothing):
  targets = losses.smooth_labels(scenic['onehot'], smoothing)
  np.testing.assert_allclose(targets, scenic[f'smoothed_{smoothing}'], atol=1e-6)
  values = losses.softmax_cross_entropy(scenic['logits'], targets)
  expected = scenic[f'softmax_ce_unnormalised_ls{smoothing}']
  np.testing.assert_allclose(values, expected, atol=atol)
  mean = losses.weighted_mean(values, scenic['weights'])
  np.testing.assert_allclose(mean, scenic[f'softmax_ce_mean_weighted_ls{smoothing}'], atol=atol)


@pytest.mark.parametrize('smoothing', [0.1, 0.3])
def test_smoothed_sigmoid_is_scenics(scenic, atol, smoothing):
  targets = losses.smooth_labels(scenic['multihot'], smoothing)
  values = losses.sigmoid_cross_entropy(scenic['logits'], targets)
  mean = losses.weighted_mean(values, scenic['weights'])
  np.testing.assert_allclose(mean, scenic[f'sigmoid_ce_mean_weighted_ls{smoothing}'], atol=atol)


def test_plain_losses_are_scenics(scenic, atol):
  softmax = losses.softmax_cross_entropy(scenic['logits'], scenic['onehot'])
  sigmoid = losses.sigmoid_cross_entropy(scenic['logits'], scenic['multihot'])
  for name, values in (('softmax', softmax), ('sigmoid', sigmoid)):
    mean = losses.weighted_mean(values, scenic['weights'])
    np.testing.assert_allclose(mean, scenic[f'{name}_ce_mean_weighted'], atol=atol)


@pytest.mark.parametrize('alpha', ['0.1', '0.3', '1.0'])
def test_mixup_is_scenics(scenic, atol, alpha):
  weight = float(scenic[f'mixup_lambda_a{alpha}'])
  inputs, labels = mixing.mix_with_reverse(
    jnp.asarray(scenic['mixup_video']), {'task': jnp.asarray(scenic['onehot'])}, weight, weight
  )
  np.testing.assert_allclose(inputs, scenic[f'mixup_inputs_a{alpha}'], atol=atol)
  np.testing.assert_allclose(labels['task'], scenic[f'mixup_labels_a{alpha}'], atol=atol)


def test_losses_of_bfloat16_logits_are_float32():
  logits, targets = jnp.ones((2, 4), jnp.bfloat16), jnp.eye(4, dtype=jnp.bfloat16)[:2]
  softmax = losses.softmax_cross_entropy(logits, targets)
  sigmoid = losses.sigmoid_cross_entropy(logits, targets)
  assert softmax.dtype == sigmoid.dtype == jnp.float32
  np.testing.assert_allclose(softmax, np.log(4) * np.ones(2), rtol=1e-6)
  np.testing.assert_allclose(sigmoid, 4 * np.log1p(np.exp(1)) - np.ones(2), rtol=1e-6)


def test_extreme_logits_give_finite_gradients():
  logits = jnp.array([[1e4, -1e4, 0.0]])
  targets = jnp.array([[0.0, 1.0, 0.0]])
  for loss in (losses.softmax_cross_entropy, losses.sigmoid_cross_entropy):
    value, gradient = jax.value_and_grad(lambda x, f=loss: f(x, targets).sum())(logits)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


def test_weighted_sum_ignores_padding():
  total, count = losses.weighted_sum(jnp.array([2.0, jnp.nan, 4.0]), jnp.array([1, 0, 0.5]))
  assert (float(total), float(count)) == (4.0, 1.5)
  total, count = losses.weighted_sum(jnp.array([2, 5]))
  assert (float(total), float(count)) == (7.0, 2.0)
  assert float(losses.weighted_mean(jnp.array([3.0, 4.0]), jnp.zeros(2))) == 0.0


LOGITS = np.float32([[3, 1, 2, 0], [3, 1, 2, 0], [3, 1, 2, 0], [3, 1, 2, 0]])


@pytest.mark.parametrize(
  ('k', 'expected'), [(1, [1, 0, 0, 0]), (2, [1, 0, 1, 0]), (3, [1, 1, 1, 0]), (4, [1, 1, 1, 1])]
)
def test_top_k_of_distinct_logits(k, expected):
  label = np.array([0, 1, 2, 3])
  np.testing.assert_array_equal(losses.top_k_correct(LOGITS, label, k), expected)
  one_hot = np.eye(4, dtype=np.float32)
  np.testing.assert_array_equal(losses.top_k_correct(LOGITS, one_hot, k), expected)
  assert losses.top_k_correct(LOGITS, label, k).dtype == jnp.float32
  np.testing.assert_array_equal(losses.rank_of_label(LOGITS, label), [1, 3, 2, 4])


@pytest.mark.parametrize('value', [0.0, -np.inf, np.nan])
def test_constant_logits_earn_nothing(value):
  logits = np.full((5, 5), value, np.float32)
  for k in (1, 4):
    np.testing.assert_array_equal(losses.top_k_correct(logits, np.arange(5), k), np.zeros(5))


def test_a_tie_with_the_true_class_counts_against_it():
  logits = np.float32([[2, 2, 1], [2, 2, 1]])
  np.testing.assert_array_equal(losses.top_k_correct(logits, np.array([0, 2]), 1), [0, 0])
  np.testing.assert_array_equal(losses.top_k_correct(logits, np.array([0, 2]), 2), [1, 0])
