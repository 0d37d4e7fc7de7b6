import contextlib
import dataclasses
import io
import shutil

import pytest

from configs.cofinetune import demo as cofinetune_demo
from configs.vivit import demo
from datasets import demo_actors
from train_lib import data, run
from train_lib import experiment as experiment_lib
from train_lib.mesh import make_mesh
from train_lib.program import build_program


def make_tiny_config(data_dir):
  """The demo's config on the tiny demo data, at a size that compiles in seconds."""
  config = demo.get_config()
  config.batch_size = 8
  config.duration = '6 steps'
  config.log_every = '2 steps'
  config.optimizer.warmup = '1 step'
  config.trunk.update({'hidden_size': 16, 'num_layers': 1, 'num_heads': 2, 'mlp_dim': 16})
  config.trunk.tubelet = (2, 8, 8)
  config.trunk.temporal_num_layers = 0  # An encoder less to trace and compile.
  config.evaluation.update({'every': '4 steps', 'batch_size': 6, 'pictures': False})
  config.checkpoint.every = '3 steps'
  config.datasets.demo.dir = str(data_dir)
  config.datasets.demo.temporal_views = 2
  config.datasets.demo.clip.update({'frames': 4, 'stride': 2, 'resize': 18, 'crop': 16})
  return config


def make_actors_config(folder):
  """The co-finetuning demo's config on tiny data, a classification and a detection dataset."""
  config = cofinetune_demo.get_config()
  config.batch_size = 8
  config.duration = '4 steps'
  config.log_every = '2 steps'
  config.optimizer.warmup = '1 step'
  config.trunk.update({'hidden_size': 16, 'num_layers': 1, 'num_heads': 2, 'mlp_dim': 16})
  config.trunk.update({'temporal_num_layers': 0, 'temporal_context': 'none', 'tubelet': (2, 8, 8)})
  config.evaluation.update({'every': 'never', 'batch_size': 6})
  config.mixture.sampling = 'alternating'
  for name, dataset in config.datasets.items():
    dataset.dir = f'{folder}/{name}'
    dataset.clip.update({'frames': 4, 'resize': 32, 'crop': 32})
  config.datasets.actors.boxes.max_boxes = 24
  config.tasks.actors.protocol.class_groups = f'{folder}/actors/class_groups.csv'
  return config


@pytest.fixture(scope='session')
def actors_dir(tmp_path_factory):
  """Folder of tiny `actions` and `actors`. Read only."""
  folder = tmp_path_factory.mktemp('demo_actors')
  demo_actors.write_actions(folder / 'actions', train=16, test=16)
  demo_actors.write_actors(folder / 'actors', train=16, test=8)
  return folder


def what_is_compiled(experiment):
  """The experiment without what decides only when the loop saves, logs and evaluates."""
  return dataclasses.replace(
    experiment,
    checkpoint=experiment_lib.CheckpointConfig('never'),
    evaluation=dataclasses.replace(experiment.evaluation, every='never', pictures=False),
    log_every='never',
    log_examples=False,
    max_skipped_steps=min(experiment.max_skipped_steps, 1),
  )


@pytest.fixture(scope='session', autouse=True)
def programs_are_built_once():
  """Runs in this process share the functions, traced and compiled, of experiments that are equal."""
  built = {}

  def build_once(experiment, facts, mesh):
    key = repr((what_is_compiled(experiment), facts)), mesh
    if key not in built:
      built[key] = build_program(experiment, facts, mesh)
    plan = experiment_lib.lengths(experiment, facts.train_examples)
    return dataclasses.replace(built[key], experiment=experiment, lengths=plan)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(run, 'build_program', build_once)
    yield


@pytest.fixture
def tiny_config(demo_data_dir):
  return make_tiny_config(demo_data_dir)


@pytest.fixture(scope='session')
def finished_once(tmp_path_factory, demo_data_dir):
  workdir = tmp_path_factory.mktemp('runs') / 'finished'
  config = make_tiny_config(demo_data_dir)
  config.evaluation.pictures = True
  printed = io.StringIO()
  with contextlib.redirect_stdout(printed):
    run.run('train', config, str(workdir))
  return workdir, printed.getvalue()


@pytest.fixture
def finished(finished_once, tmp_path):
  """A copy of the folder of a finished run of the tiny config, and what the run printed."""
  workdir, printed = finished_once
  shutil.copytree(workdir, tmp_path / 'finished')
  return tmp_path / 'finished', printed


@pytest.fixture
def build():
  """Config -> its program on one device, and its open training and evaluation splits by dataset."""

  def build_(config, devices=None):
    experiment = experiment_lib.parse(config)
    train, test = data.open_train_splits(experiment), data.open_eval_splits(experiment)
    mesh = make_mesh(experiment.mesh, devices)
    return build_program(experiment, data.facts_of(experiment, train), mesh), train, test

  return build_
