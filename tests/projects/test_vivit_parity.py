"""Outputs, initialisation and loading against Scenic, Hugging Face, timm and big_vision.

Cases are the npz/json pairs in tests/fixtures (see PROVENANCE.md there) and, where it exists, in the
larger collection named by TUBELET_FIXTURES or found beside the checkout.
"""

import functools
import json
import os
import pathlib

import flax
import jax
import numpy as np
import pytest

from models.heads import LinearHead, MAPHead
from models.video_model import VideoModel
from models.vivit import ViViT
from train_lib import pretrained_fit
from train_lib.pretrained import InitFromConfig, load_pretrained

COMMITTED = pathlib.Path(__file__).parents[1] / 'fixtures'
COLLECTION = pathlib.Path(
  os.environ.get('TUBELET_FIXTURES', COMMITTED.parents[2] / 'shared' / 'fixtures')
)
FILES = {
  path.stem: path
  for folder in (COLLECTION / 'vit_backbones', COLLECTION / 'vivit', COMMITTED)
  for path in sorted(folder.glob('*.npz'))
  if path.with_suffix('.json').exists()
}
ATTENTION = {
  'spacetime': 'spacetime',
  'factorized_encoder': 'factorised_encoder',
  'factorized_self_attention_block': 'factorised_self_attention',
  'factorized_dot_product_attention': 'factorised_dot_product',
}


def names(*prefixes, but=()):
  return [n for n in FILES if n.startswith(prefixes) and not n.startswith(tuple(but))]


@functools.cache
def read(name):
  """(arrays, description) of a fixture."""
  arrays = dict(np.load(FILES[name]))
  return arrays, json.loads(FILES[name].with_suffix('.json').read_text())


def below(arrays, prefix):
  return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def scenic_trunk(config):
  sizes = config['tubelet']  # (h, w[, t])
  baseline = config.get('spatial_only', False)
  uniform = config.get('temporal') == 'temporal_sampling'
  factorised = config['type'] == 'factorized_encoder'
  no_class = config['type'] in (
    'factorized_self_attention_block',
    'factorized_dot_product_attention',
  )
  gap = no_class or config.get('classifier') == 'gap'
  return ViViT(
    hidden_size=config['hidden'],
    num_layers=config['layers'],
    num_heads=config['heads'],
    mlp_dim=config['mlp'],
    tubelet=(1 if uniform else sizes[2], sizes[0], sizes[1]),
    attention=ATTENTION[config['type']],
    attention_order=config.get('attention_order', 'time_space'),
    temporal_num_layers=(0 if baseline else config['t_layers']) if factorised else None,
    temporal_num_heads=config.get('t_heads'),
    temporal_mlp_dim=config.get('t_mlp'),
    pooling='mean' if gap else 'token',
    tokeniser='uniform_frames' if uniform else 'tubelet',
    num_sampled_frames=config.get('n_sampled_frames'),
  )


def image_trunk(config, **overrides):
  fields = {'attention': 'spacetime', 'pooling': 'token', **overrides}
  return ViViT(
    hidden_size=config['dim'],
    num_layers=config['depth'],
    num_heads=config['heads'],
    mlp_dim=config['mlp'],
    tubelet=(1, config['patch'], config['patch']),
    **fields,
  )


def abstract_params(model, video):
  init = functools.partial(model.init, train=False)
  return flax.core.meta.unbox(jax.eval_shape(init, jax.random.key(0), video))['params']


def forward(model, params, video):
  with jax.default_matmul_precision('highest'):
    features, logits = jax.jit(functools.partial(model.apply, train=False))(
      {'params': params}, video
    )
  return jax.device_get(features), jax.device_get(logits['task'])


def load_and_run(trunk, head, source, video, **options):
  """Features and logits of a model all of whose leaves come from `source`."""
  model = VideoModel(trunk, {'task': head})
  params, report = load_pretrained(
    abstract_params(model, video),
    source,
    grid=trunk.grid(video.shape),
    options=InitFromConfig(path='', load_head=True, **options),
  )
  assert report.count('new', 'skipped') == 0
  return *forward(model, params, video), report


def close(actual, expected, tolerance):
  absolute = tolerance.get('logits_atol', tolerance.get('atol'))
  relative = tolerance.get('logits_rtol', tolerance.get('rtol', 0.0))
  np.testing.assert_allclose(actual, expected, atol=absolute, rtol=relative)


MODELS = names('scenic_', but=('scenic_init', 'scenic_posemb', 'scenic_regularisers'))


@pytest.mark.parametrize('name', MODELS)
def test_scenic_vivit(name):
  arrays, about = read(name)
  config, tolerance = about['config'], about['tolerance']
  head = LinearHead(
    num_classes=config['num_classes'], representation_size=config.get('representation_size')
  )
  uniform = {'position_embedding': 'copy'} if 'n_sampled_frames' in config else {}
  features, logits, report = load_and_run(
    scenic_trunk(config), head, below(arrays, 'params/'), arrays['input'], **uniform
  )
  close(logits, arrays['logits'], tolerance)
  assert report.count('loaded') == sum(x.size for x in below(arrays, 'params/').values())
  encoded = arrays.get('intermediates/Transformer/encoder_norm')
  if encoded is not None:
    close(features.tokens, encoded[:, encoded.shape[1] - features.tokens.shape[1] :], tolerance)
  if not head.representation_size:
    close(features.pooled, arrays['intermediates/pre_logits'], tolerance)


@pytest.mark.parametrize('name', names('scenic_init'))
def test_scenic_initialisation(name):
  arrays, about = read(name)
  config = about['config']
  trunk = scenic_trunk(config)
  model = VideoModel(trunk, {'task': LinearHead(num_classes=config['num_classes'])})
  before = below(arrays, 'target_params/')
  target = {}
  for key, value in before.items():
    target[f'heads_task/{key}' if key.startswith('output_projection') else f'trunk/{key}'] = value
  params, report = load_pretrained(
    flax.traverse_util.unflatten_dict(target, sep='/'),
    below(arrays, 'image_params/'),
    grid=trunk.grid(arrays['input'].shape),
    options=InitFromConfig(
      path='',
      class_token='scenic',
      position_embedding=about['positional_embed_size_change'],
      kernel_inflation=about['kernel_init_method'].removesuffix('_frame_initializer')
      + ('_frame' if about['kernel_init_method'].startswith('central') else ''),
    ),
  )
  expected = {**before, **below(arrays, 'result_params/')}
  for path, value in flax.traverse_util.flatten_dict(params, sep='/').items():
    reference = expected[path.split('/', 1)[1]]
    tolerance = about['tolerance']['params_atol']
    np.testing.assert_allclose(value, reference, atol=tolerance, rtol=0, err_msg=path)
  kept = {row.target.split('/', 1)[1] for row in report.rows if row.status == 'new'}
  assert kept == {k for k, v in about['result_origin'].items() if v == 'kept from target'}
  close(forward(model, params, arrays['input'])[1], arrays['logits'], about['tolerance'])


@pytest.mark.parametrize('hub', [False, True])
def test_hugging_face_vivit(hub):
  arrays, about = read('hf_vivit')
  config, state = about['config'], below(arrays, 'state_dict/')
  if hub:
    state = {about['key_map_current_to_hub'][key]: value for key, value in state.items()}
  trunk = ViViT(
    hidden_size=config['hidden_size'],
    num_layers=config['num_hidden_layers'],
    num_heads=config['num_attention_heads'],
    mlp_dim=config['intermediate_size'],
    tubelet=config['tubelet_size'],
    attention='spacetime',
    pooling='token',
  )
  video = np.moveaxis(arrays['input'], 2, -1)
  features, logits, _ = load_and_run(trunk, LinearHead(num_classes=7), state, video)
  close(logits, arrays['logits'], about['tolerance'])
  close(features.tokens, arrays['last_hidden_state'][:, 1:], about['tolerance'])


@pytest.mark.parametrize('name', names('timm_vit', 'hf_vit', but=['hf_vivit']))
def test_pytorch_image_vit(name):
  arrays, about = read(name)
  after = {'pooling': 'mean', 'pooling_norm': 'after'} if name == 'timm_vit_avgpool' else {}
  epsilon = float(about['layer_norm_eps']) if 'layer_norm_eps' in about else 1e-6
  trunk = image_trunk(about['config'], gelu='erf', layer_norm_epsilon=epsilon, **after)
  video = np.moveaxis(arrays['input'], 1, -1)[:, None]
  features, logits, _ = load_and_run(
    trunk, LinearHead(num_classes=7), below(arrays, 'state_dict/'), video
  )
  close(logits, arrays['logits'], about['tolerance'])
  tokens = arrays['last_hidden_state'] if name == 'hf_vit' else arrays['features']
  close(features.tokens, tokens[:, -16:], about['tolerance'])


@pytest.mark.parametrize(
  ('gelu', 'inputs', 'suffix'),
  [('erf', '', ''), ('tanh', '', '_gelu_tanh'), ('erf', 'resized/', '')],
)
def test_augreg(gelu, inputs, suffix):
  checkpoint, _ = read('augreg_checkpoint')
  arrays, about = read('augreg_reference')
  video = np.moveaxis(arrays[f'{inputs}input'], 1, -1)[:, None]
  features, logits, report = load_and_run(
    image_trunk(about['config'], gelu=gelu),
    LinearHead(num_classes=7),
    checkpoint,
    video,
    position_resize='bilinear',
  )
  close(logits, arrays[f'{inputs}logits{suffix}'], about['tolerance'])
  close(features.pooled, arrays[f'{inputs}pooled{suffix}'], about['tolerance'])
  close(features.tokens, arrays[f'{inputs}features{suffix}'][:, 1:], about['tolerance'])
  assert bool(report.count('resized')) == bool(inputs)


@pytest.mark.parametrize('name', names('big_vision'))
def test_big_vision(name):
  arrays, about = read(name)
  config = about['config']
  pool = config['pool_type']
  size = {'representation_size': config['dim'] if config['rep_size'] else None}
  head = LinearHead(num_classes=7, **size)
  if pool == 'map':
    head = MAPHead(num_classes=7, num_heads=config['heads'], mlp_dim=2 * config['dim'], **size)
  trunk = image_trunk(config, pooling='token' if pool == 'tok' else 'mean')
  features, logits, _ = load_and_run(
    trunk, head, below(arrays, 'params/'), arrays['input'][:, None]
  )
  close(logits, arrays['logits'], about['tolerance'])
  close(features.tokens, arrays['encoded'][:, -16:], about['tolerance'])


def test_scenic_positions_and_kernels():
  arrays, about = read('scenic_posemb_and_kernel_inflation')
  tolerance = about['tolerance']
  grid = arrays['grid_in'].reshape(6, 6, -1)
  for side in (4, 9):
    table = pretrained_fit.resize_table(grid, (side, side), 'scenic').reshape(1, side * side, -1)
    close(table, arrays[f'zoom_to_{side}x{side}'], tolerance)
  for size in (16, 5):
    table = pretrained_fit.resize_table(arrays['temporal_in'], (size,), 'scenic')[None]
    close(table, arrays[f'temporal_8_to_{size}'], tolerance)
  for frames in (2, 3, 4):
    for ours, theirs in [
      ('central_frame', 'central'),
      ('average', 'average'),
      ('average_arp', 'average_arp'),
    ]:
      kernel = pretrained_fit.inflate_kernel(arrays['kernel2d'], frames, ours)
      close(kernel, arrays[f'kernel3d_t{frames}_{theirs}_frame_initializer'], tolerance)


def test_timm_position_resampling():
  arrays, about = read('timm_posembed_resample')
  grid = arrays['pos_embed_in'][0, 1:].reshape(5, 5, -1)
  cases = [key for key in arrays if key.startswith('to_')]
  assert len(cases) == 7
  for case in cases:
    _, sizes, method, antialias = case.split('_')
    method += '_antialias' if antialias == 'antialias' else ''
    height, width = map(int, sizes.split('x'))
    table = pretrained_fit.resize_table(grid, (height, width), method)
    close(table.reshape(height * width, -1), arrays[case][0, 1:], about['tolerance'])
