"""Loading: files, layouts, fitting, permissions and the report."""

import functools
import json

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

from errors import CheckpointMismatchError, ConfigError
from models.heads import LinearHead
from models.video_model import VideoModel
from models.vivit import ViViT
from train_lib import pretrained_fit, pretrained_vit, weight_files
from train_lib.pretrained import InitFromConfig, load_pretrained

SIZES = {'hidden_size': 8, 'num_layers': 2, 'num_heads': 2, 'mlp_dim': 16}
IMAGE = {'attention': 'spacetime', 'pooling': 'token', 'tubelet': (1, 4, 4)}
SHAPE = (1, 4, 8, 8, 3)
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


def build(num_classes=3, **fields):
  trunk = ViViT(**{**SIZES, 'tubelet': (2, 4, 4), **fields})
  return VideoModel(trunk, {'task': LinearHead(num_classes=num_classes)})


def abstract(model, shape=SHAPE):
  init = functools.partial(model.init, train=False)
  video = jax.ShapeDtypeStruct(shape, jnp.float32)
  return jax.eval_shape(init, jax.random.key(0), video)['params']


def randomised(tree, seed):
  rng = np.random.default_rng(seed)
  draw = lambda leaf: 0.3 * rng.normal(size=leaf.shape).astype(np.float32)  # noqa: E731
  return jax.tree.map(draw, flax.core.meta.unbox(tree))


def canonical(params):
  """A model's parameters as a Scenic checkpoint's flat arrays."""
  flat = flax.traverse_util.flatten_dict(flax.core.meta.unbox(params), sep='/')
  return {path.split('/', 1)[1]: leaf for path, leaf in flat.items()}


def image_checkpoint(seed=0, shape=(1, 1, 8, 8, 3), **fields):
  """An image ViT of the same sizes: patch 4, 8x8 pixels, 2-D patch kernel."""
  arrays = canonical(randomised(abstract(build(**{**IMAGE, **fields}), shape), seed))
  return {**arrays, 'embedding/kernel': arrays['embedding/kernel'][0]}


def load(model, source, shape=SHAPE, params=None, **options):
  return load_pretrained(
    abstract(model, shape) if params is None else params,
    source,
    grid=model.trunk.grid(shape),
    options=InitFromConfig(path='', **options),
  )


def apply(model, params, video):
  with jax.default_matmul_precision('highest'):
    return jax.jit(functools.partial(model.apply, train=False))({'params': params}, video)


def filled(params):
  """Zeros where the checkpoint had nothing, as for Model 3's temporal projection."""
  return jax.tree.map(
    lambda leaf: (
      np.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf
    ),
    params,
  )


def rows(report, status):
  return {row.target or row.source for row in report.rows if row.status == status}


# A still video through a freshly filled video model is the image through the image model.


@pytest.mark.parametrize('kernel_inflation', ['central_frame', 'average'])
def test_still_video_gives_the_image_models_class_token(kernel_inflation):
  checkpoint = image_checkpoint()
  image = np.random.default_rng(1).uniform(-1, 1, (1, 1, 8, 8, 3)).astype(np.float32)
  expected = apply(
    build(**IMAGE), load(build(**IMAGE), checkpoint, image.shape, load_head=True)[0], image
  )
  model = build(**VARIANTS['average_pool'])
  params, _ = load(model, checkpoint, kernel_inflation=kernel_inflation, load_head=True)
  features, logits = apply(model, params, np.repeat(image, 4, axis=1))
  np.testing.assert_allclose(features.pooled, expected[0].pooled, atol=1e-5)
  np.testing.assert_allclose(logits['task'], expected[1]['task'], atol=1e-5)


def test_still_video_through_model_3_gives_the_image_models_tokens():
  checkpoint = image_checkpoint(pooling='mean')
  image = np.random.default_rng(1).uniform(-1, 1, (1, 1, 8, 8, 3)).astype(np.float32)
  image_model = build(**{**IMAGE, 'pooling': 'mean'})
  expected, _ = apply(
    image_model, load(image_model, checkpoint, image.shape, load_head=True)[0], image
  )
  model = build(**VARIANTS['factorised_self_attention'])
  params, _ = load(model, checkpoint)
  features, _ = apply(model, filled(params), np.repeat(image, 4, axis=1))
  np.testing.assert_allclose(features.pooled, expected.pooled, atol=1e-5)
  np.testing.assert_allclose(features.tokens.reshape(2, 4, 8)[1], expected.tokens[0], atol=1e-5)


@pytest.mark.parametrize(
  ('variant', 'new'),
  [
    ('spacetime', set()),
    ('factorised_encoder', {'trunk/TemporalTransformer', 'trunk/cls_TemporalTransformer'}),
    (
      'factorised_self_attention',
      {
        f'trunk/Transformer/encoderblock_{i}/{child}_time'
        for i in (0, 1)
        for child in ('LayerNorm', 'MultiHeadDotProductAttention')
      },
    ),
    ('factorised_dot_product', set()),
    ('average_pool', set()),
  ],
)
def test_what_stays_new_and_what_is_skipped(variant, new):
  model = build(**VARIANTS[variant])
  params, report = load(model, image_checkpoint())
  still_new = {path for path in rows(report, 'new') if not path.startswith('heads_')}
  assert {prefix for path in still_new for prefix in new if path.startswith(prefix)} == new
  assert all(path.startswith(tuple(new)) for path in still_new)
  head = {'output_projection/kernel', 'output_projection/bias'}
  assert rows(report, 'skipped') == head | ({'cls'} if model.trunk.pooling == 'mean' else set())
  flat = flax.traverse_util.flatten_dict(params, sep='/')
  untouched = {path for path, leaf in flat.items() if isinstance(leaf, jax.ShapeDtypeStruct)}
  assert untouched == rows(report, 'new')
  assert rows(report, 'inflated') == {'trunk/embedding/kernel'}


def test_model_3_temporal_options():
  checkpoint = image_checkpoint()
  params, _ = load(
    build(**VARIANTS['factorised_self_attention']),
    checkpoint,
    init_temporal_attention=True,
    init_temporal_layer_norm=True,
  )
  block = params['trunk']['Transformer']['encoderblock_1']
  source = 'Transformer/encoderblock_1'
  np.testing.assert_array_equal(
    block['MultiHeadDotProductAttention_time']['out']['kernel'],
    checkpoint[f'{source}/MultiHeadDotProductAttention_0/out/kernel'],
  )
  np.testing.assert_array_equal(
    block['LayerNorm_time']['scale'], checkpoint[f'{source}/LayerNorm_0/scale']
  )


def test_class_token_option_of_the_factorised_encoder():
  checkpoint, model = image_checkpoint(), build(**VARIANTS['factorised_encoder'])
  copied, _ = load(model, checkpoint)
  np.testing.assert_array_equal(copied['trunk']['cls_SpatialTransformer'], checkpoint['cls'])
  _, report = load(model, checkpoint, class_token='scenic')
  assert 'trunk/cls_SpatialTransformer' in rows(report, 'new')
  assert 'cls' in rows(report, 'skipped')


def test_tiled_and_resized_positions():
  table = image_checkpoint()[pretrained_vit.POSITIONS]
  params, report = load(build(**VARIANTS['spacetime']), image_checkpoint())
  ours = params['trunk']['Transformer']['posembed_input']['pos_embedding']
  np.testing.assert_array_equal(ours[0], np.concatenate([table[0], table[0, 1:]]))
  assert [row.how for row in report.rows if row.status == 'resized'] == ['tile x2']
  shape = (1, 4, 12, 12, 3)
  params, report = load(build(**VARIANTS['spacetime']), image_checkpoint(), shape)
  ours = params['trunk']['Transformer']['posembed_input']['pos_embedding'][0, 1:].reshape(
    2, 3, 3, 8
  )
  np.testing.assert_allclose(ours[0, 1, 1], table[0, 1:].mean(axis=0), atol=1e-6)  # corner-aligned
  np.testing.assert_array_equal(ours[1, ::2, ::2], table[0, 1:].reshape(2, 2, 8))
  assert [row.how for row in report.rows if row.status == 'resized'] == [
    'scenic 2x2 to 3x3, tile x2'
  ]
  with pytest.raises(ConfigError, match="set 'resize_tile'"):
    load(build(**VARIANTS['spacetime']), image_checkpoint(), shape, position_embedding='tile')
  with pytest.raises(ConfigError, match='2 frames'):
    load(build(**VARIANTS['spacetime']), image_checkpoint(), position_embedding='resize')


def test_interpolation_of_a_linear_ramp_is_exact():
  ramp = np.linspace(0.0, 1.0, 5)[:, None].astype(np.float32)
  scenic = pretrained_fit.resize_table(ramp, (9,), 'scenic')[:, 0]
  np.testing.assert_allclose(scenic, np.linspace(0.0, 1.0, 9), atol=1e-6)
  half_pixel = pretrained_fit.resize_table(ramp, (10,), 'bilinear')[:, 0]
  np.testing.assert_allclose(half_pixel[1:-1], np.arange(1, 17, 2) / 16, atol=1e-6)
  np.testing.assert_allclose(half_pixel[[0, -1]], [0.0, 1.0], atol=1e-6)


@pytest.mark.parametrize('variant', VARIANTS)
def test_vivit_into_the_same_vivit(variant):
  model = build(**VARIANTS[variant])
  before = randomised(abstract(model), 3)
  after, report = load(model, canonical(before), load_head=True)
  jax.tree.map(np.testing.assert_array_equal, after, before)
  assert {row.status for row in report.rows} == {'loaded'}


def test_vivit_with_more_frames():
  model = build(**VARIANTS['factorised_encoder'])
  before = randomised(abstract(model), 3)
  longer = (1, 6, 8, 8, 3)
  after, report = load(model, canonical(before), longer)
  old = before['trunk']['TemporalTransformer']['posembed_input']['pos_embedding']
  new = after['trunk']['TemporalTransformer']['posembed_input']['pos_embedding']
  middle = (old[:, 1:2] + old[:, 2:3]) / 2
  np.testing.assert_allclose(
    new, np.concatenate([old[:, :2], middle, old[:, 2:]], axis=1), atol=1e-6
  )
  assert rows(report, 'resized') == {'trunk/TemporalTransformer/posembed_input/pos_embedding'}


def test_ambiguous_joint_positions_need_the_source_grid():
  model = build(**VARIANTS['spacetime'])
  source = canonical(randomised(abstract(model, (1, 8, 16, 16, 3)), 3))  # 4 x 4 x 4 = 64 rows
  target = (1, 8, 8, 8, 3)  # 4 x 2 x 2: 16 frames of 2 x 2, or 4 frames of 4 x 4?
  with pytest.raises(CheckpointMismatchError, match='source_grid'):
    load(model, source, target)
  params, _ = load(model, source, target, source_grid=(4, 4, 4))
  old = source[pretrained_vit.POSITIONS][0, 1:].reshape(4, 4, 4, 8)
  new = params['trunk']['Transformer']['posembed_input']['pos_embedding'][0, 1:]
  np.testing.assert_allclose(new.reshape(4, 2, 2, 8), old[:, ::3, ::3], atol=1e-6)


def test_kernel_may_stay_as_initialised():
  model, source = build(**VARIANTS['spacetime']), image_checkpoint()
  params, report = load(model, source, kernel_inflation='none')
  assert isinstance(params['trunk']['embedding']['kernel'], jax.ShapeDtypeStruct)
  assert 'embedding/kernel' in rows(report, 'skipped')
  np.testing.assert_array_equal(params['trunk']['embedding']['bias'], source['embedding/bias'])


def test_model_class_row_without_one_in_the_file():
  source = image_checkpoint(pooling='mean')
  model = build(**VARIANTS['spacetime'])
  stand_in, _ = load(model, source, allow_new=('trunk/cls',))  # Abstract leaves have no row.
  assert not stand_in['trunk']['Transformer']['posembed_input']['pos_embedding'][0, 0].any()
  params = randomised(abstract(model), 5)
  with pytest.raises(CheckpointMismatchError, match='- trunk/cls'):
    load(model, source, params=params)
  after, _ = load(model, source, params=params, allow_new=('trunk/cls',))
  table = after['trunk']['Transformer']['posembed_input']['pos_embedding'][0]
  own = params['trunk']['Transformer']['posembed_input']['pos_embedding'][0]
  np.testing.assert_array_equal(table[0], own[0])
  np.testing.assert_array_equal(table[1:5], source[pretrained_vit.POSITIONS][0])


def test_missing_file(tmp_path):
  path = str(tmp_path / 'gone.npz')
  with pytest.raises(CheckpointMismatchError, match=r'gone\.npz'):
    load(build(**VARIANTS['spacetime']), path)


def test_truncated_file(tmp_path):
  path = tmp_path / 'cut.npz'
  np.savez(path, **image_checkpoint())
  path.write_bytes(path.read_bytes()[:1000])
  with pytest.raises(CheckpointMismatchError, match='cannot be read'):
    load(build(**VARIANTS['spacetime']), str(path))


def test_unknown_layout_names_keys_and_layouts():
  with pytest.raises(CheckpointMismatchError, match=r'resnet/conv.*big_vision.*timm.*hugging_face'):
    load(build(**VARIANTS['spacetime']), {'resnet/conv': np.zeros(3)})


def test_everything_unmatched_is_listed():
  source = image_checkpoint()
  del source['Transformer/encoder_norm/bias']
  source['Transformer/encoderblock_2/LayerNorm_0/bias'] = np.zeros(8)
  source['Transformer/encoderblock_0/LayerNorm_0/scale'] = np.zeros(9)
  with pytest.raises(CheckpointMismatchError) as caught:
    load(build(**VARIANTS['spacetime']), source)
  message = str(caught.value)
  assert '- trunk/Transformer/encoder_norm/bias (8,)' in message
  assert '+ Transformer/encoderblock_2/LayerNorm_0/bias (8,)' in message
  assert 'encoderblock_0/LayerNorm_0/scale: expected shape (8,), got (9,)' in message
  assert 'init_from.allow_new' in message
  assert 'init_from.allow_skipped' in message


def test_patterns_allow_mismatch():
  source = image_checkpoint()
  source['Transformer/encoderblock_2/LayerNorm_0/bias'] = np.zeros(8)
  model = build(**VARIANTS['spacetime'])
  _, report = load(model, source, allow_skipped=('Transformer/encoderblock_2/*',))
  assert 'Transformer/encoderblock_2/LayerNorm_0/bias' in rows(report, 'skipped')


def test_class_count():
  with pytest.raises(CheckpointMismatchError, match='the model has 5 classes, the checkpoint 3'):
    load(build(num_classes=5, **VARIANTS['spacetime']), image_checkpoint(), load_head=True)
  _, report = load(build(num_classes=5, **VARIANTS['spacetime']), image_checkpoint())
  assert {'heads_task/output_projection/kernel'} < rows(report, 'new')


def test_a_head_of_other_classes_may_stay_new():
  model, source = build(num_classes=5, **VARIANTS['spacetime']), image_checkpoint()
  params, report = load(model, source, load_head=True, allow_new=('heads_task/*',))
  head = {f'output_projection/{leaf}' for leaf in ('kernel', 'bias')}
  assert rows(report, 'new') == {f'heads_task/{name}' for name in head}
  assert rows(report, 'skipped') == head
  np.testing.assert_array_equal(params['trunk']['cls'], source['cls'])  # With a table, as it is.


def test_load_head_needs_one_head():
  trunk = build(**VARIANTS['spacetime']).trunk
  model = VideoModel(trunk, {'a': LinearHead(num_classes=3), 'b': LinearHead(num_classes=3)})
  with pytest.raises(ConfigError, match='heads_a'):
    load(model, image_checkpoint(), load_head=True)


def test_unknown_option():
  with pytest.raises(ConfigError, match='kernel_inflation'):
    InitFromConfig(path='', kernel_inflation='middle')


def write_safetensors(path, arrays):
  header, data = {}, b''
  for name, array in arrays.items():
    offsets = [len(data), len(data) + array.nbytes]
    header[name] = {'dtype': 'F32', 'shape': list(array.shape), 'data_offsets': offsets}
    data += array.tobytes()
  encoded = json.dumps({'__metadata__': {'format': 'pt'}, **header}).encode()
  path.write_bytes(len(encoded).to_bytes(8, 'little') + encoded + data)


def timm_state(arrays):
  """Canonical arrays in timm's layout."""
  state = {
    'cls_token': arrays['cls'],
    'pos_embed': arrays[pretrained_vit.POSITIONS],
    'patch_embed.proj.weight': arrays['embedding/kernel'].transpose(3, 2, 0, 1),
    'patch_embed.proj.bias': arrays['embedding/bias'],
    'norm.weight': arrays['Transformer/encoder_norm/scale'],
    'norm.bias': arrays['Transformer/encoder_norm/bias'],
    'head.weight': arrays['output_projection/kernel'].T,
    'head.bias': arrays['output_projection/bias'],
  }
  for i in range(2):
    block, ours = f'blocks.{i}', f'Transformer/encoderblock_{i}'
    attention = f'{ours}/MultiHeadDotProductAttention_0'
    qkv = [arrays[f'{attention}/{x}/kernel'].reshape(8, 8).T for x in ('query', 'key', 'value')]
    bias = [arrays[f'{attention}/{x}/bias'].reshape(8) for x in ('query', 'key', 'value')]
    state[f'{block}.attn.qkv.weight'], state[f'{block}.attn.qkv.bias'] = map(
      np.concatenate, (qkv, bias)
    )
    state[f'{block}.attn.proj.weight'] = arrays[f'{attention}/out/kernel'].reshape(8, 8).T
    state[f'{block}.attn.proj.bias'] = arrays[f'{attention}/out/bias']
    for j in (0, 1):
      state[f'{block}.norm{j + 1}.weight'] = arrays[f'{ours}/LayerNorm_{j}/scale']
      state[f'{block}.norm{j + 1}.bias'] = arrays[f'{ours}/LayerNorm_{j}/bias']
      state[f'{block}.mlp.fc{j + 1}.weight'] = arrays[f'{ours}/MlpBlock_0/Dense_{j}/kernel'].T
      state[f'{block}.mlp.fc{j + 1}.bias'] = arrays[f'{ours}/MlpBlock_0/Dense_{j}/bias']
  return {key: np.ascontiguousarray(value) for key, value in state.items()}


def scanned(arrays):
  """Canonical arrays in big_vision's layout, layers stacked, class token without a position."""
  prefix = 'Transformer/encoderblock_0/'
  stacked = {
    f'params/Transformer/encoderblock/{key.removeprefix(prefix)}': np.stack(
      [value, arrays[key.replace('block_0', 'block_1', 1)]]
    )
    for key, value in arrays.items()
    if key.startswith(prefix)
  }
  rest = {f'params/{key}': value for key, value in arrays.items() if 'encoderblock_' not in key}
  positions = rest.pop(f'params/{pretrained_vit.POSITIONS}')
  head = {f'params/head/{x}': rest.pop(f'params/output_projection/{x}') for x in ('kernel', 'bias')}
  return {**stacked, **rest, **head, 'params/pos_embedding': positions[:, 1:]}


def nested(arrays):
  return flax.traverse_util.unflatten_dict(arrays, sep='/')


@pytest.mark.parametrize('layout', ['scenic', 'timm', 'big_vision', 'msgpack', 'msgpack_optimizer'])
def test_every_file_gives_the_same_parameters(tmp_path, layout):
  arrays = image_checkpoint()
  arrays[pretrained_vit.POSITIONS][:, 0] = 0.0
  path = tmp_path / ('weights.npz' if layout in ('scenic', 'big_vision') else 'checkpoint_7')
  if layout == 'scenic':
    np.savez(path, **arrays)
  elif layout == 'big_vision':
    np.savez(path, **scanned(arrays))
  elif layout == 'timm':
    path = path.with_suffix('.safetensors')
    write_safetensors(path, timm_state(arrays))
  elif layout == 'msgpack':
    state = {'global_step': 7, 'params': nested(arrays), 'opt_state': {'0': {'m': np.zeros(3)}}}
    path.write_bytes(serialization.msgpack_serialize(state))
  else:
    state = {'optimizer': {'target': {'params': nested(arrays)}, 'state': {'step': 7}}}
    path.write_bytes(serialization.msgpack_serialize(state))
  model, shape = build(**IMAGE), (1, 1, 8, 8, 3)
  expected, _ = load(model, arrays, shape, load_head=True)
  actual, report = load(model, str(path), shape, load_head=True)
  jax.tree.map(np.testing.assert_array_equal, actual, expected)
  assert report.layout == ('scenic' if 'msgpack' in layout else layout)


def test_leaves_keep_the_models_dtype():
  model = build(**IMAGE)
  params = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16),
    flax.core.meta.unbox(abstract(model, (1, 1, 8, 8, 3))),
  )
  after, _ = load(model, image_checkpoint(), (1, 1, 8, 8, 3), params=params, load_head=True)
  assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {jnp.dtype(jnp.bfloat16)}


def test_numpy_archives_restore_bfloat16(tmp_path):
  path = tmp_path / 'half.npz'
  np.savez(path, x=np.asarray(jnp.array([1.5, -2.0], jnp.bfloat16)))
  array = weight_files.read_arrays(str(path))['x']
  np.testing.assert_array_equal(array.astype(np.float32), [1.5, -2.0])


def test_report():
  model = build(**VARIANTS['factorised_encoder'])
  _, report = load(model, image_checkpoint())
  total = sum(leaf.size for leaf in jax.tree.leaves(abstract(model)))
  assert report.count('loaded', 'resized', 'inflated', 'new') == total
  assert report.count('inflated') == 2 * 4 * 4 * 3 * 8
  text = str(report)
  assert text.startswith('arrays (layout: scenic)')
  assert 'trunk/SpatialTransformer/encoderblock_*' in text
  assert '(4, 4, 3, 8) -> (2, 4, 4, 3, 8)' in text
  assert f'of {total:,} in the model are filled' in text
  assert len(text.splitlines()) < 25
