import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errors import ConfigError
from train_lib.configuration import Component
from train_lib.experiment import Lengths, OptimizerConfig
from train_lib.optimizer import decay_mask, learning_rate_schedule, make_optimizer

LENGTHS = Lengths(total=10, warmup=4, log=1, evaluate=0, checkpoint=0, epoch=5)
MOMENTUM = Component('optax:trace', {'decay': 0.5, 'nesterov': False})
ADAM = Component('optax:scale_by_adam', {'b1': 0.9, 'b2': 0.999, 'eps': 1e-8})


def config(rule=MOMENTUM, **values):
  return OptimizerConfig(**{'rule': rule, 'learning_rate': 1.0, 'warmup': '4 steps', **values})


def test_warmup_is_linear_and_the_cosine_ends_one_step_after_the_last():
  schedule = learning_rate_schedule(config(), LENGTHS)
  rates = [float(schedule(s)) for s in range(10)]
  np.testing.assert_allclose(rates[:4], [0.25, 0.5, 0.75, 1.0], rtol=1e-6)
  cosine = [0.5 * (1 + np.cos(np.pi * k / 7)) for k in range(7)]
  np.testing.assert_allclose(rates[3:], cosine, atol=1e-6)
  assert 0 < rates[-1] < 0.1


def test_warmup_and_cosine_between_a_lowest_and_a_highest_rate():
  schedule = learning_rate_schedule(config(min_learning_rate=0.2), LENGTHS)
  rates = [float(schedule(s)) for s in range(11)]
  np.testing.assert_allclose(rates[:4], [0.4, 0.6, 0.8, 1.0], rtol=1e-6)
  cosine = [0.2 + 0.8 * 0.5 * (1 + np.cos(np.pi * k / 7)) for k in range(8)]
  np.testing.assert_allclose(rates[3:], cosine, rtol=1e-6)
  assert rates[-1] == pytest.approx(0.2)
  with pytest.raises(ConfigError, match=r'`min_learning_rate` 2\.0 is above `learning_rate` 1\.0'):
    config(min_learning_rate=2.0)


def test_constant_schedule():
  schedule = learning_rate_schedule(config(schedule='constant'), LENGTHS)
  assert [float(schedule(s)) for s in (3, 6, 9)] == [1.0, 1.0, 1.0]


def updates(optimizer, params, grads, steps=1):
  state = optimizer.init(params)
  for _ in range(steps):
    result, state = optimizer.update(grads, state, params)
  return result


def test_momentum_descends():
  params, grads = {'kernel': jnp.ones(2)}, {'kernel': jnp.array([1.0, -2.0])}
  optimizer = make_optimizer(config(), LENGTHS)
  np.testing.assert_allclose(updates(optimizer, params, grads)['kernel'], [-0.25, 0.5])
  # Second step: rate 0.5, direction g + 0.5 g.
  np.testing.assert_allclose(updates(optimizer, params, grads, 2)['kernel'], [-0.75, 1.5])


def test_clipping_is_by_the_norm_of_all_gradients():
  params = {'a': jnp.zeros(1), 'b': jnp.zeros(1)}
  grads = {'a': jnp.array([3.0]), 'b': jnp.array([4.0])}
  result = updates(make_optimizer(config(max_grad_norm=1.0), LENGTHS), params, grads)
  np.testing.assert_allclose(
    [result['a'][0], result['b'][0]], [-0.25 * 0.6, -0.25 * 0.8], rtol=1e-6
  )


@pytest.mark.parametrize('rule', [MOMENTUM, ADAM])
def test_decay_is_decoupled_and_spares_what_the_patterns_name(rule):
  params = {'block': {'kernel': jnp.full(2, 2.0), 'bias': jnp.full(2, 2.0)}}
  grads = jax.tree.map(jnp.zeros_like, params)
  optimizer = make_optimizer(config(rule, weight_decay=0.1, no_decay=('/bias$',)), LENGTHS)
  result = updates(optimizer, params, grads)['block']
  np.testing.assert_allclose(result['kernel'], [-0.25 * 0.1 * 2.0] * 2, rtol=1e-6)
  np.testing.assert_allclose(result['bias'], [0.0, 0.0])


def test_decay_mask_reads_paths_of_boxed_parameters_too():
  from models.layers import partitioned

  boxed = partitioned(jax.nn.initializers.ones, 'embed')(jax.random.key(0), (2,))
  mask = decay_mask(('/scale$',))({'norm': {'scale': boxed, 'other': jnp.ones(2)}})
  assert jax.tree.leaves(mask['norm']['scale']) == [False]
  assert mask['norm']['other'] is True
