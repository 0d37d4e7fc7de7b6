"""UniFormerV2 against the released code.

Cases are described in tests/fixtures/PROVENANCE.md; where the larger collection is, named by
TUBELET_FIXTURES or beside the checkout, its further cases are tested too.
"""

import functools
import json
import os
import pathlib

import flax
import jax
import numpy as np
import optax
import pytest

from configs.uniformerv2 import trunks
from models.heads import LinearHead
from models.video_model import VideoModel
from projects.uniformerv2 import weights
from projects.uniformerv2.uniformerv2 import UniFormerV2
from train_lib.pretrained import InitFromConfig, load_pretrained

COMMITTED = pathlib.Path(__file__).parents[1] / 'fixtures' / 'uniformerv2'
COLLECTION = (
  pathlib.Path(os.environ.get('TUBELET_FIXTURES', COMMITTED.parents[3] / 'shared' / 'fixtures'))
  / 'uniformerv2'
)
FOLDERS = (COMMITTED, COLLECTION)
FILES = {
  path.stem: path
  for folder in FOLDERS
  for path in sorted(folder.glob('*.json'))
  if path.with_suffix('.weights.npz').exists()
}
TRAINED = [name for name, path in FILES.items() if path.with_suffix('.trainbn.npz').exists()]
PUBLISHED = {path.stem: path for folder in FOLDERS for path in sorted(folder.glob('full_*.json'))}


def arrays_of(name, part):
  return dict(np.load(FILES[name].with_suffix(f'.{part}.npz')))


def trunk_of(config):
  module = 'none' if config['no_lmhra'] else 'local_mhra'
  local = {
    'local_repeats': 1 + config['double_lmhra'],
    'local_reduction': config['dw_reduction'],
  }
  return UniFormerV2(
    hidden_size=config['width'],
    num_layers=config['layers'],
    num_heads=config['heads'],
    mlp_dim=4 * config['width'],
    patch_size=config['patch_size'],
    temporal_downsampling=config['temporal_downsample'],
    temporal_module=module,
    **(local if module != 'none' else {}),
    global_layers=len(config['return_list']),
    global_places=tuple(config['return_list']),
    global_num_heads=config['n_head'],
    global_mlp_dim=round(config['mlp_factor'] * config['n_dim']),
    output='global' if config['frozen'] else 'fused',
  )


def variables_of(model, source, video):
  """The model's variables, all from the converted state dict, and nothing left of it."""
  init = functools.partial(model.init, train=False)
  shapes = flax.core.meta.unbox(jax.eval_shape(init, jax.random.key(0), video))
  params = shapes.pop('params')
  loaded, report = load_pretrained(
    {**params, **shapes},
    source,
    grid=model.trunk.grid(video.shape),
    options=InitFromConfig(path='', load_head=True),
  )
  assert {row.status for row in report.rows} == {'loaded'}
  statistics = {name: loaded.pop(name) for name in shapes}
  return {'params': loaded, **statistics}


@functools.cache
def case(name):
  """(model, variables, video, description)."""
  about = json.loads(FILES[name].read_text())
  config = about['config']
  head = LinearHead(num_classes=config['num_classes'])
  model = VideoModel(trunk_of(config), {'head': head})
  video = np.moveaxis(arrays_of(name, 'io')['input'], 1, -1)
  source = weights.from_official(arrays_of(name, 'weights'), config['heads'], config['n_head'])
  return model, variables_of(model, source, video), video, about


@functools.cache
def evaluated(name):
  """Logits, what every module returned, and the loss with its gradients, in evaluation mode."""
  model, variables, video, _ = case(name)
  labels = arrays_of(name, 'io')['labels']
  params, rest = variables['params'], {k: v for k, v in variables.items() if k != 'params'}

  def loss(params):
    (_, logits), state = model.apply(
      {'params': params, **rest}, video, train=False, capture_intermediates=True
    )
    loss = optax.softmax_cross_entropy_with_integer_labels(logits['head'], labels).mean()
    return loss, (logits['head'], state['intermediates']['trunk'])

  with jax.default_matmul_precision('highest'):
    (loss, (logits, modules)), grads = jax.device_get(
      jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    )
  return logits, modules, loss, grads


def path_of(feature):
  """Modules under the trunk whose result a recorded feature is; None if it is no module's."""
  name = feature.removeprefix('feat/')
  parts = {
    'lmhra1': ('local_0',),
    'lmhra2': ('local_1',),
    'attn': ('MultiHeadDotProductAttention_0',),
    'mlp': ('MlpBlock_0',),
    '': (),
  }
  if name.startswith('resblock'):
    block, _, part = name.partition('.')
    number = block.removeprefix('resblock')
    return ('SpatialTransformer', f'encoderblock_{number}', *parts[part])
  if name.startswith('dpe'):
    return (f'global_{name.removeprefix("dpe")}', 'dpe')
  if name.startswith('global'):
    return (f'global_{name.removeprefix("global")}',)
  known = {
    'conv1': ('embedding',),
    'tokens_pos': ('SpatialTransformer', 'posembed_input'),
    'ln_pre': ('pre_norm',),
    'fused': None,
    'fused_ln': ('fusion_norm',),
  }
  return known[name]


def laid_out(array, feature, like):
  """A recorded feature with our axes: frames and then tokens, channels last."""
  if array.ndim == 5:  # [B, C, T, h, w]
    array = np.moveaxis(array, 1, -1)
  elif feature.startswith(('feat/resblock', 'feat/global')):  # tokens first
    array = array.swapaxes(0, 1)
  return array.reshape(like.shape)


def close(actual, expected, tolerance, message=''):
  """The collection's own measure: the largest difference over the largest number."""
  assert np.shape(actual) == np.shape(expected), message
  error = np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max()
  assert error <= tolerance, f'{message}: {error:.3g} of at most {tolerance:.3g}'


@pytest.mark.parametrize('name', FILES)
def test_features(name):
  modules, tolerance = evaluated(name)[1], case(name)[3]['tolerance']['feature_rel_to_max']
  compared = 0
  for feature, expected in arrays_of(name, 'features').items():
    path = path_of(feature)
    if path is None:
      continue
    found = functools.reduce(lambda tree, key: tree[key], path, modules)['__call__'][0]
    close(found, laid_out(expected, feature, found), tolerance, feature)
    compared += 1
  assert compared >= 12


@pytest.mark.parametrize('name', FILES)
def test_logits_and_loss(name):
  logits, _, loss, _ = evaluated(name)
  io, tolerance = arrays_of(name, 'io'), case(name)[3]['tolerance']
  np.testing.assert_allclose(logits, io['logits'], rtol=0, atol=tolerance['logits_atol'])
  np.testing.assert_allclose(logits, io['logits_f64'], rtol=0, atol=tolerance['logits_atol'])
  np.testing.assert_allclose(loss, io['loss'], rtol=0, atol=tolerance['loss_atol'])


@pytest.mark.parametrize('name', FILES)
def test_gradients(name):
  config, tolerance = case(name)[3]['config'], case(name)[3]['tolerance']['grad_rel_to_max']
  found = flax.traverse_util.flatten_dict(evaluated(name)[3], sep='/')
  state, recorded = arrays_of(name, 'weights'), arrays_of(name, 'grads')
  heads = (config['heads'], config['n_head'])
  before = weights.from_official(state, *heads)
  after = weights.from_official({**state, **recorded}, *heads)
  changed = [path for path in before if not np.array_equal(before[path], after[path])]
  assert len(changed) >= len(recorded)
  for path in changed:
    own = found['heads_head/' + path if path.startswith('output') else 'trunk/' + path]
    close(own, after[path], tolerance, path)


@pytest.mark.parametrize('name', TRAINED)
def test_batch_statistics(name):
  """A step in training mode, without dropout: logits, and the running statistics after it."""
  model, variables, video, about = case(name)
  model = model.clone(trunk=model.trunk.clone(global_dropout_rate=0.0))
  apply = functools.partial(model.apply, train=True, mutable=['batch_stats'])
  with jax.default_matmul_precision('highest'):
    (_, logits), state = jax.device_get(jax.jit(apply)(variables, video))
  recorded, tolerance = arrays_of(name, 'trainbn'), about['tolerance']
  atol = tolerance['logits_atol']
  np.testing.assert_allclose(logits['head'], recorded['train/logits'], rtol=0, atol=atol)
  found = flax.traverse_util.flatten_dict(state, sep='/')
  after = {k.removeprefix('after/'): x for k, x in recorded.items() if k.startswith('after/')}
  expected = weights.from_official(
    {**arrays_of(name, 'weights'), **after}, about['config']['heads'], about['config']['n_head']
  )
  assert len(found) == sum('running' in key for key in after)
  for path, value in found.items():
    close(value, expected[path], tolerance['feature_rel_to_max'], path)


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_models_have_our_parameters(name):
  """Every name and shape of a model at its full size."""
  about = json.loads(PUBLISHED[name].read_text())
  official = {path: np.broadcast_to(np.float32(0), shape) for path, shape in about['parameters']}
  fields = trunks.uniformerv2('B/16').to_dict()
  del fields['name']
  head = LinearHead(num_classes=about['num_classes'])
  size = about['resolution']
  video = jax.ShapeDtypeStruct((1, about['frames'], size, size, 3), np.float32)
  source = weights.from_official(official)
  assert sum(x.size for x in source.values()) == about['params'] == 114_552_208
  variables_of(VideoModel(UniFormerV2(**fields), {'head': head}), source, video)
