"""Images and clips in one run: batches of their own sizes, their own heads, and a run that goes on."""

import copy
import json

import jax
import numpy as np
import pytest

from configs import common
from datasets import demo_tubes
from errors import DataError
from tests.train_lib.conftest import make_tiny_config
from train_lib import checkpoint, data, run
from train_lib import experiment as experiment_lib
from train_lib.loop import MetricLog

BATCH = {'clips': 4, 'images': 8}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp('tubes')
  demo_tubes.write_images(root / 'images', train=32, test=16)
  demo_tubes.write_clips(root / 'clips', train=32, test=32)
  return root


@pytest.fixture
def config(folder):
  """A ViT on images, 1 x 2 x 2 tokens, and clips, 4 x 2 x 2, whose tubelet is one frame long."""
  config = make_tiny_config(folder)
  config.trunk.update({'attention': 'spacetime', 'temporal_num_layers': None})
  config.trunk.update({'tubelet': (1, 8, 8), 'position_grid': (4, 2, 2)})
  base = config.datasets.demo
  config.datasets = {name: copy.deepcopy(base) for name in BATCH}
  for name, dataset in config.datasets.items():
    dataset.dir, dataset.batch_size, dataset.benchmark = f'{folder}/{name}', BATCH[name], ''
  config.datasets.images.temporal_views = 1
  config.datasets.images.clip = common.clip(1, 1, 18, 16, random_crop='inception', flip_prob=0.5)
  config.tasks = {
    'action': common.linear_task('clips', demo_tubes.CLIP_GROUP),
    'appearance': common.linear_task('images', demo_tubes.IMAGE_GROUP),
  }
  config.mixture.sampling = 'alternating'
  config.checkpoint.best_metric = 'top1/action'
  config.log_examples = True
  return config


def log_lines(workdir, name):
  return [json.loads(line) for line in (workdir / name).read_text().splitlines()]


def timeless(workdir):
  timed = ('time', 'train/clips_per_second')
  return [
    {k: v for k, v in line.items() if k not in timed and '/time/' not in k}
    for line in log_lines(workdir, 'metrics.jsonl')
  ]


def test_a_batch_has_its_size_and_its_task_alone(config, build):
  program, train, _ = build(config)
  state, stream = program.init(), data.train_stream(program, train, 0)
  tasks = {'clips': 'action', 'images': 'appearance'}
  shapes = {'clips': (4, 4, 16, 16, 3), 'images': (8, 1, 16, 16, 3)}
  seen = []
  for step in range(2):
    name = tuple(train)[program.mixture.draw(step)[0]]
    batch = next(stream)
    assert batch['inputs'].shape == shapes[name] and list(batch['label']) == [tasks[name]]
    state, metrics = program.train_step(state, batch)
    assert {key for key in metrics if key.startswith('loss/')} == {f'loss/{tasks[name]}'}
    seen.append(name)
  assert sorted(seen) == ['clips', 'images']


def test_a_killed_run_goes_on_bit_for_bit(config, tmp_path, monkeypatch):
  run.run('train', config, str(tmp_path / 'whole'))
  original, added = MetricLog.add, []

  def killed_at_5(self, metrics, rows):
    original(self, metrics, rows)
    added.append(1)
    if len(added) == 5:
      raise KeyboardInterrupt

  monkeypatch.setattr(MetricLog, 'add', killed_at_5)
  with pytest.raises(KeyboardInterrupt):
    run.run('train', config, str(tmp_path / 'killed'))
  monkeypatch.undo()
  config.evaluation.pictures = True
  run.run('train', config, str(tmp_path / 'killed'))
  assert timeless(tmp_path / 'killed') == timeless(tmp_path / 'whole')
  examples = [log_lines(tmp_path / name, 'examples.jsonl') for name in ('whole', 'killed')]
  assert examples[0] == examples[1]
  assert {(line['dataset'], len(line['examples'])) for line in examples[0]} == set(BATCH.items())
  params = [checkpoint.load_params(str(tmp_path / name))[0] for name in ('whole', 'killed')]
  assert all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, params)))
  last = {}
  for line in timeless(tmp_path / 'whole'):
    last |= line
  for name, task, count in (('clips', 'action', 32), ('images', 'appearance', 16)):
    assert 0 < last[f'eval/loss/{task}'] < 10
    written = tmp_path / 'killed' / 'eval' / name / 'test' / '00000006'
    assert len((written / 'predictions.jsonl').read_text().splitlines()) == count
    assert (written / f'clips_{task}.png').stat().st_size > 1000


def test_a_group_of_the_clips_alone_is_refused_before_compiling(config, tmp_path, monkeypatch):
  config.tasks.appearance.labels = demo_tubes.CLIP_GROUP
  monkeypatch.setattr(run, 'build_program', None)
  with pytest.raises(DataError) as error:
    run.run('train', config, str(tmp_path))
  assert str(error.value) == (
    f"{config.datasets.images.dir}: task 'appearance' names the label group 'action'; there are "
    "['appearance']."
  )


def test_facts_of_tfds_are_the_published_ones_until_it_is_prepared(config, tmp_path):
  images = config.datasets.images
  images.dir, images.benchmark = f'tfds:imagenet2012@{tmp_path}', 'imagenet'
  config.tasks.appearance.labels = 'label'
  experiment = experiment_lib.parse(config)
  facts = data.facts_or_nominal(experiment)
  assert facts.train_examples == {'clips': 32, 'images': 1_281_167}
  assert len(facts.class_names['appearance']) == 1000
  assert facts.source.endswith(f'figures of imagenet: not prepared: {images.dir}')
  with pytest.raises(DataError, match='TFDS finds no files of this name'):
    data.open_train_splits(experiment)
