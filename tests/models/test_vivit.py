"""Structure, invariants, initialisation and errors of the ViViT trunk."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.common import VIT_SIZES
from errors import ConfigError
from models import layers
from models.heads import LinearHead
from models.video_model import VideoModel
from models.vivit import ViViT, central_frame_init, uniform_frame_indices

VARIANTS = {
  'spacetime': {'attention': 'spacetime', 'pooling': 'token'},
  'factorised_encoder': {
    'attention': 'factorised_encoder',
    'pooling': 'token',
    'temporal_num_layers': 1,
  },
  'factorised_self_attention': {'attention': 'factorised_self_attention', 'pooling': 'mean'},
  'factorised_dot_product': {'attention': 'factorised_dot_product', 'pooling': 'mean'},
  'average_pool': {'attention': 'factorised_encoder', 'pooling': 'token', 'temporal_num_layers': 0},
}
TINY = {'hidden_size': 16, 'num_layers': 1, 'num_heads': 2, 'mlp_dim': 32, 'tubelet': (2, 4, 4)}
ATTENTION = [f'{x}/{y}' for x in ('key', 'out', 'query', 'value') for y in ('bias', 'kernel')]
NORM, DENSE = ['bias', 'scale'], ['bias', 'kernel']


def tiny(variant, **overrides):
  return ViViT(**{**TINY, **VARIANTS[variant], **overrides})


def video(*shape, seed=0):
  pixels = np.random.default_rng(seed).uniform(-1.0, 1.0, shape)
  return jnp.asarray(pixels, jnp.float32)


def fresh(trunk, x, seed=0):
  """Unboxed variables as the trunk initialises them."""
  return flax.core.meta.unbox(
    jax.jit(functools.partial(trunk.init, train=False))(jax.random.key(seed), x)
  )


def init(trunk, x, seed=0):
  """Random unboxed variables without zeros that could hide a path; no compilation."""
  boxed = jax.eval_shape(functools.partial(trunk.init, train=False), jax.random.key(0), x)
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda leaf: 0.3 * rng.normal(size=leaf.shape).astype(np.float32), flax.core.meta.unbox(boxed)
  )


def run(trunk, variables, x):
  with jax.default_matmul_precision('highest'):
    return jax.jit(functools.partial(trunk.apply, train=False))(variables, x)


def encoder_paths(name, num_layers=2, self_attention=False):
  """Scenic's parameter paths of an encoder."""
  if self_attention:
    children = {f'LayerNorm_{x}': NORM for x in ('mlp', 'space', 'time')}
    children |= {f'MultiHeadDotProductAttention_{x}': ATTENTION for x in ('space', 'time')}
    mlp = 'MlpBlock'
  else:
    children = {'LayerNorm_0': NORM, 'LayerNorm_1': NORM}
    children |= {'MultiHeadDotProductAttention_0': ATTENTION}
    mlp = 'MlpBlock_0'
  children |= {f'{mlp}/Dense_0': DENSE, f'{mlp}/Dense_1': DENSE}
  paths = {f'{name}/posembed_input/pos_embedding', *(f'{name}/encoder_norm/{x}' for x in NORM)}
  for i in range(num_layers):
    for child, leaves in children.items():
      paths |= {f'{name}/encoderblock_{i}/{child}/{leaf}' for leaf in leaves}
  return paths


@pytest.mark.parametrize(
  ('variant', 'expected'),
  [
    ('spacetime', encoder_paths('Transformer') | {'cls'}),
    (
      'factorised_encoder',
      encoder_paths('SpatialTransformer')
      | encoder_paths('TemporalTransformer', 1)
      | {'cls_SpatialTransformer', 'cls_TemporalTransformer'},
    ),
    ('factorised_self_attention', encoder_paths('Transformer', self_attention=True)),
    ('factorised_dot_product', encoder_paths('Transformer')),
    ('average_pool', encoder_paths('SpatialTransformer') | {'cls_SpatialTransformer'}),
  ],
)
def test_parameter_paths_are_scenics(variant, expected):
  x = jax.ShapeDtypeStruct((1, 4, 8, 8, 3), jnp.float32)
  trunk = tiny(variant, num_layers=2)
  boxed = jax.eval_shape(functools.partial(trunk.init, train=False), jax.random.key(0), x)
  flat = flax.traverse_util.flatten_dict(boxed['params'], sep='/')
  assert set(flat) == expected | {'embedding/kernel', 'embedding/bias'}
  for path, box in flat.items():
    assert len(box.names) == box.value.ndim, path
    assert {name for name in box.names if name} <= set(layers.LOGICAL_AXES), path
    assert box.value.dtype == jnp.float32, path
  assert flat['embedding/kernel'].value.shape == (2, 4, 4, 3, 16)


@pytest.mark.parametrize(
  ('variant', 'count'),
  [
    ('spacetime', 88_954_000),
    ('factorised_encoder', 115_062_928),
    ('factorised_self_attention', 117_319_312),
    ('factorised_dot_product', 88_952_464),
    ('average_pool', 86_696_080),
  ],
)
def test_parameter_counts_of_the_paper(variant, count):
  """ViViT Table 2: B/16x2, 400 classes, 32 frames of 224."""
  fields = dict(VARIANTS[variant])
  if variant == 'factorised_encoder':
    fields['temporal_num_layers'] = 4
  trunk = ViViT(**VIT_SIZES['B'], tubelet=(2, 16, 16), **fields)
  model = VideoModel(trunk, {'k400': LinearHead(num_classes=400)})
  x = jax.ShapeDtypeStruct((1, 32, 224, 224, 3), jnp.float32)
  params = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), x)
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


@pytest.mark.parametrize('variant', VARIANTS)
def test_features(variant):
  trunk, x = tiny(variant, dtype='bfloat16'), video(2, 4, 8, 12, 3)
  features = run(trunk, init(trunk, x), x)
  assert features.grid == (2, 2, 3)
  assert features.tokens.shape == (2, 12, 16)
  assert features.pooled.shape == (2, 16)
  assert features.tokens.dtype == features.pooled.dtype == jnp.bfloat16


@pytest.mark.parametrize(
  'variant', ['spacetime', 'factorised_self_attention', 'factorised_dot_product']
)
def test_mean_pooling_is_the_mean_of_the_tokens(variant):
  trunk, x = tiny(variant, pooling='mean'), video(2, 4, 8, 8, 3)
  features = run(trunk, init(trunk, x), x)
  np.testing.assert_allclose(features.pooled, features.tokens.mean(axis=1), atol=1e-6)


def test_average_pool_baseline_equals_joint_attention_at_one_frame():
  x = video(2, 2, 8, 8, 3)
  joint, factorised = tiny('spacetime'), tiny('average_pool')
  variables = init(joint, x)
  params = dict(variables['params'])
  params['SpatialTransformer'] = params.pop('Transformer')
  params['cls_SpatialTransformer'] = params.pop('cls')
  ours, theirs = run(factorised, {'params': params}, x), run(joint, variables, x)
  np.testing.assert_allclose(ours.pooled, theirs.pooled, atol=1e-5)
  np.testing.assert_allclose(ours.tokens, theirs.tokens, atol=1e-5)


def as_model_3(params, temporal):
  """Model 1's parameters under Model 3's names, with `temporal` for what Model 1 does not have."""
  blocks = {}
  for name, block in params['Transformer'].items():
    if name.startswith('encoderblock'):
      block = {
        **temporal['Transformer'][name],
        'LayerNorm_space': block['LayerNorm_0'],
        'LayerNorm_mlp': block['LayerNorm_1'],
        'MultiHeadDotProductAttention_space': block['MultiHeadDotProductAttention_0'],
        'MlpBlock': block['MlpBlock_0'],
      }
    blocks[name] = block
  return {'params': {**params, 'Transformer': blocks}}


@pytest.mark.parametrize('temporal_attention_init', ['zeros', 'zeros_all'])
@pytest.mark.parametrize('attention_order', ['space_time', 'time_space'])
def test_factorised_self_attention_equals_joint_at_one_frame(
  temporal_attention_init, attention_order
):
  """With its zero initialisation Eq. 5 is the identity, so only spatial attention is left."""
  x = video(2, 2, 8, 8, 3)
  joint = tiny('spacetime', pooling='mean')
  factorised = tiny(
    'factorised_self_attention',
    temporal_attention_init=temporal_attention_init,
    attention_order=attention_order,
  )
  variables = init(joint, x)
  temporal = fresh(factorised, x, seed=9)['params']
  ours = run(factorised, as_model_3(variables['params'], temporal), x)
  np.testing.assert_allclose(ours.pooled, run(joint, variables, x).pooled, atol=1e-5)


def test_factorised_dot_product_attends_to_its_own_row_and_column_only():
  trunk = tiny('factorised_dot_product')
  x = video(1, 6, 8, 8, 3)
  variables = init(trunk, x)
  # Tokens are (t, h, w) = (3, 2, 2); the change is in token (2, 1, 1).
  before = run(trunk, variables, x).tokens.reshape(3, 4, 16)
  after = run(trunk, variables, x.at[:, 4:, 4:, 4:].add(1.0)).tokens.reshape(3, 4, 16)
  changed = np.abs(after - before).max(axis=-1) > 1e-6
  np.testing.assert_array_equal(changed, [[0, 0, 0, 1], [0, 0, 0, 1], [1, 1, 1, 1]])


def test_attention_order_matters():
  x = video(1, 4, 8, 8, 3)
  trunks = [
    tiny('factorised_self_attention', attention_order=o) for o in ('space_time', 'time_space')
  ]
  variables = init(trunks[0], x)
  first, second = (run(trunk, variables, x).pooled for trunk in trunks)
  assert np.abs(first - second).max() > 1e-3


@pytest.mark.parametrize(
  ('how', 'trained'),
  [('zeros', {'out/kernel', 'out/bias'}), ('zeros_all', {'out/bias'}), ('default', None)],
)
def test_which_temporal_weights_receive_gradient(how, trained):
  trunk = tiny('factorised_self_attention', temporal_attention_init=how)
  x = video(2, 4, 8, 8, 3)
  loss = lambda v: (trunk.apply(v, x, train=True).pooled[:, ::2] ** 2).sum()  # noqa: E731
  grads = jax.jit(jax.grad(loss))(fresh(trunk, x))
  attention = grads['params']['Transformer']['encoderblock_0']['MultiHeadDotProductAttention_time']
  moving = {
    path
    for path, grad in flax.traverse_util.flatten_dict(attention, sep='/').items()
    if np.abs(grad).max() > 1e-9
  }
  # A bias common to all keys shifts every logit of a query alike: it never has a gradient.
  assert moving - {'key/bias'} == (trained or set(ATTENTION) - {'key/bias'})


def test_stages():
  shape = (8, 32, 224, 224, 3)
  base = {**VIT_SIZES['B'], 'tubelet': (2, 16, 16)}
  stages = {name: ViViT(**base, **kwargs).stages(shape) for name, kwargs in VARIANTS.items()}
  assert stages == {
    'spacetime': [('Transformer', 1, 3137)],
    'factorised_encoder': [('SpatialTransformer', 16, 197), ('TemporalTransformer', 1, 17)],
    'factorised_self_attention': [('Transformer/space', 16, 196), ('Transformer/time', 196, 16)],
    'factorised_dot_product': [('Transformer/space', 16, 196), ('Transformer/time', 196, 16)],
    'average_pool': [('SpatialTransformer', 16, 197)],
  }


@pytest.mark.parametrize(
  ('frames', 'sampled', 'expected'),
  [(7, 2, [2, 5]), (8, 3, [2, 4, 6]), (10, 3, [2, 5, 8]), (4, 4, [0, 1, 2, 3]), (3, 8, [0, 1, 2])],
)
def test_uniform_frame_indices(frames, sampled, expected):
  np.testing.assert_array_equal(uniform_frame_indices(frames, sampled), expected)


def test_uniform_frames_ignore_the_other_frames():
  trunk = tiny('spacetime', tubelet=(1, 4, 4), tokeniser='uniform_frames', num_sampled_frames=2)
  x = video(1, 7, 8, 8, 3)
  variables = init(trunk, x)
  assert variables['params']['embedding']['kernel'].shape == (4, 4, 3, 16)
  features = run(trunk, variables, x)
  assert features.grid == (2, 2, 2)
  others = run(trunk, variables, x.at[:, jnp.array([0, 1, 3, 4, 6])].set(0.0))
  np.testing.assert_array_equal(features.tokens, others.tokens)


def test_central_frame_kernel_is_zero_off_the_middle_frame():
  kernel = central_frame_init(jax.random.key(0), (3, 8, 8, 3, 64))
  np.testing.assert_array_equal(np.abs(kernel).max(axis=(1, 2, 3, 4)) > 0, [False, True, False])
  # LeCun: variance 1 / fan-in of one frame.
  assert abs(float(kernel[1].std()) * (8 * 8 * 3) ** 0.5 - 1) < 0.05
  trunk, x = tiny('spacetime', kernel_init_method='central_frame'), video(1, 4, 8, 8, 3)
  params = fresh(trunk, x)['params']
  assert np.abs(params['embedding']['kernel'][0]).max() == 0


@pytest.mark.parametrize('variant', VARIANTS)
def test_dropout_streams(variant):
  x = video(2, 4, 8, 8, 3)
  rates = {'dropout_rate': 0.2, 'attention_dropout_rate': 0.2, 'stochastic_depth_rate': 0.2}
  trunk = tiny(variant, **rates)
  variables = init(trunk, x)

  @jax.jit
  def call(key):
    return trunk.apply(variables, x, train=True, rngs={'dropout': key}).pooled

  first, again, other = (call(jax.random.key(seed)) for seed in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert np.abs(first - other).max() > 1e-3


@pytest.mark.parametrize(
  ('variant', 'calls'),
  [
    ('spacetime', 1),
    ('factorised_encoder', 2),
    ('factorised_self_attention', 2),
    ('factorised_dot_product', 2),
    ('average_pool', 1),
  ],
)
def test_every_attention_gets_the_kernel_and_every_block_keeps_the_layout(variant, calls):
  tpu = jax.sharding.AbstractDevice(device_kind='TPU v5 lite', num_cores=1, platform='tpu')
  mesh = jax.sharding.AbstractMesh(
    (2, 1, 1),
    ('data', 'fsdp', 'tensor'),
    axis_types=(jax.sharding.AxisType.Auto,) * 3,
    abstract_device=tpu,
  )
  x = jnp.zeros((2, 4, 8, 8, 3))

  def program(kernel):
    trunk = tiny(variant, attention_kernel=kernel)
    variables = init(trunk, x)
    with jax.sharding.use_abstract_mesh(mesh):
      return str(jax.make_jaxpr(functools.partial(trunk.apply, train=False))(variables, x))

  fused = program('fused')
  assert fused.count('pallas_call') == calls
  assert program('xla').count('pallas_call') == 0
  # After the position embedding and after the one block, in each encoder.
  encoders = 2 if variant == 'factorised_encoder' else 1
  assert fused.count('sharding_constraint') == 2 * encoders


@pytest.mark.parametrize(
  'variant', ['factorised_encoder', 'factorised_self_attention', 'factorised_dot_product']
)
def test_scan_and_remat_change_nothing(variant):
  x = video(2, 4, 8, 8, 3)
  sizes = {'num_layers': 2}
  if variant == 'factorised_encoder':
    sizes['temporal_num_layers'] = 2
  plain = tiny(variant, **sizes)
  scanned = tiny(variant, **sizes, scan_layers=True, remat='blocks')
  variables = init(plain, x)

  def gradients(trunk):
    loss = lambda v: (trunk.apply(v, x, train=True).pooled[:, ::2] ** 2).sum()  # noqa: E731
    return jax.jit(jax.value_and_grad(loss))(variables)

  same = functools.partial(np.testing.assert_allclose, atol=1e-4, rtol=1e-3)
  jax.tree.map(same, gradients(scanned), gradients(plain))


@pytest.mark.parametrize(
  ('variant', 'overrides', 'message'),
  [
    ('factorised_self_attention', {'pooling': 'token'}, 'no class token'),
    ('factorised_dot_product', {'pooling': 'token'}, 'no class token'),
    ('factorised_dot_product', {'num_heads': 1}, 'even number'),
    ('factorised_encoder', {'temporal_num_layers': None}, 'average-pool'),
    ('spacetime', {'temporal_num_layers': 4}, 'leave them None'),
    ('spacetime', {'attention': 'factorized_encoder'}, "'factorized_encoder'"),
    ('spacetime', {'pooling_norm': 'after'}, "pooling='mean'"),
    ('spacetime', {'tokeniser': 'uniform_frames'}, 'num_sampled_frames'),
    ('spacetime', {'tokeniser': 'uniform_frames', 'num_sampled_frames': 2}, 'set t = 1'),
    ('spacetime', {'attention_kernel': 'flash'}, "'flash'"),
    (
      'spacetime',
      {'attention_kernel': 'fused', 'attention_dropout_rate': 0.1},
      'no dropout of attention weights',
    ),
    ('spacetime', {'stochastic_depth_rate': 1.0}, r'\[0, 1\)'),
    ('spacetime', {'remat': 'all'}, "remat='all'"),
    ('spacetime', {'tubelet': (16, 16)}, r'\(t, h, w\)'),
  ],
)
def test_contradictory_attributes(variant, overrides, message):
  with pytest.raises(ConfigError, match=message):
    tiny(variant, **overrides)


def test_indivisible_input():
  with pytest.raises(ConfigError, match=r'trunk.tubelet.*\(2, 4, 4\).*\(5, 8, 8\)'):
    init(tiny('spacetime'), video(1, 5, 8, 8, 3))
