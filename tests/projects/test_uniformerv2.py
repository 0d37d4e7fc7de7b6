"""The UniFormerV2 trunk: sizes, what it starts as, its parts, and what it refuses."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from configs.uniformerv2 import trunks
from errors import ConfigError
from models import layers
from models.heads import DetectionHead, LinearHead
from models.video_model import VideoModel
from projects.uniformerv2.uniformerv2 import UniFormerV2
from train_lib import cost, frozen

TINY = {'hidden_size': 16, 'num_layers': 2, 'num_heads': 2, 'mlp_dim': 24, 'patch_size': 4}
LAST = {'global_layers': 0, 'output': 'class'}
# 4 frames of 3 x 2 patches.
VIDEO = np.random.default_rng(0).normal(size=(2, 4, 12, 8, 3)).astype(np.float32)


def trunk_of(**fields):
  return UniFormerV2(**{**TINY, 'global_layers': 1, **fields})


def shapes_of(trunk, video=VIDEO):
  init = functools.partial(trunk.init, train=False)
  return flax.core.meta.unbox(jax.eval_shape(init, jax.random.key(0), video))


def random_like(shapes, scale=0.2):
  """Random parameters, none of them zero; running statistics as they begin."""
  rng = np.random.default_rng(2)
  draw = lambda x: rng.normal(scale=scale, size=x.shape).astype(np.float32)  # noqa: E731
  variables = {'params': jax.tree.map(draw, shapes['params'])}
  if 'batch_stats' in shapes:
    variables['batch_stats'] = jax.tree.map(
      lambda x: rng.uniform(0.5, 1.5, x.shape).astype(np.float32), shapes['batch_stats']
    )
  return variables


@functools.cache
def compiled(trunk):
  return jax.jit(functools.partial(trunk.apply, train=False))


def run(trunk, variables, video=VIDEO):
  return jax.device_get(compiled(trunk)(variables, video))


def flat(tree):
  return flax.traverse_util.flatten_dict(tree, sep='/')


@pytest.fixture(scope='module')
def whole():
  """(trunk, variables, features of `VIDEO`) with local blocks, downsampling and two global blocks."""
  trunk = trunk_of(
    temporal_module='local_mhra',
    temporal_downsampling=True,
    local_repeats=2,
    global_layers=2,
  )
  variables = random_like(shapes_of(trunk))
  return trunk, variables, run(trunk, variables)


def test_features(whole):
  trunk, _, features = whole
  assert features.grid == trunk.grid(VIDEO.shape) == (2, 3, 2)
  assert features.tokens.shape == (2, 12, 16)
  assert features.pooled.shape == (2, 16)
  assert trunk.stages(VIDEO.shape) == [('SpatialTransformer', 2, 7), ('global', 1, 14)]


def test_names(whole):
  """What image ViTs and checkpoints load by, and what stays frozen."""
  _, variables, _ = whole
  names = set(flat(variables['params']))
  of_block = {
    n.split('/', 2)[2] for n in names if n.startswith('SpatialTransformer/encoderblock_1')
  }
  dense = lambda *stems: {f'{s}/{leaf}' for s in stems for leaf in ('kernel', 'bias')}  # noqa: E731
  norms = lambda *stems: {f'{s}/{leaf}' for s in stems for leaf in ('scale', 'bias')}  # noqa: E731
  attention = 'MultiHeadDotProductAttention_0'
  vit = norms('LayerNorm_0', 'LayerNorm_1') | dense('MlpBlock_0/Dense_0', 'MlpBlock_0/Dense_1')
  vit |= dense(*(f'{attention}/{part}' for part in ('query', 'key', 'value', 'out')))
  local = norms('local_0/norm', 'local_1/norm')
  local |= dense(*(f'local_{i}/{x}' for i in (0, 1) for x in ('Dense_0', 'convolution', 'Dense_1')))
  assert of_block == vit | local
  of_global = {n.split('/', 1)[1] for n in names if n.startswith('global_1')}
  assert of_global == vit | norms('LayerNorm_context') | dense('dpe')
  rest = {n for n in names if not n.startswith('global_') and 'encoderblock' not in n}
  assert rest == {
    *('embedding/kernel', 'cls', 'query', 'fusion_balance'),
    *('pre_norm/scale', 'pre_norm/bias', 'fusion_norm/scale', 'fusion_norm/bias'),
    'SpatialTransformer/posembed_input/pos_embedding',
  }
  shapes = {n: x.shape for n, x in flat(variables['params']).items()}
  assert shapes['embedding/kernel'] == (3, 4, 4, 3, 16)
  assert shapes['SpatialTransformer/posembed_input/pos_embedding'] == (1, 7, 16)
  assert shapes['SpatialTransformer/encoderblock_0/local_0/Dense_0/kernel'] == (16, 10)
  statistics = set(flat(variables['batch_stats']))
  assert statistics == {
    f'SpatialTransformer/encoderblock_{i}/local_{j}/norm/{leaf}'
    for i in (0, 1)
    for j in (0, 1)
    for leaf in ('mean', 'var')
  }


def test_other_vits_have_a_bias_and_no_norm_before_their_blocks():
  names = set(flat(shapes_of(trunk_of(**trunks.PLAIN_VIT))['params']))
  assert 'embedding/bias' in names
  assert not any(name.startswith('pre_norm') for name in names)


def test_frames_before_and_after_the_clip_are_zero():
  """Temporal downsampling is a convolution, padded alike on both sides, of which 2t - 1 is the first."""
  trunk = trunk_of(temporal_downsampling=True, **LAST)
  variables = random_like(shapes_of(trunk))
  kernel = variables['params']['embedding']['kernel']
  is_patch = lambda module, _: isinstance(module, layers.PatchEmbedding)  # noqa: E731
  apply = jax.jit(functools.partial(trunk.apply, train=False, capture_intermediates=is_patch))
  _, state = apply(variables, VIDEO)
  found = state['intermediates']['embedding']['__call__'][0]
  padded = np.pad(VIDEO, ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)))
  for t in (0, 1):
    patch = padded[:, 2 * t : 2 * t + 3, 4:8, :4]
    expected = np.einsum('bthwi,thwic->bc', patch, kernel)
    np.testing.assert_allclose(found[:, t, 1, 0], expected, atol=1e-4)


def initialised(trunk):
  return flax.core.meta.unbox(jax.jit(functools.partial(trunk.init, train=False))(RNG_KEY, VIDEO))


RNG_KEY = jax.random.key(3)
STARTS_AS_THE_VIT = {
  'local_mhra': {'local_repeats': 2, 'local_dpe': True},
  'st_adapter': {},
  'convolution': {},
  'attention': {},
}


def with_module(module):
  changes = STARTS_AS_THE_VIT.get(module, {})
  return trunk_of(num_layers=1, temporal_module=module, **changes, **LAST)


@functools.cache
def plain():
  """(variables, features) of a ViT on each frame."""
  trunk = trunk_of(num_layers=1, **LAST)
  variables = random_like(shapes_of(trunk))
  return variables, run(trunk, variables)


@pytest.mark.parametrize('module', STARTS_AS_THE_VIT)
def test_temporal_modules_start_as_the_image_vit(module):
  trunk = with_module(module)
  variables = initialised(trunk)
  vit, expected = plain()
  own = flat(variables['params'])
  assert own.keys() > flat(vit['params']).keys()
  merged = flax.traverse_util.unflatten_dict({**own, **flat(vit['params'])}, sep='/')
  found = run(trunk, {**variables, 'params': merged})
  np.testing.assert_allclose(found.tokens, expected.tokens, atol=1e-5)
  np.testing.assert_allclose(found.pooled, expected.pooled, atol=1e-5)


@pytest.mark.parametrize('module', ['none', *STARTS_AS_THE_VIT, 'shift', 'joint', 'transformer'])
def test_all_but_mean_pooling_see_the_order_of_frames(module):
  trunk = with_module(module)
  variables = random_like(shapes_of(trunk), scale=0.6)
  differ = run(trunk, variables).pooled - run(trunk, variables, VIDEO[:, ::-1]).pooled
  assert (np.abs(differ).max() > 1e-3) == (module != 'none')
  if module == 'none':
    np.testing.assert_allclose(differ, 0, atol=1e-5)


def test_global_blocks_start_as_the_class_tokens():
  """With all that is zero at first: the video token is zero, and the rest is half of the class token."""
  trunk = trunk_of(num_layers=1)
  params = flat(initialised(trunk)['params'])
  zeros = {name for name, x in params.items() if not np.any(x)}
  out = 'MultiHeadDotProductAttention_0/out'
  assert zeros >= {
    *('query', 'fusion_balance'),
    *(f'global_0/{out}/{leaf}' for leaf in ('kernel', 'bias')),
    *(f'global_0/MlpBlock_0/Dense_1/{leaf}' for leaf in ('kernel', 'bias')),
    'global_0/dpe/bias',
  }
  assert np.any(params['global_0/dpe/kernel']) and np.any(
    params['global_0/MlpBlock_0/Dense_0/kernel']
  )
  shared, expected = plain()
  vit = {n: x for n, x in flat(shared['params']).items() if not n.startswith('fusion_norm')}
  merged = flax.traverse_util.unflatten_dict({**params, **vit}, sep='/')
  found = run(trunk, {'params': merged})
  # `plain` has its own scale and bias after the norm.
  theirs = shared['params']['fusion_norm']
  class_token = (expected.pooled - theirs['bias']) / theirs['scale']
  np.testing.assert_allclose(found.pooled, class_token, atol=1e-3)
  np.testing.assert_array_equal(found.tokens, expected.tokens)


def test_only_the_first_blocks_may_have_the_module():
  trunk = trunk_of(temporal_module='st_adapter', temporal_layers=1, local_reduction=4.0)
  names = {name for name in flat(shapes_of(trunk)['params']) if 'local_' in name}
  assert {name.split('/')[1] for name in names} == {'encoderblock_0'}
  whole_trunk = trunk_of(temporal_module='joint', temporal_layers=1)
  rows = [('joint', 1, 28), ('SpatialTransformer', 4, 7), ('global', 1, 28)]
  assert whole_trunk.stages(VIDEO.shape) == rows
  assert trunk_of(temporal_module='joint', **LAST).stages(VIDEO.shape) == rows[:1]
  divided = trunk_of(temporal_module='attention', **LAST).stages(VIDEO.shape)
  assert divided == [('SpatialTransformer', 4, 7), ('temporal attention', 6, 4)]
  transformer = trunk_of(temporal_module='transformer', **LAST).stages(VIDEO.shape)
  assert transformer == [('SpatialTransformer', 4, 7), ('TemporalTransformer', 1, 5)]


def test_output_is_weighted_by_the_channel():
  trunk = trunk_of()
  params = random_like(shapes_of(trunk))['params']
  pooled = {}
  for name, balance in (('global', -30.0), ('class', 30.0)):
    changed = {**params, 'fusion_balance': np.full(16, balance, np.float32)}
    pooled[name] = run(trunk, {'params': changed}).pooled
  alone = {k: v for k, v in params.items() if k != 'fusion_balance'}
  found = run(trunk.clone(output='global'), {'params': alone}).pooled
  np.testing.assert_allclose(found, pooled['global'], atol=1e-5)
  vit = {k: v for k, v in alone.items() if not k.startswith(('global', 'query'))}
  found = run(trunk_of(**LAST), {'params': vit}).pooled
  np.testing.assert_allclose(found, pooled['class'], atol=1e-5)
  assert np.abs(pooled['class'] - pooled['global']).max() > 0.1


# Training and layouts.


def test_bfloat16_computes_in_it_and_stays_near(whole):
  trunk, variables, features = whole
  low = run(trunk.clone(dtype=jnp.bfloat16), variables)
  assert low.tokens.dtype == low.pooled.dtype == jnp.bfloat16
  difference = np.abs(low.tokens.astype(np.float32) - features.tokens).max()
  assert 0 < difference < 0.2


def trained(trunk, variables):
  """Loss, gradients and statistics of a step in training mode."""

  @jax.jit
  def step(params, statistics):
    def loss(params):
      features, state = trunk.apply(
        {'params': params, 'batch_stats': statistics},
        VIDEO,
        train=True,
        mutable=['batch_stats'],
        rngs={'dropout': jax.random.key(0)},
      )
      return jnp.square(features.pooled).sum() + features.tokens.sum(), state

    return jax.value_and_grad(loss, has_aux=True)(params)

  return jax.device_get(step(variables['params'], variables['batch_stats']))


def test_recomputing_changes_nothing():
  trunk = trunk_of(
    num_layers=1,
    temporal_module='local_mhra',
    stochastic_depth_rate=0.3,
    global_stochastic_depth_rate=0.3,
  )
  variables = random_like(shapes_of(trunk))
  expected, found = (trained(trunk.clone(remat=remat), variables) for remat in ('none', 'full'))
  for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(found)):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4, err_msg=jax.tree_util.keystr(path))
  moved, before = flat(expected[0][1]['batch_stats']), flat(variables['batch_stats'])
  assert all(np.abs(moved[name] - before[name]).max() > 1e-3 for name in before)


@pytest.mark.parametrize('remat', ['none', 'blocks', 'full'])
def test_every_block_is_recomputed(whole, remat):
  trunk, variables, _ = whole
  apply = functools.partial(trunk.clone(remat=remat).apply, train=False)
  text = str(jax.make_jaxpr(apply)(variables, VIDEO))
  assert text.count(' remat2[') == (0 if remat == 'none' else 2 + 2)


def test_what_is_dropped_in_training():
  trunk = trunk_of(
    global_layers=2,
    stochastic_depth_rate=0.4,
    global_dropout_rate=0.5,
    global_stochastic_depth_rate=0.8,
    dropout_rate=0.1,
  )
  rates = {}

  def watch(call, arguments, options, context):
    if context.method_name == '__call__' and hasattr(context.module, 'rate'):
      rates['/'.join(context.module.path)] = context.module.rate
    return call(*arguments, **options)

  with nn.intercept_methods(watch):
    shapes_of(trunk)
  in_blocks = 'SpatialTransformer/encoderblock_'
  assert {k: v for k, v in rates.items() if k.rsplit('/', 1)[1].startswith('drop_')} == {
    **{f'{in_blocks}{i}/drop_{j}': 0.2 * (i + 1) for i in (0, 1) for j in (0, 1)},
    **{f'global_{i}/drop_{j}': 0.4 * (i + 1) for i in (0, 1) for j in (0, 1)},
  }
  assert rates['global_1/MlpBlock_0/dropout_0'] == 0.5
  assert rates['global_1/MlpBlock_0/dropout_1'] == 0.0
  assert rates[f'{in_blocks}1/MlpBlock_0/dropout_1'] == rates['SpatialTransformer/dropout'] == 0.1


def test_clips_of_other_sizes_share_tables():
  trunk = trunk_of(temporal_module='attention', position_grid=(2, 5, 5), **LAST)
  shapes = flat(shapes_of(trunk)['params'])
  assert shapes['SpatialTransformer/posembed_input/pos_embedding'].shape == (1, 26, 16)
  assert shapes['posembed_time/pos_embedding'].shape == (1, 2, 16)
  variables = random_like(shapes_of(trunk))
  assert run(trunk, variables).grid == (4, 3, 2)
  with pytest.raises(ConfigError, match=r'posembed_\w+: the table has .* set trunk\.position_grid'):
    jax.eval_shape(
      functools.partial(trunk.clone(position_grid=None).apply, train=False), variables, VIDEO
    )


def test_boxes_read_the_last_block():
  head = DetectionHead(num_classes=3)
  model = VideoModel(trunk_of(), {'x': head})
  boxes = np.array([[[0.0, 0.0, 1.0, 1.0]]] * 2, np.float32)
  init = functools.partial(model.init_with_output, boxes=boxes, train=False)
  (_, logits), _ = jax.eval_shape(init, jax.random.key(0), VIDEO)
  assert logits['x'].shape == (2, 1, 3)


# Settings.


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'hidden_size': 15}, r'trunk\.num_heads=2 does not divide trunk\.hidden_size=15'),
    ({'patch_size': 0}, r'trunk\.patch_size=0: expected at least 1'),
    ({'num_queries': 0}, r'trunk\.num_queries=0'),
    ({'temporal_module': 'lstm'}, r"temporal_module='lstm': expected one of"),
    ({'fusion': 'none'}, r"fusion='none': expected one of"),
    ({'output': 'mean'}, r"output='mean': expected one of"),
    ({'remat': 'some'}, r"remat='some'"),
    ({'gelu': 'relu'}, r"gelu='relu'"),
    ({'global_layers': 3}, r'global_layers=3: expected 0 to trunk\.num_layers=2'),
    ({'global_layers': -1}, r'global_layers=-1: expected 0 to'),
    ({'global_places': (1, 0)}, r'global_places=\(1, 0\): .* ascending'),
    ({'global_places': (0, 2)}, r'global_places=\(0, 2\): .* from 0 to 1, or None'),
    ({'global_places': (1,)}, r'\(1,\) with trunk\.global_layers=2: .* set trunk\.global_layers=1'),
    ({**LAST, 'global_places': (1,)}, r'global_layers=0: .* set trunk\.global_layers=1'),
    ({'global_num_heads': 3}, r'global_num_heads=3 does not divide'),
    ({'global_num_heads': 0}, r'global_num_heads=0: expected at least 1'),
    ({'global_mlp_dim': 0}, r'global_mlp_dim=0: expected at least 1'),
    ({'global_dropout_rate': 1.0}, r'global_dropout_rate=1\.0: expected a rate'),
    ({'global_stochastic_depth_rate': -0.1}, r'global_stochastic_depth_rate=-0\.1'),
    ({'position_grid': (2, 2)}, r'position_grid=\(2, 2\)'),
    ({'temporal_module': 'joint', 'temporal_layers': 3}, r'temporal_layers=3: expected 1 to'),
    (
      {'hidden_size': 4, 'temporal_module': 'shift'},
      r"'shift' moves eighths .*\.hidden_size of at least 8, got 4",
    ),
    ({'temporal_layers': 1}, r"temporal_layers=1: only temporal_module of .*'none'"),
    (
      {'temporal_module': 'convolution', 'local_repeats': 2},
      r"local_repeats=2: only temporal_module of \('local_mhra', 'st_adapter'\) reads it",
    ),
    ({'local_repeats': 3, 'temporal_module': 'local_mhra'}, r'local_repeats=3: expected one of'),
    ({'local_reduction': 2.0}, r'local_reduction=2\.0: only'),
    ({'local_reduction': 0.0, 'temporal_module': 'local_mhra'}, r'local_reduction=0\.0: expected'),
    ({'local_dpe': True, 'temporal_module': 'st_adapter'}, r'local_dpe=True: only'),
    ({'temporal_transformer_layers': 2}, r'temporal_transformer_layers=2: only'),
    ({**LAST, 'fusion': 'parallel'}, r"fusion='parallel': there are no global blocks"),
    ({**LAST, 'global_dpe': False}, r'global_dpe=False: there are no global blocks'),
    ({'global_layers': 0}, r"output='fused' with trunk\.global_layers=0: .* 'class'"),
    ({'output': 'class'}, r"output='class' with trunk\.global_layers=2: .* idle"),
    (
      {'temporal_module': 'transformer', 'output': 'global'},
      r"temporal_module='transformer' is on the class tokens",
    ),
    ({'attention_kernel': 'fused', 'attention_dropout_rate': 0.1}, 'no dropout of attention'),
  ],
)
def test_settings_that_make_no_trunk(fields, message):
  with pytest.raises(ConfigError, match=message):
    UniFormerV2(**{**TINY, 'global_layers': 2, **fields})


@pytest.mark.parametrize('shape', [(1, 3, 12, 8, 3), (1, 4, 10, 8, 3), (1, 0, 12, 8, 3)])
def test_inputs_that_the_strides_do_not_divide(shape):
  message = (
    r'temporal_downsampling=True: the strides \(t, h, w\) = \(2, 4, 4\) do not divide .*\(T, '
  )
  with pytest.raises(ConfigError, match=message):
    trunk_of(temporal_downsampling=True).grid(shape)


def test_configured_trunks():
  """Every key is a field with the same default but for the sizes and what large models recompute."""
  for size in trunks.SIZES:
    fields = trunks.uniformerv2(size).to_dict()
    assert fields.pop('name') == 'projects.uniformerv2.uniformerv2:UniFormerV2'
    defaults = {k: v.default for k, v in UniFormerV2.__dataclass_fields__.items()}
    assert fields.keys() == defaults.keys() - {'parent', 'name', 'dtype'}
    sizes = {*TINY, 'remat'}
    assert {k for k, v in fields.items() if v != defaults[k]} - sizes == set()
    UniFormerV2(**fields)
  with pytest.raises(ValueError, match=r"Unknown size 'H'; known: \['B/16'"):
    trunks.uniformerv2('H')
  with pytest.raises(ValueError, match=r"Unknown trunk keys \['patch'\]"):
    trunks.uniformerv2('Ti', patch=8)


# Published sizes, also those of tests/configs/test_uniformerv2_configs.py.


def full_size(size, classes, shape, **changes):
  """Abstract variables of a model, as a run has them."""
  fields = trunks.uniformerv2(size, **changes).to_dict()
  del fields['name']
  model = VideoModel(UniFormerV2(**fields), {'x': LinearHead(num_classes=classes)})
  return shapes_of(model, jax.ShapeDtypeStruct((1, *shape, 3), jnp.float32))


def test_frozen_trunks_train_their_global_blocks_and_head():
  params = full_size('L/14', 400, (8, 336, 336), output='global')['params']
  assert cost.count(params) == 354_426_256
  trained, _ = frozen.split(params, trunks.FROZEN)
  assert cost.count(trained) == 50_920_848
  trunk = {name for name in flat(trained) if name.startswith('trunk/')}
  assert {name.split('/')[1] for name in trunk} == {
    *(f'global_{j}' for j in range(4)),
    *('query', 'fusion_norm'),
  }


@pytest.mark.parametrize(
  ('module', 'changes', 'parameters'),
  [
    ('attention', {}, 114_306_222),
    ('joint', {}, 85_939_374),
    ('convolution', {}, 85_970_094),
    ('transformer', {}, 128_468_142),
    ('local_mhra', {'local_repeats': 2}, 104_924_334),
  ],
)
def test_parameters_of_table_15(module, changes, parameters):
  """The paper, in millions: 114, 86, 86, 128, 105."""
  shapes = full_size('B/16', 174, (8, 224, 224), temporal_module=module, **changes, **LAST)
  assert cost.count(shapes['params']) == parameters
