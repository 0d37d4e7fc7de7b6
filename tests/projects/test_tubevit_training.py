"""TubeViT trained on images and clips by the program: what a step changes, and a run that goes on."""

import copy
import dataclasses

import jax
import numpy as np
import pytest

from configs import common
from configs.tubevit import trunks
from datasets import demo_tubes
from tests.train_lib.conftest import make_tiny_config
from tests.train_lib.test_mixtures import timeless
from train_lib import checkpoint, data, run
from train_lib import experiment as experiment_lib
from train_lib.loop import MetricLog
from train_lib.mesh import make_mesh
from train_lib.program import build_program

BATCH = {'images': 8, 'videos': 4}  # The first dataset, which parameters are made on, has images.
TASKS = {'images': 'appearance', 'videos': 'action'}
TUBES = {
  'long': {'kernel': (2, 4, 4), 'stride': (2, 8, 8), 'space_to_depth': (2, 1, 1)},
  'still': {'kernel': (1, 8, 8), 'stride': (4, 8, 8)},
}


@pytest.fixture(scope='module')
def config(tmp_path_factory):
  """Images, 4 tokens, in turn with clips, 4 + 4."""
  folder = tmp_path_factory.mktemp('tubes')
  demo_tubes.write_images(folder / 'images', train=32, test=16)
  demo_tubes.write_clips(folder / 'videos', train=32, test=32)
  config = make_tiny_config(folder)
  sizes = {'hidden_size': 16, 'num_layers': 1, 'num_heads': 2, 'mlp_dim': 16}
  config.trunk = trunks.tubevit('Ti', TUBES, **sizes)
  base = config.datasets.demo
  config.datasets = {name: copy.deepcopy(base) for name in BATCH}
  for name, dataset in config.datasets.items():
    dataset.dir, dataset.batch_size, dataset.benchmark = f'{folder}/{name}', BATCH[name], ''
  config.datasets.images.temporal_views = 1
  config.datasets.images.clip = common.clip(1, 1, 18, 16, random_crop='inception', flip_prob=0.5)
  config.tasks = {task: common.linear_task(name, task) for name, task in TASKS.items()}
  for task in config.tasks.values():
    task.head.kernel_init = 'lecun_normal'
  config.mixture.sampling = 'alternating'
  config.optimizer.inactive_heads = 'freeze'
  config.checkpoint.best_metric = 'top1/action'
  config.ema_decay = 0.9
  return config


@pytest.fixture(scope='module')
def program(config):
  """The program of all runs here, compiled once."""
  experiment = experiment_lib.parse(config)
  facts = data.facts_of(experiment, data.open_train_splits(experiment))
  return build_program(experiment, facts, make_mesh(experiment.mesh))


@pytest.fixture(autouse=True)
def built_once(program, monkeypatch):
  def build_once(experiment, facts, mesh):
    del mesh
    assert facts == program.facts
    return dataclasses.replace(program, experiment=experiment)

  monkeypatch.setattr(run, 'build_program', build_once)


def changed(before, after, part):
  """Whether each leaf of a part of the model, or its moments, is another."""
  pairs = zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after))
  return [
    not np.array_equal(x, y) for (path, x), y in pairs if f"'{part}'" in jax.tree_util.keystr(path)
  ]


def test_a_step_changes_its_own_head_alone(program):
  train = data.open_train_splits(program.experiment)
  state, stream = program.init(), data.train_stream(program, train, 0)
  assert {'tube_long', 'tube_still'} < state.params['trunk'].keys()
  shapes = {'images': (8, 1, 16, 16, 3), 'videos': (4, 4, 16, 16, 3)}
  names = [tuple(train)[program.mixture.draw(step)[0]] for step in range(4)]
  assert sorted(names) == ['images', 'images', 'videos', 'videos']
  for name in names:
    before = jax.device_get((state.params, state.opt_state))
    batch = next(stream)
    assert batch['inputs'].shape == shapes[name]
    state, metrics = program.train_step(state, batch)
    after = jax.device_get((state.params, state.opt_state))
    assert {key for key in metrics if key.startswith('loss/')} == {f'loss/{TASKS[name]}'}
    for task in TASKS.values():
      found = changed(before, after, f'heads_{task}')
      assert found == [task == TASKS[name]] * 6  # A kernel and a bias, and two moments of each.
    assert all(changed(before, after, 'tube_still'))
    # An image has no token of the long tube, so that nothing but its decay and moments move it.
    if name == 'videos':
      assert all(changed(before, after, 'tube_long'))
  stream.close()
  assert program.train_step._cache_size() == 2
  average = jax.device_get(state.ema_params)
  assert all(changed(jax.device_get(state.params), average, 'tube_long'))


def state_of(program, workdir):
  """Everything in the last checkpoint."""
  reader = checkpoint.CheckpointReader(workdir)
  state = reader.restore(6, program.abstract_state)
  reader.close()
  return jax.device_get(state)


def test_a_killed_run_goes_on_bit_for_bit(config, program, tmp_path, monkeypatch):
  run.run('train', config, str(tmp_path / 'whole'))
  original, added = MetricLog.add, []

  def killed_at_6(self, metrics, rows):
    original(self, metrics, rows)
    added.append(1)
    if len(added) == 6:
      raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(MetricLog, 'add', killed_at_6)
    with pytest.raises(KeyboardInterrupt):
      run.run('train', config, str(tmp_path / 'killed'))
  assert checkpoint.latest_step(tmp_path / 'killed') == 4
  run.run('train', config, str(tmp_path / 'killed'))
  assert timeless(tmp_path / 'killed') == timeless(tmp_path / 'whole')
  whole, killed = (state_of(program, tmp_path / name) for name in ('whole', 'killed'))
  assert int(whole.step) == 6
  jax.tree.map(np.testing.assert_array_equal, whole, killed)
  assert not np.array_equal(
    whole.params['trunk']['tube_long']['kernel'], whole.ema_params['trunk']['tube_long']['kernel']
  )
  last = {}
  for line in timeless(tmp_path / 'whole'):
    last |= line
  for name, count in (('images', 16), ('videos', 32)):
    assert 0 < last[f'eval/loss/{TASKS[name]}'] < 10
    written = tmp_path / 'killed' / 'eval' / name / 'test' / '00000006' / 'predictions.jsonl'
    assert len(written.read_text().splitlines()) == count
