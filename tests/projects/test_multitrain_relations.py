"""What the projections of a run relate, from its checkpoint to text, JSON and a picture."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from matplotlib import image

from errors import CheckpointMismatchError, ConfigError
from projects.multitrain import projection_weights, relations, relations_chart
from train_lib import checkpoint
from train_lib.experiment import CheckpointConfig
from train_lib.state import TrainState

ROOT = Path(__file__).parents[2]
NAMES = {'a': ['run', 'sit', 'wave'], 'a_b': ['jogging', 'waving'], 'b': ['x'] * 2}
WEIGHTS = {
  ('a', 'a_b'): np.float32([[0.75, -2.0], [0.0, 0.25], [-0.5, 1.5]]),
  ('a_b', 'a'): np.float32([[1.0, 0.0, 0.0], [0.0, 0.0, 2.0]]),
}


def params_of(weights):
  own = {'log_sigma_a': np.float32(0)}
  for (source, target), values in weights.items():
    own.setdefault(f'from_{source}', {})[f'to_{target}'] = values
  return {'trunk': {'cls': np.zeros(2, np.float32)}, 'objective': own}


@pytest.fixture
def save(tmp_path):
  """Writes a checkpoint of step 3 with these projections; returns the run's folder."""

  def save_(weights, objective='projects.multitrain.objective:MultiTrain'):
    meta = {
      'class_names': NAMES,
      'position': {'step': 3},
      'config': {'objective': {'name': objective, 'projection': 'none'}},
    }
    checkpointer = checkpoint.Checkpointer(tmp_path / 'run', CheckpointConfig('1 step'))
    state = TrainState(np.int32(3), params_of(weights), (), {}, None, np.int32(0))
    checkpointer.save(state, meta, None)
    checkpointer.close()
    return tmp_path / 'run'

  return save_


def call(capsys, **values):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  with flagsaver.flagsaver(**{'step': None, 'json': False, 'out': '', 'top': 2, **values}):
    relations.main()
  return capsys.readouterr().out


def test_weights_by_pair():
  found = projection_weights.relations(params_of(WEIGHTS), NAMES)
  assert found.keys() == WEIGHTS.keys()
  for pair, weights in found.items():
    np.testing.assert_array_equal(weights, WEIGHTS[pair])
  assert projection_weights.relations({'trunk': {}}, NAMES) == {}


def test_weights_of_a_diverged_run_are_refused():
  weights = {**WEIGHTS, ('a', 'a_b'): np.full_like(WEIGHTS['a', 'a_b'], np.nan)}
  with pytest.raises(CheckpointMismatchError, match=r'from_a/to_a_b .* not finite'):
    projection_weights.relations(params_of(weights), NAMES)


def test_the_strongest_come_first_and_equal_ones_in_order():
  assert projection_weights.strongest(WEIGHTS['a', 'a_b'], 3) == [(2, 1), (0, 0), (1, 1)]
  assert projection_weights.strongest(np.zeros((2, 2)), 3) == [(0, 0), (0, 1), (1, 0)]
  assert len(projection_weights.strongest(np.zeros((2, 2)), 9)) == 4


def test_the_command_prints_text(save):
  command = [sys.executable, '-m', 'projects.multitrain.relations', f'--checkpoint={save(WEIGHTS)}']
  done = subprocess.run([*command, '--top=2'], cwd=ROOT, capture_output=True, text=True)
  assert done.stdout == (
    'a -> a_b\n   +1.500  wave -> waving\n   +0.750  run  -> jogging\n\n'
    'a_b -> a\n   +2.000  waving  -> wave\n   +1.000  jogging -> run\n'
  )
  assert (done.returncode, done.stderr) == (0, '')


def test_json_and_picture(save, capsys, tmp_path):
  folder = str(save(WEIGHTS))
  out = tmp_path / 'out'
  content = json.loads(call(capsys, checkpoint=folder, json=True, top=1, step=3, out=str(out)))
  assert content == json.loads((out / 'relations.json').read_text())
  assert content['step'] == 3
  assert content['relations'][0] == {
    'source': 'a',
    'target': 'a_b',
    'pairs': [{'source_class': 'wave', 'target_class': 'waving', 'weight': 1.5}],
  }
  assert {path.name for path in out.iterdir()} == {'relations.json', 'relations.png'}
  assert image.imread(out / 'relations.png').shape[0] > 100
  assert 'relations.png' in call(capsys, checkpoint=folder, out=str(out))


def test_a_map_of_many_classes_shows_the_strongest():
  weights = np.zeros((400, 5), np.float32)
  weights[[7, 300, 20], [1, 4, 1]] = 1, 3, 2
  rows, columns = relations_chart.shown(weights, 12)
  assert rows[:3] == [300, 20, 7]
  assert (len(rows), columns) == (12, [0, 1, 2, 3, 4])


def test_a_picture_of_many_classes_is_as_large_as_one_of_some(tmp_path):
  shapes = []
  for classes in (12, 400):
    names = {'a': [f'a{i}' for i in range(classes)], 'b': [f'b{i}' for i in range(classes)]}
    weights = np.random.default_rng(0).normal(size=(classes, classes))
    relations_chart.heat_maps_png(tmp_path / 'x.png', {('a', 'b'): weights}, names)
    shapes.append(image.imread(tmp_path / 'x.png').shape)
  np.testing.assert_allclose(*shapes, rtol=0.05)


def test_a_run_without_projections_is_named(save, capsys):
  folder = save({})
  message = (
    r"run, step 3, has no projections: its objective was projects.*MultiTrain \(projection 'n"
  )
  with pytest.raises(CheckpointMismatchError, match=message):
    call(capsys, checkpoint=str(folder))


def test_what_is_not_there(save, capsys, tmp_path):
  with pytest.raises(CheckpointMismatchError, match=r'nowhere is a folder without a complete'):
    call(capsys, checkpoint=str(tmp_path / 'nowhere'))
  folder = str(save(WEIGHTS))
  with pytest.raises(CheckpointMismatchError, match=r'complete checkpoint of step 4 .*\[3\]'):
    call(capsys, checkpoint=folder, step=4)
  with pytest.raises(ConfigError, match=r'--top.*\[1, '):
    call(capsys, checkpoint=folder, top=0)
  (tmp_path / 'file').write_text('in the way')
  with pytest.raises(ConfigError, match=r'--out=.*file: cannot be written'):
    call(capsys, checkpoint=folder, out=str(tmp_path / 'file'))
