"""Layer-wise learning-rate decay: which parameter is how deep, and what an update becomes."""

import collections
import re

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from errors import ConfigError
from models.vivit import ViViT
from projects.multitrain.mvit import MViT
from projects.tubevit.tubes import Tube
from projects.tubevit.tubevit import TubeViT
from projects.uniformerv2.uniformerv2 import UniFormerV2
from tests.train_lib.test_program import batch_of
from train_lib.configuration import Component
from train_lib.experiment import Lengths, OptimizerConfig
from train_lib.layer_rates import LayerRates, groups
from train_lib.optimizer import make_optimizer
from train_lib.tables import layer_table

LENGTHS = Lengths(total=10, warmup=0, log=1, evaluate=0, checkpoint=0, epoch=5)
SGD = Component('optax:trace', {'decay': 0.0, 'nesterov': False})
ADAM = Component('optax:scale_by_adam', {'b1': 0.9, 'b2': 0.999, 'eps': 1e-8})
VIT = {'hidden_size': 8, 'num_layers': 2, 'num_heads': 2, 'mlp_dim': 8}
FACTORISED = {'attention': 'factorised_encoder', 'temporal_num_layers': 2, 'pooling': 'token'}
TRUNKS = {
  'vivit': ViViT(**VIT, tubelet=(2, 8, 8), **FACTORISED),
  'average': ViViT(**VIT, tubelet=(2, 8, 8), **{**FACTORISED, 'temporal_num_layers': 0}),
  'spacetime': ViViT(**VIT, tubelet=(2, 8, 8), attention='spacetime', pooling='token'),
  'mvitv2': MViT(
    hidden_sizes=(8, 16),
    num_layers=(1, 2),
    num_heads=(1, 2),
    query_strides=((1, 1, 1), (1, 2, 2)),
    key_value_strides=((1, 2, 2), (1, 1, 1)),
    patch_kernel=(3, 7, 7),
    patch_stride=(2, 4, 4),
  ),
  'tubevit': TubeViT(**VIT, tubes={'a': Tube(kernel=(2, 8, 8), stride=(2, 8, 8))}),
  'uniformerv2': UniFormerV2(
    **VIT, patch_size=8, temporal_module='local_mhra', global_layers=1, global_places=(0,)
  ),
  'transformer': UniFormerV2(
    **VIT,
    patch_size=8,
    temporal_module='transformer',
    temporal_transformer_layers=1,
    global_layers=2,
  ),
}
# What is how deep; blocks are `b0`, `b1`, ..., of the temporal encoder `t0`, ...
SPATIAL, TEMPORAL = 'SpatialTransformer', 'TemporalTransformer'
DEPTHS = {
  'vivit': [
    {'embedding', f'cls_{SPATIAL}', f'{SPATIAL}/posembed_input'},
    {'b0'},
    {'b1', f'{SPATIAL}/encoder_norm', f'cls_{TEMPORAL}', f'{TEMPORAL}/posembed_input'},
    {'t0'},
    {'t1'},
    {f'{TEMPORAL}/encoder_norm'},
  ],
  'average': [
    {'embedding', f'cls_{SPATIAL}', f'{SPATIAL}/posembed_input'},
    {'b0'},
    {'b1'},
    {f'{SPATIAL}/encoder_norm'},
  ],
  'spacetime': [
    {'embedding', 'cls', 'Transformer/posembed_input'},
    {'b0'},
    {'b1'},
    {'Transformer/encoder_norm'},
  ],
  'mvitv2': [
    {'embedding', 'posembed_time', 'posembed_space'},
    {'b0'},
    {'b1'},
    {'b2'},
    {'encoder_norm'},
  ],
  'tubevit': [{'tube_a', 'cls'}, {'b0'}, {'b1'}, {'Transformer/encoder_norm'}],
  'uniformerv2': [
    {'embedding', 'cls', 'pre_norm', f'{SPATIAL}/posembed_input'},
    {'b0', 'query', 'global_0'},
    {'b1'},
    {'fusion_balance', 'fusion_norm'},
  ],
  'transformer': [
    {'embedding', 'cls', 'pre_norm', f'{SPATIAL}/posembed_input'},
    {'b0', 'query', 'global_0'},
    {'b1', 'global_1', f'cls_{TEMPORAL}', f'{TEMPORAL}/posembed_input'},
    {'t0'},
    {'fusion_balance', 'fusion_norm'},
  ],
}


def config(rule=SGD, **values):
  return OptimizerConfig(
    **{'rule': rule, 'learning_rate': 0.5, 'warmup': '0 steps', 'schedule': 'constant', **values}
  )


def part(path):
  """What a parameter below `trunk/` belongs to."""
  block = re.match(r'(\w+/)?encoderblock_(\d+)', path)
  if block:
    return ('t' if block[1] == f'{TEMPORAL}/' else 'b') + block[2]
  return re.match(r'(\w*Transformer/)?\w+', path)[0]


@pytest.mark.parametrize('name', TRUNKS)
def test_depths_and_factors_of_every_parameter(name):
  trunk = TRUNKS[name]
  video = jnp.zeros((1, 4, 16, 16, 3))
  made = jax.eval_shape(lambda: trunk.init(jax.random.key(0), video, train=False))
  rates = LayerRates(config(layer_decay=0.5), trunk)
  found = collections.defaultdict(set)
  for path in flax.traverse_util.flatten_dict(flax.linen.meta.unbox(made['params']), sep='/'):
    depth = rates.depth(f'trunk/{path}')
    found[depth].add(part(path))
    assert rates.factor(f'trunk/{path}') == 0.5 ** (len(DEPTHS[name]) - 1 - depth)
  assert [found[depth] for depth in sorted(found)] == DEPTHS[name]
  for path in ('heads_a/kernel', 'objective/log_sigma'):
    assert rates.factor(path) == 1


class Trunk:
  """Of one block."""

  def depths(self):
    return [('embedding',), ('block_1',)]


def params():
  rng = np.random.default_rng(0)
  paths = ('trunk/embedding/kernel', 'trunk/block_1/kernel', 'trunk/block_1/bias', 'trunk/block_10')
  flat = {path: rng.normal(size=3).astype(np.float32) for path in (*paths, 'heads_a/kernel')}
  return flax.traverse_util.unflatten_dict(flat, sep='/')


def update_of(optimizer, tree):
  updates, _ = optimizer.update(jax.tree.map(np.sin, tree), optimizer.init(tree), tree)
  return flax.traverse_util.flatten_dict(updates, sep='/')


FACTORS = {
  'trunk/embedding/kernel': 0.09,
  'trunk/block_1/kernel': 0.3,
  'trunk/block_1/bias': 0.3,
  'trunk/block_10': 1.0,
  'heads_a/kernel': 1.0,
}


@pytest.mark.parametrize('rule', [SGD, ADAM])
def test_an_update_is_the_factor_times_the_plain_one_with_its_decay_and_clipping(rule):
  values = {'weight_decay': 0.1, 'no_decay': ('bias$',), 'max_grad_norm': 0.5}
  plain = update_of(make_optimizer(config(rule, **values), LENGTHS), params())
  decayed = config(rule, layer_decay=0.3, **values)
  found = update_of(make_optimizer(decayed, LENGTHS, LayerRates(decayed, Trunk())), params())
  for path, factor in FACTORS.items():
    np.testing.assert_array_equal(found[path], plain[path] * np.float32(factor), strict=True)


def test_multipliers_by_pattern_and_what_is_frozen():
  chosen = config(multipliers=(('kernel$', 2.0), ('^heads_', 5.0)), layer_decay=0.5)
  rates = LayerRates(chosen, Trunk())
  assert rates.factor('heads_a/kernel') == 10
  assert rates.factor('trunk/embedding/kernel') == 0.5
  tree = params()
  del tree['trunk']['embedding']  # Frozen: the optimiser does not see it.
  found = update_of(make_optimizer(chosen, LENGTHS, rates), tree)
  plain = update_of(make_optimizer(config(), LENGTHS), tree)
  assert found.keys() == plain.keys()
  np.testing.assert_array_equal(found['heads_a/kernel'], plain['heads_a/kernel'] * 10)


def test_without_them_the_optimiser_is_as_it_was_and_with_them_its_state():
  tree = params()
  states = [
    make_optimizer(c, LENGTHS, LayerRates(c, Trunk())).init(tree)
    for c in (config(ADAM), config(ADAM, layer_decay=0.5))
  ]
  assert len(states[0]) == 2 and states[1][2:] == (optax.EmptyState(),)
  assert jax.tree.structure(states[0]) == jax.tree.structure(states[1][:2])
  assert not LayerRates(config(), object()).differ


def test_mistakes():
  with pytest.raises(ConfigError, match=r'`layer_decay` must be above 0 and at most 1.* got 0\.0'):
    config(layer_decay=0.0)
  with pytest.raises(ConfigError, match=r"the factor of '\^trunk' must be above 0, got 0\.0"):
    config(multipliers=(('^trunk', 0.0),))
  with pytest.raises(ConfigError, match='object has no method `depths`'):
    LayerRates(config(layer_decay=0.5), object())
  wrong = config(multipliers=(('heads_b', 2.0),))
  optimizer = make_optimizer(wrong, LENGTHS, LayerRates(wrong, Trunk()))
  with pytest.raises(
    ConfigError, match=r"'heads_b' matches no parameter that trains. There are \["
  ):
    optimizer.init(params())


def test_the_table_of_what_trains_how():
  chosen = config(
    layer_decay=0.5, frozen=('embedding',), weight_decay=0.05, no_decay=('bias$', 'block_10')
  )
  assert layer_table(chosen, groups(chosen, Trunk(), params())) == (
    'depth  parameters  learning rate  weight decay\n'
    '0               3         frozen             -  embedding\n'
    '1               6          x 0.5     0.05 of 3  block_1\n'
    '2               6            x 1     0.05 of 3  block_10, heads_a'
  )
  assert layer_table(config(), groups(config(), Trunk(), params())) == ''


def test_one_step_of_a_scanned_trunk_with_a_part_frozen(tiny_config, build):
  tiny_config.optimizer.update({'max_grad_norm': 0.0, 'weight_decay': 0.1})
  tiny_config.optimizer.rule = {'name': 'optax:trace', 'decay': 0.9, 'nesterov': False}
  tiny_config.optimizer.frozen = ('^trunk/embedding/',)
  tiny_config.tasks.motion.head.kernel_init = 'lecun_normal'
  tiny_config.trunk.update({'num_layers': 2, 'scan_layers': True})
  moved = {}
  for decay in (1.0, 0.5):
    tiny_config.optimizer.layer_decay = decay
    program = build(tiny_config)[0]
    before = program.init()
    start = jax.device_get(before.params)
    after, _ = program.train_step(before, program.to_device(batch_of(program, 8)))
    difference = jax.tree.map(lambda a, b: np.asarray(a) - b, after.params, start)
    moved[decay] = flax.traverse_util.flatten_dict(difference, sep='/')
  for path, factor in (
    ('trunk/embedding/kernel', 0),
    ('trunk/cls_SpatialTransformer', 0.125),
    ('trunk/SpatialTransformer/encoderblock_0/MlpBlock_0/Dense_0/kernel', 0.25),
    ('trunk/SpatialTransformer/encoderblock_1/MlpBlock_0/Dense_0/kernel', 0.5),
    ('heads_motion/output_projection/kernel', 1),
  ):
    assert factor == 0 or np.abs(moved[1.0][path]).max() > 1e-6
    # The differences of parameters are rounded to these.
    np.testing.assert_allclose(moved[0.5][path], moved[1.0][path] * factor, atol=2e-7)
