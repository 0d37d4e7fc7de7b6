"""Every MultiTrain config parses and is the row of the paper it says; those unlike others build."""

import importlib
import re
from pathlib import Path

import jax
import pytest

from configs.multitrain import common
from datasets import demo_relations
from train_lib import cost, data
from train_lib.experiment import parse
from train_lib.mesh import make_mesh
from train_lib.program import build_program
from train_lib.state import model_params

FOLDER = Path(__file__).parents[2] / 'configs' / 'multitrain'
HELPERS = ('__init__', 'common', 'demo', 'trunks')
FILES = sorted(p.stem for p in FOLDER.glob('*.py') if p.stem not in HELPERS)
BASELINES = ('baseline_16x4', 'baseline_32x3')
JOINT = [name for name in FILES if name not in BASELINES]


def load(name: str, arg: str = ''):
  module = importlib.import_module(f'configs.multitrain.{name}')
  return module, module.get_config(*filter(None, [arg]))


def arguments(name: str, arg: str = ''):
  return dict(parse(load(name, arg)[1]).objective.arguments)


@pytest.mark.parametrize('name', FILES)
def test_docstring_gives_the_command_and_the_row(name):
  module, config = load(name)
  assert f'python main.py --config=configs/multitrain/{name}.py --workdir=' in module.__doc__
  assert re.search(r'Tables? \d', module.__doc__)
  assert config.name == f'multitrain/{name}'


@pytest.mark.parametrize('name', JOINT)
def test_the_recipe_of_the_supplement(name):
  experiment = parse(load(name)[1])
  optimizer = experiment.optimizer
  assert (experiment.duration, optimizer.warmup) == ('50 epochs', '10 epochs')
  assert (optimizer.learning_rate, optimizer.min_learning_rate) == (2e-4, pytest.approx(2e-6))
  assert (optimizer.weight_decay, experiment.batch_size) == (0.05, 512)
  assert experiment.mixture.sampling == 'mixed'
  assert experiment.augment.rand_augment.num_layers == 4
  assert experiment.augment.mix.mixup_alpha == 0.8
  assert experiment.augment.mix.cutmix_alpha == experiment.augment.random_erasing.prob == 0
  assert experiment.evaluation.average == 'probabilities'
  assert experiment.trunk.arguments['stochastic_depth_rate'] == 0.1
  for dataset, config in experiment.datasets.items():
    ssv2 = dataset == 'ssv2'
    assert (config.clip.sampling, config.clip.flip_prob) == (
      ('uniform', 0) if ssv2 else ('dense', 0.5)
    )
    assert (config.clip.frames, config.clip.stride) == (32, 1 if ssv2 else 3)
    assert (config.temporal_views, config.spatial_views) == (1 if ssv2 else 3, 3)
  heads = {task.head.name: task.head.arguments for task in experiment.tasks.values()}
  assert list(heads) == ['models.heads:MLPHead']
  assert heads['models.heads:MLPHead']['hidden_size'] == 2048


def test_datasets_and_sizes():
  sizes = {}
  for name in ('k400_mit_ssv2_anet', 'k700_mit_ssv2_anet_312p', 'k400_mit_ssv2'):
    experiment = parse(load(name)[1])
    facts = data.facts_or_nominal(experiment)
    clip = experiment.datasets['ssv2'].clip
    sizes[name] = (
      {task: facts.num_classes(task) for task in experiment.tasks},
      (clip.resize_jitter, clip.resize, clip.crop),
    )
  rest = {'moments_in_time': 305, 'ssv2': 174}
  assert sizes == {
    'k400_mit_ssv2_anet': (
      {'kinetics400': 400, **rest, 'activitynet': 200}, ((256, 320), 256, 224)
    ),
    'k700_mit_ssv2_anet_312p': (
      {'kinetics700': 700, **rest, 'activitynet': 200}, ((357, 446), 357, 312)
    ),
    'k400_mit_ssv2': ({'kinetics400': 400, **rest}, ((256, 320), 256, 224)),
  }  # fmt: skip


def test_rows_of_table_3():
  paper = arguments('k400_mit_ssv2_anet')
  assert paper == {
    'projection': 'added', 'projection_weight': 1, 'variance_weight': 1, 'covariance_weight': 1,
    'expander_size': 2048, 'uncertainty': True, 'average': 'dataset',
  }  # fmt: skip
  off = {'variance_weight': 0, 'covariance_weight': 0}
  changes = {
    'vanilla': {**off, 'projection': 'none', 'uncertainty': False},
    'no_informative': off,
    'no_projection_add': {**off, 'projection': 'separate'},
    'no_projection': {'projection': 'none'},
    'k400_mit_ssv2': {},
  }
  for name, change in changes.items():
    assert arguments(name) == {**paper, **change}
  assert parse(load('vanilla', 'epochs=200')[1]).duration == '200 epochs'


def test_the_released_reading():
  experiment = parse(load('k400_mit_ssv2_anet', 'variant=released')[1])
  assert dict(experiment.objective.arguments) == {
    'projection': 'separate', 'projection_weight': 1, 'variance_weight': 2.5,
    'covariance_weight': 0.1, 'expander_size': 4096, 'uncertainty': False, 'average': 'batch',
  }  # fmt: skip
  assert experiment.augment.mix.cutmix_alpha == 1
  assert experiment.augment.random_erasing.prob == 0.25
  assert {task.label_smoothing for task in experiment.tasks.values()} == {0.1}
  assert {task.head.arguments['logits_dropout_rate'] for task in experiment.tasks.values()} == {0.5}
  for dataset in experiment.datasets.values():
    assert (dataset.clip.repeats, dataset.clip.random_crop) == (2, 'inception')
    assert dataset.clip.resize == 256


@pytest.mark.parametrize(('name', 'frames', 'drop_path'), [
  ('baseline_32x3', (32, 3), 0.3), ('baseline_16x4', (16, 4), 0.2),
])  # fmt: skip
def test_baselines(name, frames, drop_path):
  experiment = parse(load(name)[1])
  (clip,) = [dataset.clip for dataset in experiment.datasets.values()]
  assert (clip.frames, clip.stride) == frames
  assert experiment.trunk.arguments['stochastic_depth_rate'] == drop_path
  assert (experiment.duration, experiment.optimizer.warmup) == ('200 epochs', '30 epochs')
  (task,) = experiment.tasks.values()
  assert task.head.name == 'models.heads:LinearHead'
  assert task.head.arguments['dropout_rate'] == 0.5
  other = parse(load(name, 'dataset=ssv2')[1]).datasets['ssv2'].clip
  assert (other.sampling, other.flip_prob, other.repeats) == ('uniform', 0, 2)


def test_what_is_unknown_is_an_error():
  with pytest.raises(
    ValueError, match=r"Unknown variant 'sections'; known: \['paper', 'released'\]"
  ):
    common.objective('sections')
  with pytest.raises(ValueError, match=r"Unknown objective keys \['weight'\]"):
    common.objective('paper', weight=1.0)
  with pytest.raises(ValueError, match="Unknown objective 'no_loss'"):
    load('demo', 'objective=no_loss')


def built(config):
  experiment = parse(config)
  return build_program(experiment, data.facts_or_nominal(experiment), make_mesh(experiment.mesh))


@pytest.mark.parametrize(
  ('name', 'arg', 'in_model', 'in_training'),
  [
    # As the authors' code builds them: 34.709M; 57.512M and, with what only training has, 64.298M.
    ('baseline_16x4', '', 34_709_296, 34_709_296),
    ('k400_mit_ssv2', 'variant=released', 57_511_983, 64_297_643),
  ],
)
def test_parameters_of_the_published_models(name, arg, in_model, in_training):
  params = built(load(name, arg)[1]).abstract_state.params
  assert cost.count(params) == in_training
  assert cost.count(model_params(params)) == in_model


@pytest.fixture(scope='module')
def demo_data(tmp_path_factory):
  """The demo's datasets with one clip of each class."""
  root = tmp_path_factory.mktemp('demo_relations')
  for name in demo_relations.LOOKS:
    demo_relations.write(root / name, name, train=8, test=8)
  return root


def demo_program(folder, arg):
  config = load('demo', arg)[1]
  for name in config.datasets:
    config.datasets[name].dir = str(folder / name)
  return built(config)


@pytest.mark.parametrize(
  ('arg', 'own'),
  [
    ('objective=vanilla', set()),
    ('objective=no_informative', {'from', 'log'}),
    ('objective=no_projection', {'expander', 'log'}),
    ('variant=released', {'from', 'expander'}),
  ],
)
def test_what_objectives_of_the_demo_own(demo_data, arg, own):
  params = demo_program(demo_data, arg).abstract_state.params
  assert {name.partition('_')[0] for name in params.get('objective', {})} == own


def test_demo_traces_a_step(demo_data):
  program = demo_program(demo_data, '')
  _, metrics = jax.eval_shape(
    program.train_step, program.abstract_state, program.abstract_batch('stars')
  )
  losses = {f'loss/{name}' for name in program.experiment.datasets}
  assert {'variance', 'covariance', *losses} < set(metrics)
