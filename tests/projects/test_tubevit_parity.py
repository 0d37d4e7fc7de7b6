"""The trunk as the public, unofficial implementation reads it, against that; cases are described in
tests/fixtures/PROVENANCE.md."""

import functools
import json
import pathlib
import re

import flax
import jax
import numpy as np
import pytest

from errors import CheckpointMismatchError, ConfigError
from models.heads import LinearHead
from models.video_model import VideoModel
from projects.tubevit import positions, weights
from projects.tubevit.tokenising import resized
from projects.tubevit.tubes import Tube
from projects.tubevit.tubevit import TubeViT
from train_lib.pretrained import InitFromConfig, load_pretrained

FOLDER = pathlib.Path(__file__).parents[1] / 'fixtures' / 'tubevit'
NAMES = ('a', 'b', 'c', 'd')


@functools.cache
def read(name):
  """(arrays, description, its tubes)."""
  about = json.loads((FOLDER / f'{name}.json').read_text())
  rows = zip(NAMES, about['kernels'], about['strides'], about['offsets'])
  tubes = {name: Tube(*map(tuple, sizes)) for name, *sizes in rows}
  return dict(np.load(FOLDER / f'{name}.npz')), about, tubes


@functools.cache
def public():
  """State dict, other arrays."""
  arrays, about, _ = read('tubevit_unofficial')
  prefix = 'state_dict/'
  state = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
  return state, arrays, about['config']


def model():
  sizes = read('tubevit_unofficial')[1]['config']
  trunk = TubeViT(
    hidden_size=sizes['dim'],
    num_layers=sizes['layers'],
    num_heads=sizes['heads'],
    mlp_dim=sizes['mlp'],
    tubes=read('tubevit_unofficial')[2],
    shared_kernel=(8, 8, 8),
    interpolation='trilinear',
    pooling='attention',
    gelu='erf',
  )
  return VideoModel(trunk, {'head': LinearHead(num_classes=sizes['classes'])})


@functools.cache
def outputs():
  """Features, logits and what every module returned."""
  state, arrays, config = public()
  video = np.moveaxis(arrays['input'], 1, -1)
  init = functools.partial(model().init, train=False)
  shapes = flax.core.meta.unbox(jax.eval_shape(init, jax.random.key(0), video))['params']
  source = weights.from_official(state, NAMES, config['heads'])
  params, report = load_pretrained(
    shapes, source, grid=None, options=InitFromConfig(path='', load_head=True)
  )
  assert {row.status for row in report.rows} == {'loaded'}

  @jax.jit
  def forward(params, video):
    return model().apply({'params': params}, video, train=False, capture_intermediates=True)

  with jax.default_matmul_precision('highest'):
    (features, logits), state = jax.device_get(forward(params, video))
  return features, logits['head'], state['intermediates']['trunk']


def close(actual, expected):
  tolerance = read('tubevit_unofficial')[1]['tolerance']
  np.testing.assert_allclose(actual, expected, **tolerance)


def test_tokens():
  """Of each tube, before the positions."""
  _, arrays, _ = public()
  found = [outputs()[2][f'tube_{name}']['__call__'][0] for name in NAMES]
  assert [x.shape[1] for x in found] == read('tubevit_unofficial')[1]['tokens_per_tube']
  close(np.concatenate(found, axis=1), arrays['tokens'])


def test_encoded_pooled_and_logits():
  _, arrays, _ = public()
  features, logits, modules = outputs()
  close(modules['Transformer']['__call__'][0], arrays['encoded'])
  close(features.tokens, arrays['encoded'][:, 1:])
  close(features.pooled, arrays['pooled'])
  close(logits, arrays['logits'])
  assert features.grid is None


@pytest.mark.parametrize('number', [1, 2, 3])
def test_interpolated_kernels(number):
  state, arrays, _ = public()
  kernel = np.moveaxis(state['sparse_tubes_tokenizer.conv_proj_weight'], (1, 0), (-2, -1))
  expected = np.moveaxis(arrays[f'interp_kernel/{number}'], (1, 0), (-2, -1))
  shape = expected.shape[:3]
  found = resized(kernel[..., :8], shape, 'trilinear')
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize('frames', [32, 64])
@pytest.mark.parametrize('number', range(4))
def test_positions(number, frames):
  """To 5e-6, a fortieth of the recorded tolerance: the public table is made in float32."""
  arrays, about, tubes = read('tubevit_position_embedding')
  tube, size = tubes[NAMES[number]], about['config']['size']
  grid = tube.grid((frames, size, size))
  assert grid == tuple(arrays[f'tube{number}_T{frames}_grid'])
  found = positions.table(tube.centres(grid), about['config']['dim'])
  np.testing.assert_allclose(found, arrays[f'tube{number}_T{frames}_pos'], rtol=0, atol=5e-6)


def test_positions_of_a_whole_model():
  state, _, config = public()
  tubes, clip = read('tubevit_unofficial')[2], (config['T'], config['S'], config['S'])
  centres = np.concatenate([tube.centres(tube.grid(clip)) for tube in tubes.values()])
  expected = state['pos_embedding']
  np.testing.assert_allclose(positions.table(centres, 48), expected[1:], rtol=0, atol=5e-6)
  assert not expected[0].any()


@pytest.mark.parametrize(
  ('change', 'heads', 'error', 'message'),
  [
    (
      {'model.class_token': np.ones(1)},
      4,
      CheckpointMismatchError,
      r"has no \['model.class_token'\]",
    ),
    (
      {'sparse_tubes_tokenizer.conv_proj_bias': np.ones((3, 48))},
      4,
      CheckpointMismatchError,
      r"bias \(4, d\), a row for each of the tubes \['a', 'b', 'c', 'd'\]; .*\(3, 48\)",
    ),
    # Names count whole.
    (
      {'class_token_ema': np.ones(1), 'encoder.ln.weight_g': np.ones(1), 'encoder.lnx': np.ones(1)},
      4,
      CheckpointMismatchError,
      r"has no \['class_token_ema', 'encoder.ln.weight_g', 'encoder.lnx'\]",
    ),
    ({}, 5, ConfigError, r'--num_heads=5 does not divide the width 48'),
  ],
)
def test_what_cannot_be_converted(change, heads, error, message):
  with pytest.raises(error, match=message):
    weights.from_official({**public()[0], **change}, NAMES, heads)


@pytest.mark.parametrize(
  'missing',
  [
    ['class_token'],
    [
      'encoder.layers.encoder_layer_0.ln_2.bias',
      'encoder.layers.encoder_layer_0.self_attention.in_proj_weight',
    ],
    ['sparse_tubes_tokenizer.conv_proj_bias'],
  ],
)
def test_what_is_missing_is_named(missing):
  state = {name: array for name, array in public()[0].items() if name not in missing}
  with pytest.raises(CheckpointMismatchError, match=re.escape(f'{missing} are missing')):
    weights.from_official(state, NAMES, 4)


def test_a_file_of_one_name():
  with pytest.raises(CheckpointMismatchError, match=r"'encoder\.ln\.bias', .* are missing"):
    weights.from_official({'class_token': np.zeros((1, 1, 48))}, NAMES, 4)


def test_heads_may_be_missing():
  state = {name: array for name, array in public()[0].items() if not name.startswith('heads.')}
  expected = weights.from_official(public()[0], NAMES, 4)
  found = weights.from_official(state, NAMES, 4)
  assert expected.keys() - found.keys() == {'output_projection/kernel', 'output_projection/bias'}
