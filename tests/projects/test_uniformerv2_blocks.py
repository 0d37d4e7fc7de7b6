"""Blocks of UniFormerV2's trunk against what they are made of, and the fusions of section 3.3."""

import functools

import flax
import jax
import numpy as np
import pytest

from configs.uniformerv2 import trunks
from configs.vivit import k400_base_fe
from models import layers
from projects.uniformerv2 import blocks
from projects.uniformerv2.global_block import FUSIONS, GlobalBlock, queries_and_context
from tests.projects.test_uniformerv2 import (
  VIDEO,
  compiled,
  flat,
  random_like,
  run,
  shapes_of,
  trunk_of,
)
from train_lib import cost, data
from train_lib.experiment import parse

RNG = np.random.default_rng(1)
TOKENS = RNG.normal(size=(2, 3, 5, 16)).astype(np.float32)  # [B, T, 1 + S, C]
BLOCK = {'num_heads': 2, 'mlp_dim': 8, 'layer_norm_epsilon': 1e-5}


def block_case(kind, **fields):
  """(variables, output, function of the plain block with the same weights)."""
  block = kind(**BLOCK, **fields)
  variables = random_like(shapes_of(block, TOKENS))
  plain_block = layers.EncoderBlock(**BLOCK)
  names = flat(shapes_of(plain_block, TOKENS)['params'])
  own = {k: v for k, v in flat(variables['params']).items() if k in names}
  params = flax.traverse_util.unflatten_dict(own, sep='/')

  def apply(x, without_mlp=False):
    changed = flat(params)
    if without_mlp:
      changed |= {k: 0 * v for k, v in changed.items() if k.startswith('MlpBlock_0/Dense_1')}
    nested = flax.traverse_util.unflatten_dict(changed, sep='/')
    return run(plain_block, {'params': nested}, x)

  return variables, run(block, variables, TOKENS), apply


def test_joint_attention_is_the_vits_on_one_long_frame():
  _, found, plain_block = block_case(blocks.Joint)
  expected = plain_block(TOKENS.reshape(2, 1, 15, 16)).reshape(TOKENS.shape)
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_divided_attention_is_along_time_and_then_in_a_frame():
  variables, found, plain_block = block_case(blocks.Divided)
  norm = variables['params']['temporal_norm']
  x = TOKENS[:, :, 1:]
  x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
  x = x * norm['scale'] + norm['bias']
  attention = layers.MultiHeadAttention(num_heads=2)
  changed = TOKENS.copy()
  for place in range(4):
    own = {'params': variables['params']['temporal_attention']}
    changed[:, :, 1 + place] += run(attention, own, x[:, :, place])
  np.testing.assert_allclose(found, plain_block(changed), atol=1e-4)


def test_convolution_changes_patches_before_attention():
  variables, found, plain_block = block_case(blocks.Convolution)
  kernel, bias = (variables['params']['temporal_convolution'][x] for x in ('kernel', 'bias'))
  padded = np.pad(TOKENS, ((0, 0), (1, 1), (0, 0), (0, 0)))
  changed = sum(padded[:, i : i + 3] * kernel[i, 0, 0, 0] for i in range(3)) + bias
  changed[:, :, 0] = TOKENS[:, :, 0]
  np.testing.assert_allclose(found, plain_block(changed), atol=1e-5)


def test_shifted_channels():
  x = np.arange(2 * 3 * 16, dtype=np.float32).reshape(1, 3, 2, 16)
  found = np.asarray(blocks.shifted(x))
  np.testing.assert_array_equal(found[:, :2, :, :2], x[:, 1:, :, :2])
  np.testing.assert_array_equal(found[:, 1:, :, 2:4], x[:, :2, :, 2:4])
  np.testing.assert_array_equal(found[..., 4:], x[..., 4:])
  assert not found[:, 2, :, :2].any() and not found[:, 0, :, 2:4].any()


def test_shift_is_in_the_branch_of_attention():
  variables, _, plain_block = block_case(blocks.Shift)
  silent = flat(variables['params'])
  silent |= {k: 0 * v for k, v in silent.items() if k.startswith('MlpBlock_0/Dense_1')}
  nested = flax.traverse_util.unflatten_dict(silent, sep='/')
  found = run(blocks.Shift(**BLOCK), {'params': nested}, TOKENS)
  changed = TOKENS.copy()
  changed[:, :, 1:] = blocks.shifted(TOKENS[:, :, 1:])
  branch = plain_block(changed, without_mlp=True) - changed
  np.testing.assert_allclose(found, TOKENS + branch, atol=1e-5)


def test_adapters_have_no_norm_and_frames_beyond_the_clip_are_zero_after_the_bias():
  module = blocks.LocalMHRA(hidden_size=6, adapter=True)
  x = TOKENS[:, :, 1:]
  params = random_like(shapes_of(module, x))['params']
  assert params.keys() == {'Dense_0', 'convolution', 'Dense_1'}
  hidden = x @ params['Dense_0']['kernel'] + params['Dense_0']['bias']
  padded = np.pad(hidden, ((0, 0), (1, 1), (0, 0), (0, 0)))
  taps = params['convolution']['kernel'][:, 0, 0, 0]
  mixed = sum(padded[:, i : i + 3] * taps[i] for i in range(3)) + params['convolution']['bias']
  expected = mixed @ params['Dense_1']['kernel'] + params['Dense_1']['bias']
  np.testing.assert_allclose(module.apply({'params': params}, x, train=False), expected, atol=1e-5)


# Fusion.


@functools.cache
def fused(fusion, queries):
  """(parameters, video token, global blocks as functions of queries and more keys)."""
  trunk = trunk_of(global_layers=2, fusion=fusion, num_queries=queries, output='global')
  params = random_like(shapes_of(trunk))['params']

  def watched(module, method):
    return method == '__call__' and 'encoderblock' in str(module.name)

  apply = functools.partial(trunk.apply, train=False, capture_intermediates=watched)
  features, state = jax.device_get(jax.jit(apply)({'params': params}, VIDEO))
  modules = state['intermediates']
  calls = []
  for j in (0, 1):
    block = GlobalBlock(
      num_heads=2,
      mlp_dim=24,
      grid=(4, 3, 2),
      dpe=True,
      gelu='quick',
      layer_norm_epsilon=1e-5,
      dropout_rate=0.0,
      stochastic_depth_rate=0.0,
    )
    depth = modules['SpatialTransformer'][f'encoderblock_{j}']['__call__'][0]

    def call(query, context=None, block=block, j=j, depth=depth):
      return np.asarray(compiled(block)({'params': params[f'global_{j}']}, query, depth, context))

    calls.append(call)
  return params, features.pooled, calls


def pooled_from(params, token):
  norm = params['fusion_norm']
  token = np.asarray(token, np.float64)
  centred = token - token.mean(-1, keepdims=True)
  return centred / np.sqrt(token.var(-1, keepdims=True) + 1e-5) * norm['scale'] + norm['bias']


def rows_of(params, j):
  return np.broadcast_to(params['query'][j], (2, *params['query'].shape[1:]))


def test_fusions():
  """Section 3.3: what each global block gets, and what becomes of what it makes."""
  queries, expected = 2, {}
  params, _, (first, second) = fused('sequential', queries)
  assert params['query'].shape == (1, queries, 16)
  expected['sequential'] = second(first(rows_of(params, 0))).mean(1)
  params, _, (first, second) = fused('parallel', queries)
  assert params['query'].shape == (2, queries, 16)
  both = [block(rows_of(params, j)).mean(1) for j, block in enumerate((first, second))]
  expected['parallel'] = np.concatenate(both, -1) @ params['fusion_projection']['kernel']
  params, _, (first, second) = fused('hierarchical_kv', queries)
  expected['hierarchical_kv'] = second(rows_of(params, 1), first(rows_of(params, 0))).mean(1)
  params, _, (first, second) = fused('hierarchical_q', queries)
  rows = np.concatenate([second(first(rows_of(params, 0))), second(rows_of(params, 1))], axis=1)
  expected['hierarchical_q'] = rows.mean(1)
  for fusion, token in expected.items():
    params, found, _ = fused(fusion, queries)
    np.testing.assert_allclose(found, pooled_from(params, token), atol=1e-3, err_msg=fusion)


def test_the_first_block_has_its_own_queries_alone():
  own, before = np.ones((1, 1, 2)), np.zeros((1, 2, 2))
  for fusion in ('sequential', 'parallel', 'hierarchical_kv', 'hierarchical_q'):
    assert queries_and_context(fusion, own, None) == (own, None)
  assert queries_and_context('sequential', own, before) == (before, None)
  assert queries_and_context('parallel', own, before) == (own, None)
  assert queries_and_context('hierarchical_kv', own, before) == (own, before)
  np.testing.assert_array_equal(
    queries_and_context('hierarchical_q', own, before)[0], [[[0, 0], [0, 0], [1, 1]]]
  )


@pytest.mark.parametrize('fusion', FUSIONS)
def test_several_queries_do_not_stay_one(fusion):
  trunk = trunk_of(num_layers=1, fusion=fusion, num_queries=3, output='global')

  def init_and_step(key):
    params = flax.core.meta.unbox(trunk.init(key, VIDEO, train=False)['params'])
    gradient = jax.grad(lambda p: trunk.apply({'params': p}, VIDEO, train=False).pooled[:, 0].sum())
    return jax.tree.map(lambda x, g: x - 0.1 * g, params, gradient(params))

  queries = np.asarray(jax.jit(init_and_step)(jax.random.key(0))['query'])
  for one in queries:
    assert all(np.abs(one[i] - one[j]).max() > 1e-3 for i, j in ((0, 1), (0, 2), (1, 2)))


def test_places_of_global_blocks_from_a_config():
  config = k400_base_fe.get_config()
  config.trunk = trunks.uniformerv2('Ti', num_layers=3, global_layers=1)
  (dataset,) = config.datasets
  costs = {}
  for places in (None, (2,), (0,)):
    config.trunk.global_places = places
    experiment = parse(config)
    costs[places] = cost.cost_of(experiment, data.facts_or_nominal(experiment), dataset)
  assert costs[None] == costs[2,]
  assert costs[0,].parameters == costs[None].parameters
  assert costs[0,].flops == pytest.approx(costs[None].flops, rel=1e-6)
  trunk, early = (trunk_of(num_layers=2, global_places=p, output='global') for p in (None, (0,)))
  variables = random_like(shapes_of(trunk))
  assert flat(shapes_of(early)['params']).keys() == flat(variables['params']).keys()
  cut = {
    **variables['params'],
    'SpatialTransformer': dict(variables['params']['SpatialTransformer']),
  }
  del cut['SpatialTransformer']['encoderblock_1']
  expected = run(trunk_of(num_layers=1, output='global'), {'params': cut}).pooled
  np.testing.assert_allclose(run(early, variables).pooled, expected, atol=1e-5)


def test_activations_keep_to_the_batch():
  """After the positions, each block, and of each global one the learned queries and what it makes."""
  trunk = trunk_of(num_layers=2, global_layers=2)
  apply = functools.partial(trunk.apply, train=False)
  mesh = jax.sharding.AbstractMesh((2, 1, 1), ('data', 'fsdp', 'tensor'))
  with jax.sharding.use_abstract_mesh(mesh):
    text = str(jax.make_jaxpr(apply)(shapes_of(trunk), VIDEO))
  assert text.count('sharding_constraint[') == 1 + 2 + 2 * 2
