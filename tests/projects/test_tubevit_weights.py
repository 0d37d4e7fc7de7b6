"""Tubes from the patch kernel of an image ViT, and files of the public code through the command."""

import functools

import flax
import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from configs.tubevit import trunks
from configs.vivit import k400_base_fe
from errors import CheckpointMismatchError
from models.heads import LinearHead
from models.video_model import VideoModel
from models.vivit import ViViT
from projects.tubevit import import_weights
from projects.tubevit.tokenising import TubeEmbedding, resized
from projects.tubevit.tubes import Tube
from projects.tubevit.tubevit import TubeViT
from tests.projects.test_tubevit_parity import public
from train_lib import data, initial, label_map
from train_lib.experiment import parse
from train_lib.mesh import make_mesh
from train_lib.pretrained import InitFromConfig, load_pretrained
from train_lib.pretrained_fit import fit_kernel
from train_lib.pretrained_vit import POSITIONS
from train_lib.program import build_program

SIZES = {'hidden_size': 16, 'num_layers': 1, 'num_heads': 2, 'mlp_dim': 8}
# As in Table 3: longer and smaller, in parts, larger, and the image ViT's own patch.
TUBES = {
  'a': Tube((4, 2, 2), (8, 8, 8), space_to_depth=(2, 1, 1)),
  'b': Tube((8, 1, 1), (4, 8, 8), offset=(2, 1, 1), space_to_depth=(1, 2, 2)),
  'c': Tube((2, 6, 6), (8, 8, 8), offset=(0, 2, 2)),
  'd': Tube((1, 4, 4), (8, 4, 4)),
  'e': Tube((6, 8, 8), (8, 8, 8), grown_from=(3, 4, 4)),
}
CLIP = (1, 16, 16, 16, 3)


def image_vit(seed=0):
  """An image ViT's arrays by canonical names, patch 4."""
  model = VideoModel(
    ViViT(**SIZES, tubelet=(1, 4, 4), attention='spacetime', pooling='token'),
    {'x': LinearHead(num_classes=3)},
  )
  shapes = abstract(model, (1, 1, 16, 16, 3))
  rng = np.random.default_rng(seed)
  flat = flax.traverse_util.flatten_dict(shapes['trunk'], sep='/')
  arrays = {k: 0.3 * rng.normal(size=x.shape).astype(np.float32) for k, x in flat.items()}
  return {**arrays, 'embedding/kernel': arrays['embedding/kernel'][0]}


def abstract(model, shape):
  init = functools.partial(model.init, train=False)
  video = jax.ShapeDtypeStruct(shape, np.float32)
  return flax.core.meta.unbox(jax.eval_shape(init, jax.random.key(0), video))['params']


def load(arrays, shape=CLIP, tubes=TUBES, options=(), **fields):
  """The trunk, its parameters, path of a leaf -> what the report says of it."""
  trunk = TubeViT(**{**SIZES, **fields}, tubes=tubes)
  model = VideoModel(trunk, {'x': LinearHead(num_classes=3)})
  params, report = load_pretrained(
    abstract(model, shape), arrays, grid=None, options=InitFromConfig(path='', **dict(options))
  )
  return trunk, params['trunk'], {row.target or row.source: row for row in report.rows}


def tokens_of(trunk, params, video):
  """Name -> tokens of a tube, [N, C] of the first clip, without positions."""

  @jax.jit
  def forward(params, video):
    is_tube = lambda module, _: isinstance(module, TubeEmbedding)  # noqa: E731
    return trunk.apply({'params': params}, video, train=False, capture_intermediates=is_tube)[1]

  with jax.default_matmul_precision('highest'):
    found = jax.device_get(forward(params, video))['intermediates']
  tokens = {name.removeprefix('tube_'): x['__call__'][0] for name, x in found.items()}
  return {name: x[0] for name, x in tokens.items() if x is not None}


@pytest.mark.parametrize('inflation', ['average', 'central_frame'])
def test_a_constant_clip_has_the_image_models_tokens(inflation):
  arrays = image_vit()
  trunk, params, report = load(arrays, options={'kernel_inflation': inflation})
  colour = np.array([0.5, -0.25, 0.75], np.float32)
  patch = np.einsum('hwic,i->c', arrays['embedding/kernel'], colour) + arrays['embedding/bias']
  tokens = tokens_of(trunk, params, np.broadcast_to(colour, CLIP))
  counts = {'a': 8, 'b': 8, 'c': 8, 'd': 32, 'e': 8}
  assert {name: x.shape for name, x in tokens.items()} == {n: (k, 16) for n, k in counts.items()}
  tokens['e'] = tokens['e'][-1:]  # The others see zeros beyond the border of the clip.
  for name, found in tokens.items():
    parts = TUBES[name].parts
    expected = np.tile(patch[: 16 // parts], (len(found), parts))
    np.testing.assert_allclose(found, expected, atol=2e-5)
  assert {name: row.status for name, row in report.items() if 'tube_' in name} == {
    **{f'trunk/tube_{name}/{leaf}': 'inflated' for name in 'ab' for leaf in ('kernel', 'bias')},
    'trunk/tube_c/kernel': 'inflated',
    'trunk/tube_c/bias': 'loaded',
    'trunk/tube_d/kernel': 'loaded',
    'trunk/tube_d/bias': 'loaded',
    'trunk/tube_e/kernel': 'inflated',
    'trunk/tube_e/bias': 'loaded',
  }
  assert report['trunk/tube_b/kernel'].how == (
    f'first 4 of 16 channels, 4x4 to 1x1 px, sum kept, {inflation}'
  )
  assert report['trunk/tube_e/kernel'].how == inflation
  assert report['Transformer/posembed_input/pos_embedding'].status == 'skipped'
  assert report['trunk/cls'].status == 'loaded'


def test_only_the_image_tube_gives_the_image_models_patches():
  arrays = image_vit()
  trunk, params, _ = load(arrays, (1, 1, 16, 12, 3), {'d': TUBES['d']})
  video = np.random.default_rng(1).uniform(-1, 1, (1, 1, 16, 12, 3)).astype(np.float32)
  patches = video.reshape(4, 4, 3, 4, 3).transpose(0, 2, 1, 3, 4)  # [nh, nw, h, w, 3]
  expected = np.einsum('ijhwc,hwcd->ijd', patches, arrays['embedding/kernel'])
  found = tokens_of(trunk, params, video)['d']
  np.testing.assert_allclose(found, expected.reshape(12, 16) + arrays['embedding/bias'], atol=1e-5)


def test_the_shape_that_is_learned_counts():
  arrays = image_vit()
  plain = {name: TUBES[name] for name in 'cd'}
  _, params, report = load(arrays, tubes=plain, shared_kernel=(2, 4, 4))
  assert report['trunk/shared_kernel'].how == 'central_frame'
  np.testing.assert_array_equal(params['shared_kernel'][1], arrays['embedding/kernel'])
  np.testing.assert_array_equal(params['tube_c']['bias'], arrays['embedding/bias'])
  _, params, _ = load(arrays)
  assert params['tube_e']['kernel'].shape == (3, 4, 4, 3, 16)


def test_kernels_may_stay_random():
  _, params, report = load(image_vit(), options={'kernel_inflation': 'none'})
  assert {report[f'trunk/tube_{name}/kernel'].status for name in TUBES} == {'new'}
  assert report['embedding/kernel'].status == 'skipped'
  assert isinstance(params['tube_a']['kernel'], jax.ShapeDtypeStruct)


def test_other_widths_are_named():
  with pytest.raises(CheckpointMismatchError, match=r'tube_d/kernel from .*, 32\), got .*, 16\)'):
    load(image_vit(), hidden_size=32)
  with pytest.raises(CheckpointMismatchError, match='The model is 32 wide, the checkpoint 16'):
    load(image_vit(), hidden_size=32)
  first = as_a_run(load(image_vit())[1])
  with pytest.raises(CheckpointMismatchError, match='The model is 8 wide, the checkpoint 16'):
    load(first, hidden_size=8)


def test_the_class_token_keeps_its_position():
  """That of an image ViT is a constant; the trunk has no table that could hold it."""
  arrays = image_vit()
  tubes = {'d': TUBES['d']}
  _, params, report = load(arrays, tubes=tubes)
  row = arrays[POSITIONS][:, :1]
  np.testing.assert_array_equal(params['cls'], arrays['cls'] + row)
  assert report['trunk/cls'].how == 'with its position'
  assert report[POSITIONS].status == 'skipped'
  # big_vision adds positions before the class token, so that it has none.
  theirs = {name: array for name, array in arrays.items() if name != POSITIONS}
  _, params, report = load({**theirs, 'pos_embedding': arrays[POSITIONS][:, 1:]}, tubes=tubes)
  np.testing.assert_array_equal(params['cls'], arrays['cls'])
  assert (report['trunk/cls'].status, report['trunk/cls'].how) == ('loaded', '')
  _, params, report = load(arrays, tubes=tubes, pooling='mean')
  assert 'cls' not in params
  assert report['cls'].status == 'skipped'


def test_attention_pooling_is_new_to_an_image_model():
  _, _, report = load(image_vit(), tubes={'d': TUBES['d']}, pooling='attention')
  new = {name for name, row in report.items() if row.status == 'new'}
  assert {name for name in new if not name.startswith('heads_')} == {
    'trunk/attention_pooling/kernel',
    'trunk/attention_pooling/bias',
  }


@pytest.mark.parametrize(('interpolation', 'ratio'), [('keep_sum', 1), ('trilinear', 8)])
def test_kernels_that_are_interpolated_again(interpolation, ratio):
  """The constant clip's token is the image model's, or grows with the volume: 2^3 to 4^3."""
  patch = image_vit()['embedding/kernel']
  learned, _ = fit_kernel(patch, (2, 2, 2, 3, 16), 'average')
  grown = resized(learned, (4, 4, 4), interpolation)
  np.testing.assert_allclose(grown.sum((0, 1, 2)), ratio * patch.sum((0, 1)), atol=1e-5)


def as_a_run(params):
  """A trunk's parameters as the checkpoint of a run by flat names, with a head."""
  flat = flax.traverse_util.flatten_dict(params, sep='/')
  return {**flat, 'heads_y/output_projection/kernel': np.zeros((16, 5))}


def test_tubes_of_another_shape_stay_new_if_allowed():
  first = as_a_run(load(image_vit())[1])
  other = {**TUBES, 'c': Tube((2, 5, 6), (8, 8, 8))}
  with pytest.raises(CheckpointMismatchError, match='tube_c/kernel from') as error:
    load(first, tubes=other)
  assert '1 have another shape' in str(error.value)
  _, params, report = load(first, tubes=other, options={'allow_new': ('trunk/tube_c/*',)})
  assert isinstance(params['tube_c']['kernel'], jax.ShapeDtypeStruct)
  np.testing.assert_array_equal(params['tube_c']['bias'], first['tube_c/bias'])  # It fits.
  assert report['trunk/tube_c/kernel'].status == 'new'
  assert report['tube_c/kernel'].status == 'skipped'
  assert report['trunk/tube_c/bias'].status == 'loaded'
  with pytest.raises(CheckpointMismatchError, match='1 have another shape'):
    load(first, tubes=other, options={'allow_new': ('trunk/tube_d/*',)})


def test_a_run_with_a_class_token_fills_a_model_without_one():
  first = as_a_run(load(image_vit())[1])
  _, params, report = load(first, pooling='mean')
  assert report['cls'].status == 'skipped'
  np.testing.assert_array_equal(params['tube_a']['kernel'], first['tube_a/kernel'])


def test_tubes_grow_in_a_second_run():
  """Charades: kernels of another run, larger; the parameters stay the same."""
  _, params, _ = load(image_vit(), options={'kernel_inflation': 'average'})
  first = as_a_run(params)
  grown = {**TUBES, 'c': Tube((4, 12, 12), (8, 8, 8), (0, 2, 2), grown_from=(2, 6, 6))}
  _, params, report = load(first, tubes=grown)
  assert {row.status for name, row in report.items() if name.startswith('trunk')} == {'loaded'}
  np.testing.assert_array_equal(params['tube_c']['kernel'], first['tube_c/kernel'])


def test_an_imported_file_starts_a_run(tmp_path, capsys):
  state, _, config = public()
  np.savez(tmp_path / 'public.npz', **state)
  path = tmp_path / 'ours.npz'
  # Not from a command line: commands that other tests import have required flags.
  flags.FLAGS.mark_as_parsed()
  with flagsaver.flagsaver(checkpoint=f'{tmp_path}/public.npz', out=str(path), num_heads=4):
    import_weights.main()
  trunk = sum(x.size for n, x in state.items() if not n.startswith(('heads.', 'pos_')))
  assert capsys.readouterr().out == (
    f'{path}: {trunk + 343:,} parameters (trunk {trunk:,}, heads 343).\n{label_map.unnamed(str(path))}\n'
  )
  program = public_program(path, config)
  assert program.position_grid is None
  params, report = load_pretrained(
    program.abstract_state.params,
    initial.read_weights(program),
    grid=program.position_grid,
    options=program.experiment.init_from,
  )
  assert report.count('loaded') == trunk
  np.testing.assert_array_equal(
    params['trunk']['tube_c']['bias'], state['sparse_tubes_tokenizer.conv_proj_bias'][2]
  )


def public_program(path, sizes):
  """Of the trunk that the command's documentation describes."""
  config = k400_base_fe.get_config()
  tubes = {name: {**fields, 'space_to_depth': (1, 1, 1)} for name, fields in trunks.TABLE3.items()}
  config.trunk = trunks.tubevit(
    'Ti',
    tubes,
    hidden_size=sizes['dim'],
    num_layers=sizes['layers'],
    num_heads=sizes['heads'],
    mlp_dim=sizes['mlp'],
    shared_kernel=(8, 8, 8),
    interpolation='trilinear',
    pooling='attention',
    gelu='erf',
  )
  config.datasets.kinetics400.clip.update({'frames': 36, 'crop': 64, 'resize': 64})
  config.init_from.path = str(path)
  experiment = parse(config)
  facts = data.facts_or_nominal(experiment)
  return build_program(experiment, facts, make_mesh(experiment.mesh))
