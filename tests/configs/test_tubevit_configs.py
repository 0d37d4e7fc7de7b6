"""Every TubeViT config parses and is the column of Table 1 it says; tokens and batches are as stated."""

import importlib
import re
from pathlib import Path

import jax
import pytest

from configs.tubevit import k600_tubes
from train_lib import data
from train_lib.experiment import parse
from train_lib.mesh import make_mesh
from train_lib.program import build_model, build_program, input_shape

FOLDER = Path(__file__).parents[2] / 'configs' / 'tubevit'
HELPERS = ('__init__', 'common', 'demo', 'trunks')
FILES = sorted(p.stem for p in FOLDER.glob('*.py') if p.stem not in HELPERS)
KINETICS = ('k400', 'k600', 'k700')


def load(name: str, arg: str = ''):
  module = importlib.import_module(f'configs.tubevit.{name}')
  return module, module.get_config(*filter(None, [arg]))


def tokens(experiment, dataset):
  """Tokens of each tube, by name."""
  trunk = build_model(experiment, data.facts_or_nominal(experiment)).trunk
  rows = trunk.tokenisers(input_shape(experiment, dataset, 1))
  return {name.removeprefix('tube_'): count for name, count, _ in rows}


@pytest.mark.parametrize('name', FILES)
def test_docstring_gives_the_command_and_the_row(name):
  module, config = load(name)
  assert f'python main.py --config=configs/tubevit/{name}.py' in module.__doc__
  assert re.search(r'Tables? \d', module.__doc__)
  assert config.name == f'tubevit/{name}'


# Table 1: frames, frames a second, batch size, learning rate, mixup, dropout, label smoothing.
TABLE_1 = {
  'k400': (64, 15, 256, 5e-5, 0, 0, 0),
  'k600': (64, 15, 256, 5e-5, 0, 0, 0),
  'k700': (64, 15, 256, 5e-5, 0, 0, 0),
  'charades': (128, 6, 64, 1e-3, 0, 0.2, 0.1),
  'ssv2': (32, 24, 256, 2e-5, 0.3, 0.3, 0.3),
}


@pytest.mark.parametrize('name', TABLE_1)
def test_table_1(name):
  experiment = parse(load(name, 'size=B')[1])
  task = next(t for d, t in experiment.tasks.items() if d != 'imagenet')
  clip = experiment.datasets[task.dataset].clip
  optimizer, augment = experiment.optimizer, experiment.augment
  assert TABLE_1[name] == (
    clip.frames,
    clip.fps,
    experiment.batch_size_of(task.dataset),
    optimizer.learning_rate,
    augment.mix.mixup_alpha,
    experiment.trunk.arguments['dropout_rate'],
    task.label_smoothing,
  )
  assert optimizer.rule.name == 'optax:scale_by_adam'
  assert (optimizer.warmup, optimizer.schedule, optimizer.weight_decay) == (
    '10000 steps', 'cosine', 1e-3
  )  # fmt: skip
  assert (augment.rand_augment.num_layers, augment.rand_augment.magnitude) == (2, 10)
  assert experiment.duration == '300000 steps'
  assert (clip.stride, clip.crop) == (1, 224)
  assert clip.flip_prob == (0.0 if name == 'ssv2' else 0.5)


@pytest.mark.parametrize(
  ('size', 'expected'),
  [
    ('Ti', (12, 192, 768, 3, 5e-5, 1e-3)),
    ('S', (12, 384, 1536, 6, 5e-5, 1e-3)),
    ('B', (12, 768, 3072, 12, 5e-5, 1e-3)),
    ('L', (24, 1024, 4096, 16, 1e-5, 1e-5)),
    ('H', (32, 1280, 5120, 16, 1e-5, 1e-5)),
  ],
)
def test_table_2_and_what_depends_on_the_size(size, expected):
  experiment = parse(load('k600', f'size={size}')[1])
  keys = ('num_layers', 'hidden_size', 'mlp_dim', 'num_heads')
  optimizer = experiment.optimizer
  assert expected == (
    *(experiment.trunk.arguments[key] for key in keys),
    optimizer.learning_rate,
    optimizer.weight_decay,
  )


@pytest.mark.parametrize('name', KINETICS)
def test_images_and_clips_take_turns(name):
  experiment = parse(load(name)[1])
  clips = f'kinetics{name[1:]}'
  assert set(experiment.datasets) == {clips, 'imagenet'}
  assert experiment.mixture.sampling == 'alternating'
  assert experiment.batch_sizes == {clips: 256, 'imagenet': 256}
  image = experiment.datasets['imagenet']
  assert (image.clip.frames, image.temporal_views, image.spatial_views) == (1, 1, 1)
  facts = data.facts_or_nominal(experiment)
  assert (facts.num_classes(clips), facts.num_classes('imagenet')) == (int(name[1:]), 1000)


def test_tokens():
  clips, images = (tokens(parse(load('k600')[1]), d) for d in ('kinetics600', 'imagenet'))
  assert clips == {'a': 4 * 49, 'b': 8 * 49, 'c': 4 * 49, 'd': 2 * 196}
  assert sum(clips.values()) == 1176
  assert images == {'a': 0, 'b': 0, 'c': 0, 'd': 196}
  assert sum(tokens(parse(load('ssv2')[1]), 'ssv2').values()) == 539
  grown, core = (parse(load('charades', f'kernels={k}')[1]) for k in ('grown', 'core'))
  assert tokens(grown, 'charades') == tokens(core, 'charades')
  assert tokens(grown, 'charades') == {'a': 8 * 49, 'b': 19 * 49, 'c': 8 * 49, 'd': 4 * 196}


def test_charades_is_large_and_has_its_own_rate():
  experiment = parse(load('charades')[1])
  trunk, optimizer = experiment.trunk.arguments, experiment.optimizer
  assert (trunk['num_layers'], trunk['hidden_size']) == (24, 1024)
  assert (optimizer.learning_rate, optimizer.weight_decay) == (1e-3, 1e-5)


def test_charades_has_several_labels_and_larger_kernels():
  grown, core = (parse(load('charades', f'kernels={k}')[1]) for k in ('grown', 'core'))
  (task,) = grown.tasks.values()
  assert task.multi_label
  assert grown.checkpoint.best_metric == 'mAP/charades'
  kernels = [
    [tube.kernel for _, tube in sorted(experiment.trunk.arguments['tubes'].items())]
    for experiment in (grown, core)
  ]
  assert kernels == [
    [(16, 16, 16), (32, 8, 8), (4, 32, 32), (1, 16, 16)],
    [(8, 8, 8), (16, 4, 4), (4, 12, 12), (1, 16, 16)],
  ]
  with pytest.raises(ValueError, match="Unknown kernels 'large'"):
    load('charades', 'kernels=large')


def two_layers(name, arg):
  """Program of a config with two layers; more are like them."""
  config = load(name, arg)[1]
  config.trunk.num_layers = 2
  experiment = parse(config)
  return build_program(experiment, data.facts_or_nominal(experiment), make_mesh(experiment.mesh))


@pytest.fixture(scope='module')
def programs():
  """Name -> program of every config, of Base width; Charades also with the kernels of Table 3."""
  built = {name: two_layers(name, 'size=B' if name in TABLE_1 else '') for name in FILES}
  return {**built, 'charades core': two_layers('charades', 'kernels=core,size=B')}


def shapes(program):
  """Of the trunk's parameters."""
  return jax.tree.map(lambda leaf: leaf.shape, program.abstract_state.params['trunk'])


def test_configs_build(programs):
  for name, program in programs.items():
    heads = {key for key in program.abstract_state.params if key.startswith('heads_')}
    assert heads == {f'heads_{dataset}' for dataset in program.experiment.datasets}
    if name != 'k600_tubes':  # Charades and SSv2 start from the trunk of Kinetics-600.
      assert shapes(program) == shapes(programs['k600'])


@pytest.mark.parametrize(('size', 'width'), [('Ti', 192), ('S', 384)])
def test_smaller_sizes_build(size, width):
  trunk = shapes(two_layers('k600', f'size={size}'))
  assert trunk['tube_d']['kernel'] == (1, 16, 16, 3, width)
  assert trunk['tube_b']['kernel'] == (16, 4, 4, 3, width // 4)


def test_half_of_the_minibatches_are_clips(programs):
  program = programs['k400']
  assert program.lengths.total == 300_000
  of_each = 150_000 * 256
  assert program.examples_seen(300_000) == {'kinetics400': of_each, 'imagenet': of_each}


@pytest.mark.parametrize(
  ('name', 'dataset', 'metrics'),
  [
    ('k600', 'imagenet', {'loss/imagenet', 'top1/imagenet'}),
    ('k600', 'kinetics600', {'loss/kinetics600', 'top1/kinetics600'}),
    ('charades', 'charades', {'loss/charades', 'hit1/charades'}),
  ],
)
def test_a_step_of_each_kind_traces(programs, name, dataset, metrics):
  program = programs[name]
  batch = program.abstract_batch(dataset)
  frames = program.experiment.datasets[dataset].clip.frames
  size = 64 if dataset == 'charades' else 256
  assert batch['inputs'].shape == (size, frames, 224, 224, 3)
  state, found = jax.eval_shape(program.train_step, program.abstract_state, batch)
  assert metrics < set(found)
  assert jax.tree.map(lambda x: x.shape, state) == jax.tree.map(
    lambda x: x.shape, program.abstract_state
  )


@pytest.mark.parametrize('row', k600_tubes.ROWS)
def test_rows_of_table_5(row):
  experiment = parse(load('k600_tubes', f'tubes={row}')[1])
  found = tokens(experiment, 'kinetics600')
  # Stride iv has 4 x 14 x 14 tokens, v 2 x 7 x 7; kernels larger than 16 lose the last of an axis.
  sizes = {
    'a+iv': 784, 'c+iv': 784, 'd+iv': 784, 'e+iv': 784, 'f+iv': 784, 'g+iv': 784, 'b+iv': 4 * 169,
    'b+v': 98, 'd+v': 98, 'e+v': 98, 'f+v': 98, 'h+v': 98,
  }  # fmt: skip
  assert found == {f'{tube[0]}{i}': sizes[tube] for i, tube in enumerate(row.split(','), 1)}
  assert experiment.duration == '50000 steps'
  assert set(experiment.datasets) == {'kinetics600'}


@pytest.mark.parametrize('row', ['a+iv,x+v', 'a+vi', 'a', 'a+iv,,b+v', ''])
def test_tubes_that_table_5_does_not_know(row):
  with pytest.raises(ValueError, match=r'expected a kernel of a, b, .* and a stride of i, ii'):
    load('k600_tubes', f'tubes={row}')


def test_other_arguments_are_refused():
  with pytest.raises(ValueError, match="Unknown config argument 'tube'"):
    load('k600_tubes', 'tube=a+iv')
  with pytest.raises(ValueError, match="Unknown config argument ''"):
    load('k600_tubes', '=a+iv')
  with pytest.raises(ValueError, match="Unknown size 'G'"):
    load('k600', 'size=G')


@pytest.mark.parametrize(('mode', 'expected'), [
  ('joint', {'a': 18, 'b': 9, 'c': 18, 'd': 72}), ('dense', {'dense': 288}),
])  # fmt: skip
def test_tokens_of_the_demo(mode, expected):
  config = load('demo', f'mode={mode}')[1]
  trunk = parse(config).trunk.build()
  rows = trunk.tokenisers((1, 16, 48, 48, 3))
  assert {name.removeprefix('tube_'): count for name, count, _ in rows} == expected
