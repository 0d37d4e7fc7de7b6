"""Frozen parameters: no gradient, no optimiser state, no memory for them."""

import jax
import numpy as np
import pytest

from errors import ConfigError
from tests.train_lib.test_program import batch_of
from train_lib import frozen
from train_lib.checkpoint import Checkpointer
from train_lib.experiment import CheckpointConfig

TREE = {'trunk': {'cls': 1, 'block': {'kernel': 2, 'bias': 3}}, 'heads_a': {'kernel': 4}}


def test_split_and_merge():
  trainable, fixed = frozen.split(TREE, ('^trunk/(cls|block/kernel)$',))
  assert trainable == {'trunk': {'block': {'bias': 3}}, 'heads_a': {'kernel': 4}}
  assert fixed == {'trunk': {'cls': 1, 'block': {'kernel': 2}}}
  assert frozen.merge(trainable, fixed) == TREE
  assert frozen.split(TREE, ()) == (TREE, {})


@pytest.mark.parametrize(
  ('patterns', 'message'),
  [
    (
      ('^trunk', 'encoder'),
      r"'encoder' matches no parameter. There are \['heads_a/kernel'.* 1 more; without it, `--mode=init`",
    ),
    (('trunk', 'heads'), 'matches every parameter'),
    (('(',), r'`optimizer.frozen` .*unterminated'),
  ],
)
def test_patterns_that_cannot_be_meant(patterns, message):
  with pytest.raises(ConfigError, match=message):
    frozen.split(TREE, patterns)


def of_trunk(tree):
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return [leaf for path, leaf in leaves if 'trunk' in jax.tree_util.keystr(path)]


def config_of(config, patterns):
  """Momentum without clipping: the first update is the gradient times the learning rate."""
  config.optimizer.update({'frozen': patterns, 'max_grad_norm': 0.0, 'weight_decay': 0.0})
  config.optimizer.rule = {'name': 'optax:trace', 'decay': 0.9, 'nesterov': False}
  config.tasks.motion.head.kernel_init = 'lecun_normal'
  config.grad_accumulation, config.ema_decay = 2, 0.5
  return config


def test_only_what_is_not_frozen_costs_and_moves(tiny_config, build, tmp_path):
  program, *_ = build(config_of(tiny_config, ('^trunk/',)))
  everything, *_ = build(config_of(tiny_config, ()))
  batch = batch_of(program, 8)
  compiled, results = {}, {}
  for name, each in (('frozen', program), ('all', everything)):
    placed = each.to_device(batch)
    compiled[name] = each.train_step.lower(each.abstract_state, placed).compile()
    results[name] = compiled[name](each.init(), placed)
  before = jax.device_get(program.init())
  assert not of_trunk(before.opt_state)
  assert len(jax.tree.leaves(before.opt_state)) == 3  # A step, and momentum of the head's two.
  (after, metrics), (other, all_metrics) = results['frozen'], results['all']
  for part in ('params', 'ema_params'):
    same = zip(of_trunk(getattr(after, part)), of_trunk(getattr(before, part)))
    assert all(np.array_equal(a, b) for a, b in same)
  assert metrics['loss'] == all_metrics['loss']
  head, old = after.params['heads_motion'], before.params['heads_motion']
  jax.tree.map(np.testing.assert_array_equal, head, other.params['heads_motion'])
  jax.tree.map(np.testing.assert_array_equal, after.ema_params, jax.tree.map(
    lambda a, b: 0.5 * a + 0.5 * b, after.params, before.params
  ))  # fmt: skip
  rate = float(metrics['learning_rate'][0])
  steps = [np.square(a - b).sum() for a, b in zip(jax.tree.leaves(head), jax.tree.leaves(old))]
  assert float(metrics['gradient_norm'][0]) == pytest.approx(np.sqrt(sum(steps)) / rate, rel=1e-4)
  assert float(all_metrics['gradient_norm'][0]) > float(metrics['gradient_norm'][0])
  memory = {name: step.memory_analysis().temp_size_in_bytes for name, step in compiled.items()}
  assert memory['frozen'] < 0.7 * memory['all']

  checkpointer = Checkpointer(tmp_path, CheckpointConfig('1 step'))
  checkpointer.save(after, {}, None)
  checkpointer.wait()
  restored = checkpointer.restore(1, program.abstract_state)
  checkpointer.close()
  placed = program.to_device(batch)
  second, resumed = (compiled['frozen'](state, placed) for state in (after, restored))
  jax.tree.map(np.testing.assert_array_equal, second, resumed)
