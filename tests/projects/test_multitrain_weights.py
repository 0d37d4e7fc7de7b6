"""Official checkpoints of MultiTrain, by name, and through a file into a model."""

import flax
import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from configs.multitrain import trunks
from configs.vivit import k400_base_fe
from errors import CheckpointMismatchError, ConfigError
from projects.multitrain import import_weights, weights
from train_lib import data, initial, label_map
from train_lib.experiment import parse
from train_lib.mesh import make_mesh
from train_lib.pretrained import load_pretrained
from train_lib.program import build_program

ONE = np.ones(1, np.float32)


def state_dict():
  """One block with two heads of 2 channels, the heads of two datasets, projections and expander."""
  block = {
    'norm1.weight': 4,
    'norm1.bias': 4,
    'norm2.weight': 4,
    'norm2.bias': 4,
    'attn.qkv.weight': (12, 4),
    'attn.qkv.bias': 12,
    'attn.proj.weight': (4, 4),
    'attn.proj.bias': 4,
    **{f'attn.pool_{x}.weight': (2, 1, 3, 3, 3) for x in 'qkv'},
    **{f'attn.norm_{x}.{leaf}': 2 for x in 'qkv' for leaf in ('weight', 'bias')},
    'mlp.fc1.weight': (8, 4),
    'mlp.fc1.bias': 8,
    'mlp.fc2.weight': (4, 8),
    'mlp.fc2.bias': 4,
  }
  shapes = {
    'pos_embed_spatial': (1, 16, 4),
    'pos_embed_temporal': (1, 2, 4),
    'patch_embed.proj.weight': (4, 3, 3, 7, 7),
    'patch_embed.proj.bias': 4,
    **{f'blocks.0.{name}': shape for name, shape in block.items()},
    'norm.weight': 4,
    'norm.bias': 4,
    'expander.fc1.weight': (6, 4),
    'expander.fc1.bias': 6,
    'expander.fc2.weight': (4, 6),
    'expander.fc2.bias': 4,
    'head.cross_dataset_heads.kinetics_mit.weight': (3, 5),
    'head.cross_dataset_heads.mit_kinetics.weight': (5, 3),
  }
  for name, classes in (('kinetics', 5), ('mit', 3)):
    shapes |= {f'head.heads.{name}.fc1.weight': (7, 4), f'head.heads.{name}.fc1.bias': 7}
    shapes |= {
      f'head.heads.{name}.fc2.weight': (classes, 7),
      f'head.heads.{name}.fc2.bias': classes,
    }
  rng = np.random.default_rng(0)
  return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def small_program(tmp_path):
  config = k400_base_fe.get_config()
  config.trunk = trunks.mvit('16x4')
  config.trunk.update({'hidden_sizes': (4,), 'num_layers': (1,), 'num_heads': (2,), 'mlp_ratio': 2})
  config.trunk.update({'query_strides': ((1, 1, 1),), 'key_value_strides': ((1, 2, 2),)})
  config.datasets.kinetics400.clip.update({'frames': 8, 'crop': 32, 'resize': 36})
  config.tasks.kinetics400.head = {
    'name': 'models.heads:MLPHead',
    'hidden_size': 7,
  }
  config.init_from.path = str(tmp_path / 'ours.npz')
  experiment = parse(config)
  mesh = make_mesh(experiment.mesh, jax.devices()[:1])
  return build_program(experiment, data.facts_or_nominal(experiment), mesh)


def test_names_and_layouts():
  official = state_dict()
  ours = weights.from_official(official, {'kinetics': 'k400', 'mit': 'moments_in_time'})
  assert sum(x.size for x in ours.values()) == sum(x.size for x in official.values())
  query = ours['encoderblock_0/attention/query/kernel']
  packed = official['blocks.0.attn.qkv.weight'].reshape(3, 2, 2, 4)  # part, head, channel, input
  np.testing.assert_array_equal(query, np.moveaxis(packed[0], -1, 0))
  value = ours['encoderblock_0/attention/value/bias']
  np.testing.assert_array_equal(value, official['blocks.0.attn.qkv.bias'][8:].reshape(2, 2))
  out = official['blocks.0.attn.proj.weight'].T.reshape(2, 2, 4)
  np.testing.assert_array_equal(ours['encoderblock_0/attention/out/kernel'], out)
  pooling = official['blocks.0.attn.pool_k.weight']
  assert ours['encoderblock_0/attention/key/pool_kernel'].shape == (3, 3, 3, 1, 2)
  assert ours['encoderblock_0/attention/key/pool_kernel'][0, 1, 2, 0, 1] == pooling[1, 0, 0, 1, 2]
  assert (
    ours['embedding/kernel'][1, 2, 3, 0, 1] == official['patch_embed.proj.weight'][1, 0, 1, 2, 3]
  )
  projection = official['head.cross_dataset_heads.kinetics_mit.weight'].T
  np.testing.assert_array_equal(ours['objective/from_k400/to_moments_in_time'], projection)
  expander = official['expander.fc2.weight'].T
  np.testing.assert_array_equal(ours['objective/expander/Dense_1/kernel'], expander)
  heads = {name.split('/')[0] for name in ours if name.startswith('heads_')}
  assert heads == {'heads_k400', 'heads_moments_in_time'}
  assert ours['heads_moments_in_time/output_projection/kernel'].shape == (7, 3)


def test_datasets_may_swap_their_names():
  official = state_dict()
  ours = weights.from_official(official, {'kinetics': 'mit', 'mit': 'kinetics'})
  head = official['head.heads.kinetics.fc2.bias']
  np.testing.assert_array_equal(ours['heads_mit/output_projection/bias'], head)
  projection = official['head.cross_dataset_heads.kinetics_mit.weight'].T
  np.testing.assert_array_equal(ours['objective/from_mit/to_kinetics'], projection)


def test_the_head_of_one_dataset_has_no_name():
  official = {n: x for n, x in state_dict().items() if not n.startswith(('head', 'expander'))}
  official |= {'head.projection.weight': np.ones((5, 4)), 'head.projection.bias': np.ones(5)}
  ours = weights.from_official(official, {})
  assert ours['output_projection/kernel'].shape == (4, 5)
  assert not any(name.startswith(('heads', 'objective')) for name in ours)


@pytest.mark.parametrize(
  ('change', 'tasks', 'message'),
  [
    (
      {'cls_token': ONE, 'blocks.0.attn.rel': ONE},
      {},
      r"has no \['blocks.0.attn.rel', 'cls_token'\]",
    ),
    ({'blocks.0.attn.norm_q.weight': None}, {}, r'encoderblock_0/attention: .* no attn\.norm_q'),
    ({}, {'k400': 'kinetics'}, r"no heads of \['k400'\]: .*\['kinetics', 'mit'\]"),
    ({}, {'kinetics': 'x', 'mit': 'x'}, r"one task: {'kinetics': 'x', 'mit': 'x'}"),
    ({}, {'kinetics': 'mit'}, r"one task: {'kinetics': 'mit', 'mit': 'mit'}"),
    (
      {'blocks.0.attn.qkv.bias': np.ones(11)},
      {},
      r'blocks\.0\.attn\.qkv\.bias: expected a multiple of 3 rows: .*, got the shape \(11,\)',
    ),
    (
      {'blocks.0.attn.qkv.weight': np.ones((9, 4))},
      {},
      r'attention/query/kernel: expected heads of 2 channels, .*, got the shape \(4, 3\)',
    ),
    (
      {'blocks.0.attn.proj.weight': np.ones((4, 5))},
      {},
      r'attention/out/kernel: expected heads of 2 channels, .*, got the shape \(5, 4\)',
    ),
    (
      {'blocks.0.attn.norm_q.weight': np.ones(())},
      {},
      r'query/norm/scale: expected one axis, got the shape \(\)',
    ),
    (
      {'patch_embed.proj.weight': np.ones((4, 147))},
      {},
      r'patch_embed\.proj\.weight: expected five axes, got the shape \(4, 147\)',
    ),
  ],
)
def test_what_is_not_such_a_checkpoint(change, tasks, message):
  official = {name: x for name, x in {**state_dict(), **change}.items() if x is not None}
  with pytest.raises(CheckpointMismatchError, match=message):
    weights.from_official(official, tasks)


def command(capsys, tasks=(), **files):
  # Not from a command line: commands that other tests import have required flags.
  flags.FLAGS.mark_as_parsed()
  with flagsaver.flagsaver(tasks=list(tasks), **files):
    import_weights.main()
  return capsys.readouterr().out


def test_an_imported_file_starts_a_run(tmp_path, capsys):
  official = state_dict()
  np.savez(tmp_path / 'official.npz', **official)
  path = tmp_path / 'ours.npz'
  trunk = sum(x.size for n, x in official.items() if not n.startswith(('head.', 'expander.')))
  files = {'checkpoint': f'{tmp_path}/official.npz', 'out': str(path)}
  printed = command(capsys, ['kinetics=kinetics400'], **files)
  counts = f'trunk {trunk:,}, heads 134, objective 88'
  assert printed == (
    f'{path}: {trunk + 134 + 88:,} parameters ({counts}).\n{label_map.unnamed(str(path))}\n'
  )
  program = small_program(tmp_path)
  assert program.position_grid == (4, 8, 8)
  params, report = load_pretrained(
    program.abstract_state.params,
    initial.read_weights(program),
    grid=program.position_grid,
    options=program.experiment.init_from,
  )
  # The checkpoint's tables are for (2, 4, 4).
  assert report.count('resized') == 4 * (64 + 4)
  assert report.count('loaded', 'resized') == sum(
    x.size for x in flax.traverse_util.flatten_dict(params['trunk']).values()
  )
  np.testing.assert_array_equal(params['trunk']['encoder_norm']['scale'], official['norm.weight'])


@pytest.mark.parametrize(
  ('checkpoint', 'tasks', 'message'),
  [
    ('', (), r'--checkpoint is missing'),
    ('none.npz', (), r'--checkpoint=none\.npz: there is no such file'),
    ('OFFICIAL', ['a=b=c'], r"--tasks: .*'a=b=c'"),
    ('OFFICIAL', ['a='], r"--tasks: .*'a='"),
    ('OFFICIAL', ['a=b', 'a=c'], r'once, got a=b and a=c'),
  ],
)
def test_flags(tmp_path, capsys, checkpoint, tasks, message):
  np.savez(tmp_path / 'official.npz', **state_dict())
  checkpoint = checkpoint.replace('OFFICIAL', str(tmp_path / 'official.npz'))
  with pytest.raises(ConfigError, match=message):
    command(capsys, tasks, checkpoint=checkpoint, out='x.npz')
