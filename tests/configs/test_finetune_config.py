"""Fine-tuning: every trunk makes a model, and a run's config is taken over."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from configs import finetune
from configs.cofinetune import demo as cofinetune_demo
from configs.vivit import demo
from errors import CheckpointMismatchError, ConfigError
from tests.train_lib.models_on_disk import write_model
from tools import command
from train_lib import experiment as experiment_lib
from train_lib import initial, params_file
from train_lib.experiment import DataFacts, parse
from train_lib.layer_rates import LayerRates
from train_lib.mesh import make_mesh
from train_lib.program import build_model, build_program, example_inputs

# trunk -> frames of a clip, blocks.
TRUNKS = {
  'trunk=vivit': (16, 16),
  'trunk=vivit,size=Ti,attention=spacetime,frames=4': (4, 12),
  'trunk=cofinetune,crop=112': (32, 16),
  'trunk=mvitv2': (16, 16),
  'trunk=mvitv2,size=32x3': (32, 24),
  'trunk=tubevit': (32, 12),
  'trunk=uniformerv2': (8, 12),
}


def facts(experiment, *names):
  return DataFacts(dict.fromkeys(experiment.datasets, 10), {'label': names}, 'the test')


@pytest.mark.parametrize('arg', TRUNKS)
def test_every_trunk_makes_a_model_of_the_datas_classes(arg):
  experiment = parse(finetune.get_config(arg))
  model = build_model(experiment, facts(experiment, 'a', 'b', 'c'))
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), **example_inputs(experiment), train=False)
  )
  head = shapes['params']['heads_label']['output_projection']['kernel']
  assert jax.tree.leaves(head)[0].shape[-1] == 3
  assert experiment.datasets['own'].clip.frames == TRUNKS[arg][0]
  rates = LayerRates(experiment.optimizer, model.trunk)
  assert rates.factor('trunk/embedding/x') in (0.75 ** (TRUNKS[arg][1] + 1), 1.0)
  assert experiment.datasets['own'].temporal_views == 4
  assert experiment.checkpoint.best_metric == 'top1/label'


def test_modes_and_the_rate_by_the_batch():
  full, probe = (parse(finetune.get_config(arg)) for arg in ('batch=64', 'mode=head,batch=64'))
  assert (full.batch_size, full.optimizer.learning_rate) == (64, 1e-3 / 4)
  assert (full.optimizer.layer_decay, full.optimizer.frozen) == (0.75, ())
  assert (probe.optimizer.learning_rate, probe.optimizer.frozen) == (1e-2 / 4, ('^trunk/',))
  assert full.trunk.arguments['stochastic_depth_rate'] == 0.1
  assert probe.trunk.arguments['stochastic_depth_rate'] == 0
  for arg, message in (
    ('mode=half', "Unknown mode 'half'; known: .'full', 'head'"),
    ('trunk=resnet', "Unknown trunk 'resnet'; known: .'cofinetune'"),
    ('size=XL', "Unknown size 'XL'"),
    (
      'from=nowhere',
      r'from=nowhere: expected the folder of a run, with config\.json.*there is noth',
    ),
    ('from=here,size=L,crop=9', r"from=here says what the model is: leave out \['size', 'crop'\]"),
    ('trunk=mvitv2,attention=spacetime', 'attention=spacetime is of ViViT; trunk=mvitv2 has none'),
    ('batch=many', 'batch=many: expected a value of type int'),
    ('mode=head,from=', 'from=: expected a path after it, got nothing'),
  ):
    with pytest.raises(ValueError, match=message):
      finetune.get_config(arg)


def small(config, **changes):
  config.trunk.update({'hidden_size': 8, 'num_layers': 1, 'num_heads': 2, 'mlp_dim': 8, **changes})
  return config


@pytest.mark.parametrize('kind', ['folder', '.npz', '.safetensors'])
def test_a_runs_config_is_taken_over(tmp_path, kind):
  config = small(demo.get_config(), gelu='erf')
  path = tmp_path / f'run{kind}'
  if kind == 'folder':
    path = tmp_path / 'run'
    path.mkdir()
    (path / 'config.json').write_text(experiment_lib.to_json(config))
  else:
    write_model(path, config, {'motion': ('left', 'ä')})
  then, now = parse(config), parse(finetune.get_config(f'from={path}'))
  assert dataclasses.replace(now.trunk, path='trunk') == then.trunk
  assert now.pixels == then.pixels and now.compute_dtype == 'float32'
  assert now.datasets['own'].clip == then.datasets['demo'].clip
  assert now.tasks['label'].head.arguments == then.tasks['motion'].head.arguments
  assert now.init_from.path == str(path)
  assert (now.init_from.load_head, now.init_from.unmatched_classes) == (True, 'new')


def test_what_is_no_trained_model_is_named(tmp_path):
  good = tmp_path / 'good.safetensors'
  write_model(good, small(demo.get_config()), {'motion': ('left', 'right')})
  damaged = {
    'cut.safetensors': good.read_bytes()[:99],
    'cut.npz': b'PK\x03\x04',
    'run/config.json': b'{"a":',
    'list/config.json': b'[]',
  }
  for name, content in damaged.items():
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
  weights = {'embedding/kernel': np.zeros(2, np.float32)}
  for name in ('weights.npz', 'weights.safetensors'):
    params_file.write_arrays(tmp_path / name, weights, None)
  params_file.write_arrays(tmp_path / 'named.npz', weights, {'class_names': {'': ['a']}})
  names = ('weights.npz', 'weights.safetensors', 'named.npz', 'empty')
  (tmp_path / 'empty').mkdir()
  for name in (*(name.removesuffix('/config.json') for name in damaged), *names):
    with pytest.raises(ValueError, match=f'from=.*{name}: expected .*; found one damaged, or weig'):
      finetune.get_config(f'from={tmp_path / name}')
  (tmp_path / 'list' / 'config.json').write_text('{"trunk": 1, "tasks": 1, "datasets": 1}')
  with pytest.raises(
    ValueError, match=r"its config has no \['compute_dtype', 'pixels'\], so it is"
  ):
    finetune.get_config(f'from={tmp_path / "list"}')


def test_a_damaged_run_is_told_by_its_path(tmp_path):
  (tmp_path / 'config.json').write_text('{"a":')
  with pytest.raises(ConfigError, match=f'cannot be loaded: from={tmp_path}: expected the folder'):
    command.load_config(f'configs/finetune.py:from={tmp_path}')
  with pytest.raises(ConfigError, match='cannot be loaded: batch=many: expected a value'):
    command.load_config('configs/finetune.py:batch=many')


def test_of_several_heads_and_of_boxes(tmp_path):
  config = cofinetune_demo.get_config()
  (tmp_path / 'config.json').write_text(experiment_lib.to_json(config))
  both = parse(finetune.get_config(f'from={tmp_path}'))
  assert not both.init_from.load_head  # Which of them is meant is not known.
  assert not both.tasks['label'].on_boxes
  (name,) = (n for n, d in config.datasets.items() if d.get('boxes'))
  alone = json.loads(experiment_lib.to_json(config))
  alone['datasets'] = {name: alone['datasets'][name]}
  alone['tasks'] = {k: t for k, t in alone['tasks'].items() if t['dataset'] == name}
  (tmp_path / 'config.json').write_text(json.dumps(alone))
  detector = parse(finetune.get_config(f'from={tmp_path}'))
  assert detector.tasks['label'].head.name == 'models.heads:LinearHead'
  assert detector.datasets['own'].clip.sampling == 'dense'
  assert not detector.init_from.load_head
  assert detector.trunk.arguments == parse(config).trunk.arguments


def test_weights_of_another_trunk(tmp_path, capsys):
  path = tmp_path / 'run.npz'
  write_model(path, small(demo.get_config()), {'motion': ('left', 'right')})
  config = small(demo.get_config(), num_layers=2)
  config.init_from.path = str(path)
  experiment = parse(config)
  own = DataFacts({'demo': 10}, {'motion': ('left', 'up')}, 'the test')
  program = build_program(experiment, own, make_mesh(experiment.mesh))
  with pytest.raises(CheckpointMismatchError) as error:
    initial.read_weights(program)
  assert str(error.value).endswith(
    f'The trunk differs from that of {path}:\n  trunk.num_layers: 1 -> 2\nSet these keys to what '
    f'stands first, or take all of them over: --config=configs/finetune.py:from={path}'
  )
  capsys.readouterr()
  config = finetune.get_config(f'from={path},mode=head')
  experiment = parse(config)
  program = build_program(experiment, facts(experiment, 'up', 'left'), make_mesh(experiment.mesh))
  initial.read_weights(program)
  assert capsys.readouterr().out == (
    "heads_label: 1 of 2 rows of heads_motion by name (1 exact); new: 1, 'up'; "
    "not used: 1, 'right'\n"
  )
  with pytest.raises(CheckpointMismatchError, match=r"'heads_label in part'.*random"):
    initial.read_weights(program, whole=True)
