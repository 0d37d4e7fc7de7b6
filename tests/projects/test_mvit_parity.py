"""MViTv2 and its heads against the released code of MultiTrain.

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
from flax import linen as nn

from configs.multitrain import trunks
from models.heads import LinearHead, MLPHead
from models.video_model import VideoModel
from projects.multitrain import weights
from projects.multitrain.mvit import MViT
from tests.projects.test_multitrain_losses import RECORDED, recorded_objective, recorded_total
from train_lib.objective import ModelOutputs
from train_lib.pretrained import InitFromConfig, load_pretrained

COMMITTED = pathlib.Path(__file__).parents[1] / 'fixtures' / 'multitrain'
COLLECTION = (
  pathlib.Path(os.environ.get('TUBELET_FIXTURES', COMMITTED.parents[3] / 'shared' / 'fixtures'))
  / 'multitrain'
)
PARTS = ('weights', 'io', 'features', 'grads')
FILES = {
  path.stem: path
  for folder in (COMMITTED, COLLECTION)
  for path in sorted(folder.glob('*.json'))
  if path.with_suffix('.weights.npz').exists()
}
SINGLE = [name for name in FILES if name.startswith('mvit')]
MULTI = [name for name in FILES if name.startswith('multitrain')]
# Two values under one maximum of this case are 1.2e-7 apart: float32 may send the gradient to either.
DTYPES = {'mvit_relpos': np.float64}


@functools.cache
def read(name):
  """(part -> arrays, description) of a case."""
  arrays = {part: dict(np.load(FILES[name].with_suffix(f'.{part}.npz'))) for part in PARTS}
  return arrays, json.loads(FILES[name].read_text())


def stages(table):
  """The fields of `MViT` that a case's list of blocks makes."""
  first = [i for i, row in enumerate(table) if i == 0 or row['dim_in'] != row['dim_out']]
  ends = [*first[1:], len(table)]
  for begin, end in zip(first, ends):
    assert len({tuple(row['stride_kv']) for row in table[begin:end]}) == 1
    assert all(row['stride_q'] == [1, 1, 1] for row in table[begin + 1 : end])
  return {
    'hidden_sizes': tuple(table[i]['dim_out'] for i in first),
    'num_layers': tuple(end - begin for begin, end in zip(first, ends)),
    'num_heads': tuple(table[i]['heads'] for i in first),
    'query_strides': tuple(tuple(table[i]['stride_q']) for i in first),
    'key_value_strides': tuple(tuple(table[i]['stride_kv']) for i in first),
  }


def model_of(about):
  config = about['mvit_config']
  trunk = MViT(
    **stages(about['block_table']),
    patch_kernel=tuple(config['PATCH_KERNEL']),
    patch_stride=tuple(config['PATCH_STRIDE']),
    pool_kernel=tuple(config['POOL_KVQ_KERNEL']),
    mlp_ratio=int(config['MLP_RATIO']),
    absolute_positions=config['SEP_POS_EMBED'],
    relative_positions=config['REL_POS_EMBED'],
  )
  settings = about['model_config']
  if not about['multi_head']:
    return VideoModel(trunk, {'head': LinearHead(num_classes=settings['NUM_CLASSES'])})
  sizes = zip(settings['MULTI_DATASETS'], settings['MULTI_NUM_CLASSES'])
  return VideoModel(trunk, {name: MLPHead(num_classes=classes) for name, classes in sizes})


def loaded(model, source, video):
  """Parameters of the model, all from the converted state dict, and the objective's."""
  init = functools.partial(model.init, train=False)
  shapes = flax.core.meta.unbox(jax.eval_shape(init, jax.random.key(0), video))['params']
  options = InitFromConfig(path='', load_head=True)
  params, report = load_pretrained(
    shapes, source, grid=model.trunk.patch_grid(video.shape), options=options
  )
  assert report.count('new') == report.count('resized') == 0
  objective = {k: v for k, v in source.items() if k.startswith('objective/')}
  assert report.count('skipped') == sum(x.size for x in objective.values())
  return params, objective


@functools.cache
def case(name):
  """(model, params, objective's arrays, video, arrays, description)."""
  arrays, about = read(name)
  model = model_of(about)
  video = np.moveaxis(arrays['io']['input'], 1, -1)
  return (
    model,
    *loaded(model, weights.from_official(arrays['weights'], {}), video),
    video,
    arrays,
    about,
  )


@functools.cache
def outputs(name):
  """Logits, features and what every module returned."""
  model, params, _, video, _, _ = case(name)

  @jax.jit
  def forward(params, video):
    return model.apply({'params': params}, video, train=False, capture_intermediates=True)

  with jax.default_matmul_precision('highest'):
    (features, logits), state = jax.device_get(forward(params, video))
  return features, logits, state['intermediates']['trunk']


def close(actual, expected, tolerance, message=''):
  """The collection's own measure: the largest difference over the largest number."""
  actual, expected = np.asarray(actual), np.asarray(expected)
  assert actual.shape == expected.shape, message
  error = np.abs(actual - expected).max() / np.abs(expected).max()
  assert error <= tolerance, f'{message}: {error:.3g} of at most {tolerance:.3g}'


def path_of(feature):
  """Modules under the trunk whose result a recorded feature is; None if it is no module's."""
  if feature == 'patch_embed':
    return ('embedding',)
  if feature == 'norm':
    return ('encoder_norm',)
  block, _, part = feature.partition('.')
  names = {'q': 'query', 'k': 'key', 'v': 'value'}
  parts = {
    **{short: ('attention', name) for short, name in names.items()},
    'attn': ('attention',),
    'mlp': ('MlpBlock_0',),
    'skip_proj': ('skip',),
    '': (),
  }
  if not block.startswith('block') or part not in parts:
    return None
  return (block.replace('block', 'encoderblock_'), *parts[part])


@pytest.mark.parametrize('name', FILES)
def test_features(name):
  _, _, _, _, arrays, about = case(name)
  features, _, modules = outputs(name)
  tolerance = about['tolerance']['feature_rel_to_max']
  close(features.pooled, arrays['features']['feat/pooled'], tolerance, 'pooled')
  close(features.tokens, arrays['features']['feat/norm'], tolerance, 'tokens')
  assert features.grid == tuple(about['block_table'][-1]['thw_out'])
  compared = 0
  for feature, expected in arrays['features'].items():
    if path := path_of(feature.removeprefix('feat/')):
      found = functools.reduce(lambda tree, key: tree[key], path, modules)['__call__'][0]
      close(np.reshape(found, expected.shape), expected, tolerance, feature)
      compared += 1
  assert compared >= 4


@pytest.mark.parametrize('name', FILES)
def test_logits(name):
  _, _, _, _, arrays, about = case(name)
  tolerance = about['tolerance']['output_rel_to_max']
  for task, logits in outputs(name)[1].items():
    close(logits, arrays['io'][f'train/out/{task}'], tolerance, task)
    close(nn.softmax(logits), arrays['io'][f'eval/out/{task}'], tolerance, task)


@pytest.mark.parametrize('name', MULTI)
def test_projections_and_expander(name):
  _, _, objective, _, arrays, about = case(name)
  features, logits, _ = outputs(name)
  tolerance = about['tolerance']['output_rel_to_max']
  pairs = [(a, b) for a in logits for b in logits if a != b]
  for source, target in pairs:
    projected = logits[source] @ objective[f'objective/from_{source}/to_{target}']
    close(projected, arrays['io'][f'train/out/{source}_{target}'], tolerance, (source, target))
  layers = [
    [objective[f'objective/expander/Dense_{i}/{leaf}'] for leaf in ('kernel', 'bias')]
    for i in (0, 1)
  ]
  hidden = nn.gelu(features.pooled @ layers[0][0] + layers[0][1], approximate=False)
  close(hidden @ layers[1][0] + layers[1][1], arrays['io']['train/out/expander'], tolerance)
  assert len(objective) == len(pairs) + 4


@pytest.mark.parametrize('name', SINGLE)
def test_gradients(name):
  model, params, _, video, arrays, about = case(name)
  dtype = DTYPES.get(name, np.float32)
  model = model.clone(trunk=model.trunk.clone(dtype=dtype))
  params = jax.tree.map(lambda x: np.asarray(x, dtype), params)

  @jax.jit
  def loss_and_gradients(params):
    def loss(params):
      logits = model.apply({'params': params}, video, train=False)[1]['head']
      labels = arrays['io']['labels']
      return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return jax.value_and_grad(loss)(params)

  with jax.default_matmul_precision('highest'), jax.enable_x64(dtype == np.float64):
    loss, gradients = jax.device_get(loss_and_gradients(params))
  assert {x.dtype for x in jax.tree.leaves(gradients)} == {np.dtype(dtype)}
  np.testing.assert_allclose(loss, arrays['io']['loss/ce'], rtol=about['tolerance']['loss_rtol'])
  found = flax.traverse_util.flatten_dict(gradients, sep='/')
  expected = recorded_gradients(arrays['weights'], arrays['grads'])
  assert len(expected) >= 9
  for name, gradient in expected.items():
    own = found['heads_head/' + name if name.startswith('output') else 'trunk/' + name]
    close(own, gradient, about['tolerance']['grad_rel_to_max'], name)


@pytest.mark.parametrize('path', sorted(COLLECTION.glob('full_*.json')), ids=lambda path: path.stem)
def test_published_models_have_our_parameters(path):
  """Every name and shape of models at their full size."""
  about = json.loads(path.read_text())
  official = {name: np.broadcast_to(np.float32(0), shape) for name, shape in about['parameters']}
  source = weights.from_official(official, {})
  config = about['model_config']
  heads = {'head': LinearHead(num_classes=config['NUM_CLASSES'])}
  if config['USE_MULTI_HEAD']:
    sizes = zip(config['MULTI_DATASETS'], config['MULTI_NUM_CLASSES'])
    heads = {name: MLPHead(num_classes=classes) for name, classes in sizes}
  fields = trunks.mvit('32x3').to_dict()
  del fields['name']
  video = jax.ShapeDtypeStruct((1, 32, 224, 224, 3), np.float32)
  loaded(VideoModel(MViT(**fields), heads), source, video)
  objective = {k: v.size for k, v in source.items() if k.startswith('objective/')}
  assert sum(x.size for x in source.values()) == about['params']
  assert about['params'] - sum(objective.values()) == about['params_inference']


def recorded_gradients(state, gradients):
  """Those of some parameters, by our names; a converted state dict is a whole one."""
  before = weights.from_official(state, {})
  after = weights.from_official({**state, **gradients}, {})
  return {name: after[name] for name in before if not np.array_equal(before[name], after[name])}


@functools.cache
def pull_back(name):
  """Gradients of the parameters from those of pooled features and logits, compiled once."""
  model, params, _, video, _, _ = case(name)

  def forward(params):
    features, logits = model.apply({'params': params}, video, train=False)
    return features.pooled, logits

  return jax.jit(lambda cotangents: jax.vjp(forward, params)[1](cotangents)[0])


@pytest.mark.parametrize('name', MULTI)
@pytest.mark.parametrize(('variant', 'projection'), RECORDED)
def test_gradients_of_the_whole_objective(name, variant, projection):
  model, _, owned, _, arrays, about = case(name)
  io, tolerance = arrays['io'], about['tolerance']
  objective = recorded_objective(model.heads, projection, 2.5, 0.1)
  targets, masks = ({n: io[f'{kind}/{n}'] for n in model.heads} for kind in ('labels', 'masks'))
  features, logits, _ = outputs(name)

  def total(pooled, logits, owned, sigma_sq):
    told = ModelOutputs(features.replace(pooled=pooled), logits, targets, masks)
    return recorded_total(objective, owned, told, sigma_sq)

  owned = flax.traverse_util.unflatten_dict(owned, sep='/')['objective']
  with jax.default_matmul_precision('highest'):
    loss, (*of_outputs, of_owned, of_sigma) = jax.value_and_grad(total, (0, 1, 2, 3))(
      features.pooled, logits, owned, io['sigma_sq']
    )
    gradients = jax.device_get(pull_back(name)(tuple(of_outputs)))
  np.testing.assert_allclose(loss, io[f'loss/{variant}/total'], rtol=tolerance['loss_rtol'])
  recorded = {
    k.removeprefix(f'{variant}/'): v for k, v in arrays['grads'].items() if k.startswith(variant)
  }
  if projection == 'added':
    close(of_sigma, recorded.pop('sigma_sq'), tolerance['grad_rel_to_max'], 'sigma_sq')
  expected = recorded_gradients(arrays['weights'], recorded)
  assert len(expected) == len(recorded) + 2  # Queries, keys and values are apart.
  found = flax.traverse_util.flatten_dict({**gradients, 'objective': of_owned}, sep='/')
  for path, gradient in expected.items():
    own = found[path if path.startswith(('heads', 'objective')) else f'trunk/{path}']
    close(own, gradient, tolerance['grad_rel_to_max'], path)
