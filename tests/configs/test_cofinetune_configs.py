"""Every co-finetuning config builds, traces its steps, and is the row of the paper it says."""

import importlib
import re
from pathlib import Path

import jax
import pytest

from train_lib import data
from train_lib import experiment as experiment_lib
from train_lib.experiment import parse
from train_lib.mesh import make_mesh
from train_lib.program import build_program

FOLDER = Path(__file__).parents[2] / 'configs' / 'cofinetune'
FILES = sorted(p.stem for p in FOLDER.glob('*.py') if p.stem not in ('__init__', 'common', 'demo'))


def load(name: str, arg: str = ''):
  module = importlib.import_module(f'configs.cofinetune.{name}')
  return module, module.get_config(*filter(None, [arg]))


def built(name):
  experiment = parse(load(name)[1])
  return build_program(experiment, data.facts_or_nominal(experiment), make_mesh(experiment.mesh))


@pytest.mark.parametrize('name', FILES)
def test_config_builds(name):
  program = built(name)
  heads = {key for key in program.abstract_state.params if key.startswith('heads_')}
  assert heads == {f'heads_{dataset}' for dataset in program.experiment.datasets}


@pytest.mark.parametrize('name', ['ava_k400_base', 'avakinetics_k700_mit_ssv2_large'])
def test_config_traces_a_step_of_each_kind(name):
  program = built(name)
  experiment = program.experiment
  kinds = {config.boxes is None: dataset for dataset, config in experiment.datasets.items()}
  for dataset in kinds.values():
    _, metrics = jax.eval_shape(
      program.train_step, program.abstract_state, program.abstract_batch(dataset)
    )
    assert {f'loss/{dataset}', 'gradient_norm', 'learning_rate'} < set(metrics)


@pytest.mark.parametrize('name', FILES)
def test_docstring_gives_the_command_and_the_row(name):
  module, config = load(name)
  assert f'python main.py --config=configs/cofinetune/{name}.py --workdir=' in module.__doc__
  assert re.search(r'Tables? \d', module.__doc__)
  assert config.name == f'cofinetune/{name}'


@pytest.mark.parametrize('name', FILES)
def test_the_recipe_of_appendix_a(name):
  experiment = parse(load(name)[1])
  epochs = '20 epochs' if name == 'ava_base' else '15 epochs'
  assert (experiment.duration, experiment.optimizer.warmup) == (epochs, '2.5 epochs')
  assert (experiment.optimizer.learning_rate, experiment.batch_size) == (0.2, 128)
  assert experiment.optimizer.rule.arguments['decay'] == 0.9
  assert experiment.trunk.arguments['stochastic_depth_rate'] == 0.2
  assert {task.label_smoothing for task in experiment.tasks.values()} == {0.1}
  for dataset in experiment.datasets.values():
    assert (dataset.clip.frames, dataset.clip.stride) == (32, 2)
    assert (dataset.clip.fit, dataset.clip.scale_jitter) == ('pad', (0.65, 1.1))
    assert dataset.temporal_views == dataset.spatial_views == 1
    if dataset.boxes is not None:
      assert dataset.boxes.jitter == 0.15
  for task in experiment.tasks.values():
    if task.protocol is not None:
      assert task.protocol.arguments == {
        'iou': 0.5, 'class_groups': 'ava', 'evaluated_classes': 'ava'
      }  # fmt: skip


def test_thresholds_of_boxes():
  ava = parse(load('ava_k400_base')[1]).datasets['ava'].boxes
  assert (ava.train, ava.train_min_score, ava.eval_min_score) == ('detected', 0.8, 0.8)
  both = parse(load('avakinetics_k700_mit_ssv2_large')[1]).datasets['ava_kinetics'].boxes
  assert (both.train, both.eval_min_score) == ('annotated', 0.2)


def test_epochs_are_of_the_sum_and_shares_of_the_sizes():
  experiment = parse(load('ava_k400_mit_base')[1])
  facts = data.facts_or_nominal(experiment)
  total = sum(facts.train_examples.values())
  lengths = experiment_lib.lengths(experiment, facts.train_examples)
  assert lengths.total == round(15 * total / 128)
  program = build_program(experiment, facts, make_mesh(experiment.mesh))
  seen = program.examples_seen(lengths.total)
  for dataset, count in facts.train_examples.items():
    assert seen[dataset] == pytest.approx(15 * count, rel=0.02)


@pytest.mark.parametrize('sampling', ['alternating', 'uniform'])
def test_table_4(sampling):
  experiment = parse(load('ava_k400_mit_base', f'sampling={sampling}')[1])
  assert experiment.mixture.sampling == sampling


@pytest.mark.parametrize('side', [352, 416, 512])
def test_table_8(side):
  experiment = parse(load('ava_k400_base', f'side={side}')[1])
  assert {d.clip.crop for d in experiment.datasets.values()} == {side}


def test_the_stages_of_transfer_learning():
  first, second = (parse(load(name)[1]) for name in ('k400_base', 'ava_base'))
  assert (list(first.datasets), list(second.datasets)) == (['kinetics400'], ['ava'])
  assert first.trunk == second.trunk
