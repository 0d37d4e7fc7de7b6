"""The MViTv2 trunk: sizes, invariants, layouts and what it refuses."""

import functools
import math

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, PartitionSpec

from configs.multitrain import trunks
from configs.vivit import k400_base_fe
from errors import ConfigError
from models.depthwise import depthwise, depthwise_by_shifts, strided_grid
from models.heads import LinearHead, MLPHead
from models.video_model import VideoModel
from projects.multitrain.mvit import MViT
from projects.multitrain.pooling_attention import PoolingAttention, relative_index
from train_lib import cost, data
from train_lib.experiment import parse
from train_lib.mesh import state_shardings
from train_lib.pretrained_fit import resize_table

TINY = {
  'hidden_sizes': (8, 16),
  'num_layers': (1, 1),
  'num_heads': (1, 2),
  'query_strides': ((1, 1, 1), (1, 2, 2)),
  'key_value_strides': ((1, 2, 2), (1, 1, 1)),
  'patch_kernel': (3, 7, 7),
  'patch_stride': (2, 4, 4),
  'mlp_ratio': 2,
}
# Patches on (2, 5, 3): every pooling meets an odd size.
VIDEO = jax.random.normal(jax.random.key(0), (2, 4, 20, 12, 3))


def initialised(trunk, video=VIDEO, seed=1):
  """Random parameters, none of them zero."""
  init = functools.partial(trunk.init, train=False)
  shapes = flax.core.meta.unbox(jax.eval_shape(init, jax.random.key(0), video))
  leaves, tree = jax.tree.flatten(shapes)
  rng = np.random.default_rng(seed)
  values = [rng.normal(scale=0.2, size=x.shape).astype(np.float32) for x in leaves]
  return jax.tree.unflatten(tree, values)


@functools.cache
def compiled(trunk):
  return jax.jit(functools.partial(trunk.apply, train=False))


def run(trunk, variables, video=VIDEO):
  return jax.device_get(compiled(trunk)(variables, video))


@pytest.fixture(scope='module')
def tiny():
  """(trunk, parameters, features of `VIDEO`)."""
  trunk = MViT(**TINY)
  variables = initialised(trunk)
  return trunk, variables, run(trunk, variables)


def test_odd_maps_are_rounded_up(tiny):
  trunk, _, features = tiny
  assert trunk.patch_grid(VIDEO.shape) == (2, 5, 3)
  assert features.grid == trunk.grid(VIDEO.shape) == (2, 3, 2)
  assert features.tokens.shape == (2, 12, 16)
  assert trunk.stages(VIDEO.shape) == [('stage 1', 1, 30), ('stage 2', 1, 12)]
  np.testing.assert_allclose(features.pooled, features.tokens.mean(axis=1), atol=1e-6)


def test_parameter_names():
  trunk = MViT(**{**TINY, 'num_layers': (1, 2)})
  names = flax.traverse_util.flatten_dict(initialised(trunk)['params'], sep='/')
  block = {name.removeprefix('encoderblock_1/') for name in names if 'block_1' in name}
  leaves = {
    'kernel': ('attention/out', 'skip', 'MlpBlock_0/Dense_0', 'MlpBlock_0/Dense_1'),
    'scale': ('LayerNorm_0', 'LayerNorm_1'),
  }
  expected = {
    f'{stem}/{leaf}' for kind in leaves for stem in leaves[kind] for leaf in (kind, 'bias')
  }
  for part in ('query', 'key', 'value'):
    own = ('kernel', 'bias', 'pool_kernel', 'norm/scale', 'norm/bias')
    expected |= {f'attention/{part}/{leaf}' for leaf in own}
  assert block == expected
  rest = {name for name in names if 'encoderblock' not in name}
  assert rest == {
    *('embedding/kernel', 'embedding/bias', 'encoder_norm/scale', 'encoder_norm/bias'),
    *('posembed_space/pos_embedding', 'posembed_time/pos_embedding'),
  }
  assert not any('skip' in name for name in names if 'block_0' in name or 'block_2' in name)


def test_clips_of_a_batch_do_not_meet(tiny):
  trunk, variables, features = tiny
  other = run(trunk, variables, VIDEO.at[0].multiply(-1.0))
  np.testing.assert_array_equal(other.tokens[1], features.tokens[1])
  assert np.abs(other.tokens[0] - features.tokens[0]).max() > 0.1


def test_bfloat16_computes_in_it_and_stays_near(tiny):
  trunk, variables, features = tiny
  low = run(trunk.clone(dtype=jnp.bfloat16), variables)
  assert low.tokens.dtype == low.pooled.dtype == jnp.bfloat16
  difference = np.abs(low.tokens.astype(np.float32) - features.tokens).max()
  assert 0 < difference < 0.1


@pytest.mark.parametrize('remat', ['none', 'blocks', 'full'])
def test_every_block_is_recomputed(tiny, remat):
  trunk, variables, _ = tiny
  apply = functools.partial(trunk.clone(remat=remat).apply, train=False)
  text = str(jax.make_jaxpr(apply)(variables, VIDEO))
  assert text.count(' remat2[') == (0 if remat == 'none' else sum(TINY['num_layers']))


def test_stochastic_depth_grows_from_none_in_the_first_block():
  trunk = MViT(**{**TINY, 'num_layers': (1, 2)}, stochastic_depth_rate=0.5)
  rates = []

  def watch(call, arguments, options, context):
    if context.module.name in ('drop_0', 'drop_1') and context.method_name == '__call__':
      rates.append(context.module.rate)
    return call(*arguments, **options)

  with nn.intercept_methods(watch):
    init = functools.partial(trunk.init, train=False)
    jax.eval_shape(init, jax.random.key(0), VIDEO)
  assert rates == [0.0, 0.0, 0.25, 0.25, 0.5, 0.5]


@pytest.mark.parametrize('stride', [(1, 1, 1), (1, 2, 2), (2, 3, 4)])
def test_both_forms_of_pooling_agree(stride):
  x = jax.random.normal(jax.random.key(1), (2, 3, 6, 5, 4))
  kernel = jax.random.normal(jax.random.key(2), (3, 3, 5, 1, 4))
  form, other = (
    jax.jit(lambda x, kernel, form=form: jax.vjp(lambda *a: form(*a, stride), x, kernel)[0])(
      x, kernel
    )
    for form in (depthwise, depthwise_by_shifts)
  )
  assert form.shape == (2, *strided_grid((3, 6, 5), stride), 4)
  np.testing.assert_allclose(form, other, atol=1e-5)
  weights = jax.random.normal(jax.random.key(3), form.shape)

  def gradients(form):
    return jax.jit(jax.grad(lambda x, k: (form(x, k, stride) * weights).sum(), (0, 1)))(x, kernel)

  for ours, theirs in zip(gradients(depthwise_by_shifts), gradients(depthwise)):
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_pooling_by_shifts_adds_in_float32():
  x = jnp.ones((1, 3, 3, 3, 1), jnp.bfloat16)
  kernel = jnp.full((3, 3, 3, 1, 1), 1.0078125, jnp.bfloat16)
  pooled = depthwise_by_shifts(x, kernel, (1, 1, 1))
  assert pooled.dtype == jnp.bfloat16
  assert pooled[0, 1, 1, 1, 0] == jnp.bfloat16(27 * 1.0078125)


def mesh_of(platform, fsdp=1, tensor=1):
  device = AbstractDevice(device_kind=platform, num_cores=1, platform=platform)
  return AbstractMesh(
    (1, fsdp, tensor),
    ('data', 'fsdp', 'tensor'),
    axis_types=(AxisType.Auto,) * 3,
    abstract_device=device,
  )


def test_programs_for_cpus_shift_and_others_convolve(tiny):
  trunk, variables, _ = tiny

  def operations(platform):
    with jax.sharding.use_abstract_mesh(mesh_of(platform)):
      apply = functools.partial(trunk.apply, train=False)
      text = str(jax.make_jaxpr(apply)(variables, VIDEO))
    return text.count('conv_general_dilated['), text.count('scan[')

  pools = 3 * sum(TINY['num_layers'])
  assert operations('cpu') == (1, pools)
  assert operations('tpu') == operations('gpu') == (1 + pools, 0)


def test_relative_index_counts_from_the_farthest_key():
  np.testing.assert_array_equal(relative_index(3, 3), [[2, 1, 0], [3, 2, 1], [4, 3, 2]])
  np.testing.assert_array_equal(relative_index(4, 2), [[2, 0], [3, 1], [4, 2], [5, 3]])
  # floor(0 + 2 * 3 / 3), floor(1.5 + ...): the official code's numbers, which it truncates.
  np.testing.assert_array_equal(relative_index(2, 3), [[2, 1, 0], [3, 2, 1]])
  for queries, keys in ((39, 10), (20, 10), (10, 20), (7, 7)):
    index = relative_index(queries, keys)
    assert index.min() == 0
    assert index.max() < 2 * max(queries, keys) - 1


def test_relative_positions_of_zero_change_nothing(tiny):
  trunk, variables, features = tiny
  relative = trunk.clone(relative_positions=True)
  zeros = initialised(relative)
  tables = flax.traverse_util.flatten_dict(zeros['params'], sep='/')
  own = flax.traverse_util.flatten_dict(variables['params'], sep='/')
  assert {name.rsplit('/', 1)[1] for name in tables.keys() - own.keys()} == {
    *('rel_pos_t', 'rel_pos_h', 'rel_pos_w')
  }
  merged = {name: own.get(name, np.zeros_like(x)) for name, x in tables.items()}
  nested = {'params': flax.traverse_util.unflatten_dict(merged, sep='/')}
  np.testing.assert_allclose(run(relative, nested).tokens, features.tokens, atol=2e-5)


def test_relative_positions_add_to_the_logits_of_attention():
  grid, heads = (2, 3, 5), 2
  module = PoolingAttention(
    8,
    num_heads=heads,
    pool_kernel=(3, 3, 3),
    query_stride=(1, 1, 1),
    key_value_stride=(1, 2, 2),
    table_grid=grid,
  )
  x = np.random.default_rng(0).normal(size=(1, 30, 6)).astype(np.float32)
  init = functools.partial(module.init, grid=grid)
  shapes = flax.core.meta.unbox(jax.eval_shape(init, jax.random.key(0), x))
  rng = np.random.default_rng(1)
  variables = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)
  apply = jax.jit(functools.partial(module.apply, grid=grid, capture_intermediates=True))
  result, state = apply(variables, x)
  query, key, value = (
    np.float64(state['intermediates'][name]['__call__'][0][0]) for name in ('query', 'key', 'value')
  )
  logits = query @ key.swapaxes(1, 2) / 2  # [heads, 30, 12], heads of 4
  places = [np.indices(size).reshape(3, -1) for size in (grid, strided_grid(grid, (1, 2, 2)))]
  for axis, name in enumerate('thw'):
    sizes = [int(place[axis].max()) + 1 for place in places]
    index = relative_index(*sizes)[places[0][axis][:, None], places[1][axis][None]]
    table = variables['params'][f'rel_pos_{name}']
    assert len(table) == 2 * max(sizes) - 1
    logits += np.einsum('hqd,qkd->hqk', query, table[index])
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  attended = weights / weights.sum(-1, keepdims=True) @ value + query
  out = variables['params']['out']
  expected = np.einsum('hqd,hdc->qc', attended, out['kernel']) + out['bias']
  np.testing.assert_allclose(result[0], expected, rtol=1e-4, atol=1e-4)


def test_tables_are_resized_for_another_grid():
  fields = {**TINY, 'relative_positions': True}
  trunk = MViT(**fields, position_grid=(4, 8, 8))
  variables = initialised(trunk)
  tables = flax.traverse_util.flatten_dict(variables['params'], sep='/')
  own = MViT(**fields)
  shapes = flax.traverse_util.flatten_dict(initialised(own)['params'], sep='/')
  assert tables['posembed_space/pos_embedding'].shape == (1, 64, 8)
  assert tables['encoderblock_0/attention/rel_pos_h'].shape == (15, 8)
  grids = {'posembed_time': ((4,), (2,)), 'posembed_space': ((8, 8), (5, 3))}
  resized = {}
  for name, table in tables.items():
    before, after = grids.get(name.split('/')[0], (table.shape[:1], shapes[name].shape[:1]))
    if table.shape != shapes[name].shape:
      cells = resize_table(table.reshape(*before, -1), after, 'bilinear')
      resized[name] = cells.reshape(shapes[name].shape)
  assert len(resized) == 2 + 6
  theirs = {'params': flax.traverse_util.unflatten_dict({**tables, **resized}, sep='/')}
  np.testing.assert_allclose(run(trunk, variables).tokens, run(own, theirs).tokens, atol=2e-5)
  with pytest.raises(ConfigError, match=r'posembed_\w+: the table has .* set trunk\.position_grid'):
    jax.eval_shape(functools.partial(MViT(**TINY).apply, train=False), variables, VIDEO)


def test_one_frame():
  trunk = MViT(**{**TINY, 'patch_stride': (1, 4, 4)})
  video = VIDEO[:1, :1]
  features = run(trunk, initialised(trunk, video), video)
  assert features.grid == (1, 3, 2)
  assert np.isfinite(features.tokens).all()


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'num_heads': (1,)}, "one entry a stage.*'num_heads': 1"),
    ({'num_layers': (1, 0)}, r'trunk\.num_layers=\(1, 0\)'),
    ({'num_heads': (1, 3)}, r'num_heads\[1\]=3 does not divide trunk\.hidden_sizes\[1\]=16'),
    ({'query_strides': ((1, 1, 1), (1, 3, 3))}, r'query_strides\[1\]=\(1, 3, 3\): .* 1 or even'),
    ({'key_value_strides': ((1, 0, 0), (1, 1, 1))}, r'key_value_strides\[0\].* each at least 1'),
    ({'pool_kernel': (3, 2, 3)}, r'trunk\.pool_kernel=\(3, 2, 3\): expected odd'),
    ({'patch_stride': (2, 4)}, r'trunk\.patch_stride=\(2, 4\): expected \(t, h, w\)'),
    ({'position_grid': (2, 5)}, r'trunk\.position_grid=\(2, 5\)'),
    ({'attention_kernel': 'flash'}, "attention_kernel='flash': expected one of"),
    ({'attention_kernel': 'fused', 'relative_positions': True}, 'relative_positions=False'),
    ({'remat': 'some'}, "remat='some': expected one of"),
    ({'mlp_ratio': 0}, 'mlp_ratio=0'),
    ({'stochastic_depth_rate': 1.0}, r'rate in \[0, 1\)'),
  ],
)
def test_attributes_that_make_no_trunk(fields, message):
  with pytest.raises(ConfigError, match=message):
    MViT(**{**TINY, **fields})


@pytest.mark.parametrize('shape', [(1, 3, 20, 12, 3), (1, 4, 22, 12, 3), (1, 0, 20, 12, 3)])
def test_inputs_that_the_stride_does_not_divide(shape):
  with pytest.raises(ConfigError, match=r'\(t, h, w\) = \(2, 4, 4\) does not divide the input'):
    MViT(**TINY).grid(shape)


def full_size(frames):
  fields = trunks.mvit(frames).to_dict()
  return MViT(**{k: v for k, v in fields.items() if k != 'name'})


@pytest.mark.parametrize(
  ('frames', 'heads', 'parameters'),
  [
    ('32x3', {k: MLPHead(num_classes=k) for k in (400, 305, 174)}, 57_511_983),
    ('16x4', {400: LinearHead(num_classes=400)}, 34_709_296),
  ],
)
def test_parameters_at_inference(frames, heads, parameters):
  model = VideoModel(full_size(frames), {f'task{k}': head for k, head in heads.items()})
  video = jax.ShapeDtypeStruct((1, int(frames[:2]), 224, 224, 3), jnp.float32)
  init = functools.partial(model.init, train=False)
  variables = flax.core.meta.unbox(jax.eval_shape(init, jax.random.key(0), video))
  assert cost.count(variables['params']) == parameters


@pytest.mark.parametrize(
  ('side', 'parameters', 'gflops'),
  [
    # The supplement says 224 and 614; matrix products and convolutions alone are 223.13 and 612.40.
    (224, 51_293_776, 224.8),
    (312, 51_576_784, 617.5),
  ],
)
def test_published_sizes(side, parameters, gflops):
  config = k400_base_fe.get_config()
  config.trunk = trunks.mvit('32x3')
  config.datasets.kinetics400.clip.update({'crop': side, 'resize': math.ceil(side * 8 / 7)})
  experiment = parse(config)
  result = cost.cost_of(experiment, data.facts_or_nominal(experiment), 'kinetics400')
  assert result.parameters == parameters
  assert round(result.flops / 1e9, 1) == gflops


def test_unknown_frames():
  with pytest.raises(ValueError, match=r"'8x8'.*\['16x4', '32x3'\]"):
    trunks.mvit('8x8')


@pytest.mark.parametrize(('fsdp', 'tensor', 'heads'), [(8, 1, (1, 1)), (2, 2, (None, 2))])
def test_parameters_divide_over_a_mesh(fsdp, tensor, heads):
  mesh = mesh_of('tpu', fsdp, tensor)
  with jax.sharding.use_abstract_mesh(mesh):
    init = functools.partial(MViT(**TINY).init, train=False)
    boxed = jax.eval_shape(init, jax.random.key(0), VIDEO)
  specs = jax.tree.map(lambda x: x.spec, state_shardings(boxed, mesh))['params']
  blocks = [specs[f'encoderblock_{i}']['attention']['query']['kernel'] for i in (0, 1)]
  # One head cannot be split over two devices: each has all of the first stage.
  expected = [PartitionSpec('fsdp', None if n is None else 'tensor', None) for n in heads]
  assert blocks == expected
