"""BatchNorm against its definition, with PyTorch's running statistics."""

import flax
import jax
import jax.numpy as jnp
import numpy as np

from models.batch_norm import BatchNorm

X = np.random.default_rng(0).normal(3.0, 2.0, (2, 3, 5, 4)).astype(np.float32)
PARAMS = {'scale': np.arange(1.0, 5.0, dtype=np.float32), 'bias': np.full(4, 0.5, np.float32)}
STATISTICS = {'mean': np.full(4, 2.0, np.float32), 'var': np.full(4, 9.0, np.float32)}


def run(x, train, **fields):
  variables = {'params': PARAMS, 'batch_stats': STATISTICS}
  out, state = BatchNorm(**fields).apply(variables, x, train=train, mutable=['batch_stats'])
  return np.asarray(out), state['batch_stats']


def test_training_normalises_by_the_batch_and_moves_the_statistics():
  found, statistics = run(X, train=True)
  rows = X.reshape(-1, 4).astype(np.float64)
  expected = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5) * PARAMS['scale'] + 0.5
  np.testing.assert_allclose(found, expected.reshape(X.shape), atol=1e-5)
  np.testing.assert_allclose(statistics['mean'], 0.9 * 2.0 + 0.1 * rows.mean(0), rtol=1e-6)
  # The unbiased variance, of 29 degrees of freedom.
  np.testing.assert_allclose(statistics['var'], 0.9 * 9.0 + 0.1 * rows.var(0, ddof=1), rtol=1e-5)


def test_evaluation_normalises_by_the_running_statistics_and_leaves_them():
  found, statistics = run(X, train=False)
  expected = (X - 2.0) / np.sqrt(9.0 + 1e-5) * PARAMS['scale'] + 0.5
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(statistics['mean'], STATISTICS['mean'])
  np.testing.assert_array_equal(statistics['var'], STATISTICS['var'])


def test_statistics_are_float32_whatever_the_type():
  """A mean of 1000 and a deviation of 2 are one number to bfloat16's sums."""
  x = jnp.asarray(X + 1000.0, jnp.bfloat16)
  found, statistics = run(x, train=True, dtype=jnp.bfloat16)
  rows = np.asarray(x, np.float64).reshape(-1, 4)
  assert found.dtype == jnp.bfloat16
  assert {leaf.dtype for leaf in jax.tree.leaves(statistics)} == {np.dtype(np.float32)}
  np.testing.assert_allclose(statistics['mean'], 1.8 + 0.1 * rows.mean(0), rtol=1e-6)
  np.testing.assert_allclose(statistics['var'], 8.1 + 0.1 * rows.var(0, ddof=1), rtol=1e-4)


def test_initial_values_are_the_identity_but_for_epsilon():
  variables = flax.core.meta.unbox(BatchNorm().init(jax.random.key(0), X, train=True))
  np.testing.assert_array_equal(variables['params']['scale'], np.ones(4))
  fresh = BatchNorm().init(jax.random.key(0), X, train=False)
  np.testing.assert_allclose(BatchNorm().apply(fresh, X, train=False), X, rtol=1e-5)
  np.testing.assert_array_equal(fresh['batch_stats']['var'], np.ones(4))


def test_gradients_pass_through_the_statistics_of_the_batch():
  """A shift of the whole batch changes nothing."""

  def total(x):
    out, _ = BatchNorm().apply(
      {'params': PARAMS, 'batch_stats': STATISTICS}, x, train=True, mutable=['batch_stats']
    )
    return jnp.square(out - X[::-1]).sum()

  gradient = jax.grad(total)(X)
  np.testing.assert_allclose(gradient.sum((0, 1, 2)), np.zeros(4), atol=1e-4)
  assert np.abs(gradient).max() > 0.1
