"""Official checkpoints of UniFormerV2, by name, and through a file into a model."""

import functools

import flax
import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from errors import CheckpointMismatchError, ConfigError
from models.heads import LinearHead
from models.video_model import VideoModel
from projects.uniformerv2 import import_weights, weights
from tests.projects.test_uniformerv2_parity import arrays_of, trunk_of
from train_lib import label_map
from train_lib.pretrained import InitFromConfig, load_pretrained
from train_lib.pretrained_layouts import canonicalise
from train_lib.weight_files import read_arrays

NAME = 'lt2_tdown'
BLOCK = 'transformer.resblocks.1.'


@functools.cache
def state():
  """The committed case's state dict: 4 blocks, 64 wide, with 2 local MHRAs each, and 3 global ones."""
  return arrays_of(NAME, 'weights')


def convert(arrays):
  return weights.from_official(arrays, num_heads=4)


def test_names_and_layouts():
  official, ours = state(), convert(state())
  counters = [name for name in official if name.endswith('num_batches_tracked')]
  assert sum(x.size for x in ours.values()) == sum(
    x.size for name, x in official.items() if name not in counters
  )
  packed = official[BLOCK + 'attn.in_proj_weight'].reshape(
    3, 4, 16, 64
  )  # part, head, channel, input
  attention = 'SpatialTransformer/encoderblock_1/MultiHeadDotProductAttention_0/'
  np.testing.assert_array_equal(ours[attention + 'key/kernel'], np.moveaxis(packed[1], -1, 0))
  local = 'SpatialTransformer/encoderblock_1/local_1/'
  taps = official[BLOCK + 'lmhra2.pos_embed.2.weight']
  assert ours[local + 'convolution/kernel'].shape == (3, 1, 1, 1, 42)
  np.testing.assert_array_equal(
    ours[local + 'convolution/kernel'][:, 0, 0, 0], taps[:, 0, :, 0, 0].T
  )
  pointwise = official[BLOCK + 'lmhra2.pos_embed.3.weight'][..., 0, 0, 0]
  np.testing.assert_array_equal(ours[local + 'Dense_1/kernel'], pointwise.T)
  dpe = official['transformer.dpe.2.weight']
  assert ours['global_2/dpe/kernel'][0, 1, 2, 0, 5] == dpe[5, 0, 0, 1, 2]
  patch = official['conv1.weight']
  assert ours['embedding/kernel'][0, 1, 2, 1, 5] == patch[5, 1, 0, 1, 2]
  variance = official[BLOCK + 'lmhra1.pos_embed.0.running_var']
  found = ours['batch_stats/trunk/SpatialTransformer/encoderblock_1/local_0/norm/var']
  np.testing.assert_array_equal(found, variance)
  norm = official['transformer.dec.0.ln_3.weight']
  np.testing.assert_array_equal(ours['global_0/LayerNorm_context/scale'], norm)


@pytest.mark.parametrize('prefix', ['backbone.', 'module.backbone.', 'model_state/backbone.'])
def test_what_stands_before_the_names(prefix):
  wrapped = {prefix + name: array for name, array in state().items()}
  if '/' in prefix:
    wrapped |= {'epoch': np.int64(3), 'optimizer_state/state/0/exp_avg': np.ones(2)}
  assert convert(wrapped).keys() == convert(state()).keys()


def test_heads_have_64_channels_unless_told():
  wide = {name: x for name, x in state().items() if not name.startswith('transformer.proj.2')}
  ours = weights.from_official(wide)
  path = 'MultiHeadDotProductAttention_0/query/kernel'
  assert ours[f'SpatialTransformer/encoderblock_0/{path}'].shape == (64, 1, 64)
  assert not any(name.startswith('output_projection') for name in ours)
  ours = weights.from_official(wide, num_heads=4, global_num_heads=2)
  assert ours[f'SpatialTransformer/encoderblock_0/{path}'].shape == (64, 4, 16)
  assert ours[f'global_0/{path}'].shape == (64, 2, 32)
  with pytest.raises(ConfigError, match=r'3 heads do not divide the width 64: see --num_heads'):
    weights.from_official(wide, num_heads=3)


ONE = np.ones(1, np.float32)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'ln_post.weight': ONE, 'proj': ONE}, r"has no \['ln_post\.weight', 'proj'\]"),
    (
      {f'{BLOCK}ln_1.bias': None, f'{BLOCK}attn.in_proj_weight': None},
      r"\['transformer\.resblocks\.1\.attn\.in_proj_weight', 'transformer.*ln_1\.bias'\] are missing",
    ),
    (
      {f'{BLOCK}lmhra2.pos_embed.0.running_var': None},
      r"\['transformer\.resblocks\.1\.lmhra2\.pos_embed\.0\.running_var'\] are missing",
    ),
    ({'transformer.dpe.2.weight': None}, r"\['transformer\.dpe\.2\.weight'\] are missing"),
    (
      {f'{BLOCK}attn.in_proj_bias': np.ones(190)},
      r'attn\.in_proj_bias: expected 192 rows: queries, keys, values, got the shape \(190,\)',
    ),
    (
      {'conv1.weight': np.ones((64, 3, 16, 16))},
      r'conv1\.weight: expected 5 axes, got the shape \(64, 3, 16, 16\)',
    ),
  ],
)
def test_what_is_not_such_a_checkpoint(change, message):
  official = {name: x for name, x in {**state(), **change}.items() if x is not None}
  with pytest.raises(CheckpointMismatchError, match=message):
    convert(official)


def test_a_missing_block_and_a_file_of_one_name():
  official = {name: x for name, x in state().items() if '.resblocks.1.' not in name}
  with pytest.raises(CheckpointMismatchError, match=r'resblocks\.1\.attn\.in_proj_bias.* missing'):
    convert(official)
  with pytest.raises(CheckpointMismatchError, match=r"'conv1\.weight', .* are missing"):
    convert({'class_embedding': np.ones(64)})


@pytest.mark.parametrize('prefix', ['', 'backbone.', 'model_state/', 'model_state/backbone.'])
def test_a_model_is_not_filled_without_the_converter(prefix):
  released = {prefix + name: array for name, array in state().items()}
  message = (
    r'^x\.pyth has the arrays transformer\.dec\.0\.attn\.in_proj_bias, .* and \d+ more: .*Convert the '
    r'file with `python -m projects\.uniformerv2\.import_weights --checkpoint=FILE'
  )
  with pytest.raises(CheckpointMismatchError, match=message):
    canonicalise(released, 4, 'x.pyth')


def test_the_command_writes_what_it_converts(tmp_path, capsys):
  np.savez(tmp_path / 'official.npz', **state())
  path = tmp_path / 'ours.npz'
  # Not from a command line: commands that other tests import have required flags.
  flags.FLAGS.mark_as_parsed()
  files = {'checkpoint': f'{tmp_path}/official.npz', 'out': str(path)}
  with flagsaver.flagsaver(**files, num_heads=4, global_num_heads=4):
    import_weights.main()
  head, statistics = 11 * 65, 4 * 2 * 2 * 64
  parameters = 551_579  # Recorded with the case.
  counts = f'trunk {parameters - head:,}, heads {head}'
  assert capsys.readouterr().out == (
    f'{path}: {parameters:,} parameters ({counts}), {statistics:,} running statistics.\n'
    f'{label_map.unnamed(str(path))}\n'
  )
  written, expected = read_arrays(str(path)), convert(state())
  assert written.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(written[name], array)


def test_the_command_names_its_flag(tmp_path):
  flags.FLAGS.mark_as_parsed()
  (tmp_path / 'cut.npz').write_bytes(b'PK')
  files = {'checkpoint': f'{tmp_path}/cut.npz', 'out': f'{tmp_path}/ours.npz'}
  with (
    flagsaver.flagsaver(**files),
    pytest.raises(CheckpointMismatchError, match=r"^--checkpoint='.*cut.npz' cannot be read"),
  ):
    import_weights.main()


CONFIG = {
  'width': 64,
  'layers': 4,
  'heads': 4,
  'patch_size': 16,
  'temporal_downsample': True,
  'no_lmhra': False,
  'double_lmhra': True,
  'dw_reduction': 1.5,
  'return_list': (1, 2, 3),
  'n_head': 4,
  'n_dim': 64,
  'mlp_factor': 4.0,
  'frozen': False,
}


@pytest.mark.parametrize(
  ('changes', 'expected'),
  [
    (
      {'width': 32, 'n_dim': 32},
      [r'trunk/cls from cls', 'The model is 32 wide, the checkpoint 64'],
    ),
    (
      {'patch_size': 8},
      [r'trunk/embedding/kernel from .*\(3, 8, 8, 3, 64\)', r'\(3, 16, 16, 3, 64\)'],
    ),
    ({'layers': 5}, [r'trunk/SpatialTransformer/encoderblock_4/LayerNorm_0/bias']),
    ({'layers': 3, 'return_list': (1, 2)}, [r'encoderblock_3/', r'global_2/']),
    ({'temporal_downsample': False}, [r'trunk/embedding/kernel from .*\(1, 16, 16, 3, 64\)']),
  ],
)
def test_models_that_it_does_not_fit(changes, expected):
  trunk = trunk_of({**CONFIG, **changes})
  model = VideoModel(trunk, {'x': LinearHead(num_classes=11)})
  video = jax.ShapeDtypeStruct((1, 8, 64, 64, 3), np.float32)
  init = functools.partial(model.init, train=False)
  shapes = flax.core.meta.unbox(jax.eval_shape(init, jax.random.key(0), video))['params']
  source = {k: v for k, v in convert(state()).items() if not k.startswith('batch_stats')}
  with pytest.raises(CheckpointMismatchError) as error:
    load_pretrained(
      shapes,
      source,
      grid=trunk.grid(video.shape),
      options=InitFromConfig(path='', load_head=True, position_embedding='resize'),
    )
  for pattern in expected:
    error.match(pattern)
