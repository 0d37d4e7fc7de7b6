"""Every config file parses, builds, and traces a train step; nothing is allocated."""

import importlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from train_lib import data
from train_lib.experiment import parse
from train_lib.mesh import make_mesh
from train_lib.program import build_program

FOLDER = Path(__file__).parents[2] / 'configs' / 'vivit'
# The demos learn their classes from data and have tests of their own.
NEED_DATA = ('__init__', 'common', 'demo', 'demo_ablations')
FILES = sorted(p.stem for p in FOLDER.glob('*.py') if p.stem not in NEED_DATA)
VARIANTS = [
  ('k400_base_spacetime', f'encoding={e}')
  for e in ('central_frame', 'average', 'random', 'uniform_frames')
] + [('k400_base_fe', 'temporal_layers=12'), ('k400_large_spacetime', 'crop=320')]


def load(name: str, arg: str = ''):
  module = importlib.import_module(f'configs.vivit.{name}')
  return module, module.get_config(*filter(None, [arg]))


@pytest.mark.parametrize(('name', 'arg'), [(n, '') for n in FILES] + VARIANTS)
def test_config_builds_and_traces_a_train_step(name, arg):
  _, config = load(name, arg)
  experiment = parse(config)
  facts = data.facts_or_nominal(experiment)
  program = build_program(experiment, facts, make_mesh(experiment.mesh))
  state, metrics = jax.eval_shape(
    program.train_step,
    program.abstract_state,
    program.abstract_batch(next(iter(experiment.datasets))),
  )
  assert jax.tree.map(lambda x: x.shape, state) == jax.tree.map(
    lambda x: x.shape, program.abstract_state
  )
  assert set(metrics) >= {'loss', 'gradient_norm', 'learning_rate'}
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(state.params))


@pytest.mark.parametrize('name', FILES)
def test_docstring_gives_the_command_and_the_row(name):
  module, config = load(name)
  assert f'python main.py --config=configs/vivit/{name}.py --workdir=' in module.__doc__
  assert re.search(r'Table \d|Section \d', module.__doc__)
  assert config.name == f'vivit/{name}'


# Table 7: learning rate, epochs, stochastic depth, label smoothing, mixup, colour jitter, RandAugment.
TABLE_7 = {
  'k400_base_fe': (0.1, 30, 0.0, 0.0, 0.0, 0.8, (0, 0.0)),
  'k600_large_fe': (0.1, 30, 0.0, 0.0, 0.0, 0.8, (0, 0.0)),
  'mit_large_fe': (0.25, 10, 0.0, 0.0, 0.0, 0.8, (0, 0.0)),
  'ek_large_fe': (0.5, 50, 0.2, 0.2, 0.1, 0.0, (2, 15.0)),
  'ssv2_large_fe': (0.5, 35, 0.3, 0.3, 0.3, 0.0, (2, 20.0)),
}


@pytest.mark.parametrize('name', TABLE_7)
def test_table_7(name):
  experiment = parse(load(name)[1])
  clip = next(iter(experiment.datasets.values())).clip
  task = next(iter(experiment.tasks.values()))
  policy = experiment.augment.rand_augment
  assert TABLE_7[name] == (
    experiment.optimizer.learning_rate,
    float(experiment.duration.split()[0]),
    experiment.trunk.arguments['stochastic_depth_rate'],
    task.label_smoothing,
    experiment.augment.mix.mixup_alpha,
    experiment.augment.color_jitter.prob,
    (policy.num_layers, policy.magnitude),
  )
  assert experiment.batch_size == 64
  assert experiment.optimizer.warmup == '2.5 epochs'
  assert experiment.optimizer.rule.arguments['decay'] == 0.9
  assert (clip.frames, clip.stride, clip.scale_jitter) == (32, 2, (0.9, 1.33))
  assert clip.flip_prob == (0.0 if 'ssv2' in name else 0.5)  # Its classes say left or right.
