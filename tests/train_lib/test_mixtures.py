"""Several datasets in one run: what is drawn, trained, frozen, logged and resumed."""

import copy
import dataclasses
import json

import jax
import numpy as np
import pytest

from datasets.batches import mixture_batches
from datasets.mixture import Mixture
from errors import CheckpointMismatchError, ConfigError
from train_lib import checkpoint, data, run
from train_lib import experiment as experiment_lib
from train_lib.loop import MetricLog
from train_lib.program import prepare

SIZES = {'a': 32, 'b': 16}


def mix_two(config):
  """The demo's training clips as dataset `a` and its test clips as `b`, both evaluated as `b`."""
  base = config.datasets.demo
  config.datasets = {'a': base, 'b': copy.deepcopy(base)}
  config.datasets.b.train_split = 'test'
  config.datasets.a.eval_split = ''
  config.mixture.allow_overlap = True  # Of `b` there is one split only.
  task = config.tasks.motion
  config.tasks = {'a': task, 'b': copy.deepcopy(task)}
  config.tasks.a.dataset, config.tasks.b.dataset = 'a', 'b'
  config.checkpoint.best_metric = 'top1/b'
  return config


@pytest.fixture
def two(tiny_config):
  return mix_two(tiny_config)


def lengths_of(config):
  return experiment_lib.lengths(experiment_lib.parse(config), SIZES)


def test_an_epoch_is_the_sum_of_the_sizes(two):
  two.duration = '3 epochs'
  assert lengths_of(two).total == 3 * (32 + 16) / 8


@pytest.mark.parametrize(
  ('sampling', 'weights', 'epoch'),
  [
    # A batch of 8 of `a` and of 4 of `b`: 4 + 4 batches hold each example once.
    ('weighted', {}, 8),
    ('weighted', {'a': 1.0, 'b': 3.0}, 48 / 5),
    ('uniform', {}, 8),
    ('alternating', {}, 8),
  ],
)
def test_epochs_of_datasets_with_batch_sizes_of_their_own(two, sampling, weights, epoch):
  two.datasets.b.batch_size = 4
  two.mixture.sampling = sampling
  for name, weight in weights.items():
    two.datasets[name].weight = weight
  assert lengths_of(two).epoch == pytest.approx(epoch)


def log_lines(workdir, name):
  return [json.loads(line) for line in (workdir / name).read_text().splitlines()]


def test_batches_are_logged_counted_and_evaluated(two, tmp_path):
  two.log_examples = True
  run.run('train', two, str(tmp_path))
  steps = [
    (line['dataset'], len(line['examples'])) for line in log_lines(tmp_path, 'examples.jsonl')
  ]
  assert {name for name, _ in steps} == {'a', 'b'}
  assert all(size == 8 for _, size in steps)
  last = log_lines(tmp_path, 'metrics.jsonl')[-2]
  for name in ('a', 'b'):
    assert last[f'train/examples_seen/{name}'] == 8 * sum(n == name for n, _ in steps)
  assert (tmp_path / 'eval' / 'b' / 'test' / '00000006' / 'predictions.jsonl').exists()
  assert not (tmp_path / 'eval' / 'a').exists()


def timeless(workdir):
  timed = ('time', 'train/clips_per_second')
  return [
    {k: v for k, v in line.items() if k not in timed and '/time/' not in k}
    for line in log_lines(workdir, 'metrics.jsonl')
  ]


def test_a_killed_mixture_goes_on_bit_for_bit(two, tmp_path, monkeypatch):
  two.log_examples = True
  run.run('train', two, str(tmp_path / 'whole'))
  original = MetricLog.add
  added = []

  def killed_at_5(self, metrics, rows):
    original(self, metrics, rows)
    added.append(1)
    if len(added) == 5:
      raise KeyboardInterrupt

  monkeypatch.setattr(MetricLog, 'add', killed_at_5)
  with pytest.raises(KeyboardInterrupt):
    run.run('train', two, str(tmp_path / 'killed'))
  monkeypatch.undo()
  run.run('train', two, str(tmp_path / 'killed'))
  for name in ('whole', 'killed'):
    assert checkpoint.latest_step(tmp_path / name) == 6
  assert timeless(tmp_path / 'killed') == timeless(tmp_path / 'whole')
  examples = [log_lines(tmp_path / name, 'examples.jsonl') for name in ('whole', 'killed')]
  assert examples[0] == examples[1]
  params = [checkpoint.load_params(str(tmp_path / name))[0] for name in ('whole', 'killed')]
  assert all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, params)))


@pytest.mark.parametrize('inactive', ['freeze', 'decay'])
def test_heads_of_other_datasets(two, build, inactive):
  two.optimizer.inactive_heads = inactive
  two.optimizer.no_decay = ()
  for task in two.tasks.values():
    task.head.kernel_init = 'lecun_normal'
  program, train, _ = build(two)
  state = program.init()
  stream = data.train_stream(program, train, 0)
  names = [('a', 'b')[program.mixture.draw(step)[0]] for step in range(3)]
  for name in names:
    before = jax.device_get((state.params, state.opt_state))
    state, metrics = program.train_step(state, next(stream))
    assert {f'loss/{name}', f'top1/{name}'} < set(metrics)
    assert not any(key.endswith({'a': '/b', 'b': '/a'}[name]) for key in metrics)
    other = {'a': 'heads_b', 'b': 'heads_a'}[name]
    same = [
      bool(np.array_equal(x, y))
      for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(before),
        jax.tree.leaves(jax.device_get((state.params, state.opt_state))),
      )
      if other in jax.tree_util.keystr(path)
    ]
    assert len(same) == 6  # A kernel and a bias, and two moments of each.
    assert all(same) == (inactive == 'freeze')
  stream.close()
  # One program for each structure of labels, and none again.
  assert program.train_step._cache_size() == len(set(names)) == 2


def test_the_single_task_step_is_part_of_the_mixture(two, build):
  """A batch of `a` moves what it moves in a run of `a` alone."""
  two.optimizer.max_grad_norm = 0.0
  program, train, _ = build(two)
  step = next(s for s in range(9) if program.mixture.draw(s)[0] == 0)
  stream = data.train_stream(program, train, step)
  batch = next(stream)
  stream.close()
  _, both = program.train_step(program.init(), batch)
  two.datasets = {'a': two.datasets.a}
  two.datasets.a.eval_split = 'test'
  two.tasks = {'a': two.tasks.a}
  two.checkpoint.best_metric = ''
  two.duration = '4 steps'
  alone, *_ = build(two)
  _, single = alone.train_step(alone.init(), batch)
  assert float(both['loss'][0]) == pytest.approx(float(single['loss'][0]), rel=1e-6)
  assert float(both['gradient_norm'][0]) == pytest.approx(
    float(single['gradient_norm'][0]), rel=1e-5
  )


def test_mixed_batches_label_each_example_for_its_own_dataset(two, build):
  two.mixture.sampling = 'mixed'
  program, train, _ = build(two)
  stream = data.train_stream(program, train, 0)
  names, seen = data.ExampleNames(train), {'a': [], 'b': []}
  for _ in range(6):
    batch = jax.device_get(next(stream))
    for i, row in enumerate(batch['row']):
      name, key = names(int(row))
      seen[name].append(key)
      own = int(row) - (32 if name == 'b' else 0)
      assert batch['label'][name][i] == train[name].labels(own)[name]
      masks = {task: mask[i] for task, mask in batch['label_mask'].items()}
      assert masks == {'a': float(name == 'a'), 'b': float(name == 'b')}
  stream.close()
  assert program.examples_seen(6) == {name: len(keys) for name, keys in seen.items()}
  # No example twice before all of its dataset were seen.
  assert len(set(seen['a'])) == len(seen['a']) <= 32
  _, metrics = program.train_step(program.init(), next(data.train_stream(program, train, 0)))
  assert {'loss/a', 'loss/b'} < set(metrics)
  counts = [float(metrics[f'top1/{name}'][1]) for name in ('a', 'b')]
  assert sum(counts) == 8 and min(counts) > 0


def test_a_mixed_batch_without_a_task_leaves_its_head_alone(two, build):
  two.mixture.sampling = 'mixed'
  program, train, _ = build(two)
  stream = data.train_stream(program, train, 0)
  batch = next(stream)
  stream.close()
  masks = {'a': np.ones(8, np.float32), 'b': np.zeros(8, np.float32)}
  batch = {**batch, 'label_mask': jax.tree.map(jax.device_put, masks)}
  state = program.init()
  heads = {name: jax.device_get(state.params[f'heads_{name}']) for name in ('a', 'b')}
  after, metrics = program.train_step(state, batch)
  same = {
    name: all(
      np.array_equal(x, y)
      for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after.params[f'heads_{name}']))
    )
    for name, before in heads.items()
  }
  assert same == {'a': False, 'b': True}
  assert [float(x) for x in metrics['loss/b']] == [0.0, 0.0]  # It does not count in a mean.


def test_a_dataset_may_have_an_augmentation_of_its_own(two, build):
  two.datasets.b.augment = copy.deepcopy(two.augment)
  two.datasets.b.augment.random_erasing.prob = 1.0
  program, *_ = build(two)
  inputs = np.full((4, 4, 16, 16, 3), 200, np.uint8)
  erased = {}
  for name in ('a', 'b'):
    batch = {
      'inputs': inputs,
      'label': {name: np.zeros(4, np.int32)},
      'batch_mask': np.ones(4, np.float32),
      'position': np.arange(4),
    }
    video = np.asarray(prepare(program.experiment, program.facts, batch, step=0)[0])
    erased[name] = float(np.mean(np.abs(video - (200 / 127.5 - 1)) > 1e-3))
  assert erased['a'] == 0 < erased['b']


def test_mixed_batches_are_the_same_however_hosts_share_them(two, build):
  two.mixture.sampling = 'mixed'
  program, train, _ = build(two)
  whole = [data._stream(program, name, dataset) for name, dataset in train.items()]
  parts = [
    [dataclasses.replace(s, places=places) for s in whole]
    for places in ([0, 1, 4, 5], [2, 3, 6, 7])
  ]

  def rows(streams):
    shares = Mixture([32, 16], 2, seed=0)
    return mixture_batches(streams, shares, seed=0, mixed=True).batch_at(3)['row'].tolist()

  all_rows = rows(whole)
  assert rows(parts[0]) == [all_rows[i] for i in (0, 1, 4, 5)]
  assert rows(parts[1]) == [all_rows[i] for i in (2, 3, 6, 7)]


def test_datasets_of_other_sizes_need_a_grid_for_positions(two, build):
  two.datasets.b.clip.frames = 8
  with pytest.raises(ConfigError, match=r"'b': \(4, 2, 2\).*Set `trunk.position_grid`"):
    build(two)
  two.trunk.position_grid = (2, 2, 2)
  program, train, _ = build(two)
  stream, state = data.train_stream(program, train, 0), program.init()
  shapes = set()
  for _ in range(4):
    batch = next(stream)
    shapes.add(batch['inputs'].shape)
    state, _ = program.train_step(state, batch)
  stream.close()
  assert shapes == {(8, 4, 16, 16, 3), (8, 8, 16, 16, 3)}


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (
      lambda c: c.datasets.a.update({'weight': 1.0}),
      r"`weight` is set for \['a'\] of .* each one a weight",
    ),
    (lambda c: c.datasets.a.update({'weight': -1.0}), r'`weight` must be at least 0'),
    (
      lambda c: (
        c.mixture.update({'sampling': 'uniform'}),
        [c.datasets[name].update({'weight': 1.0}) for name in ('a', 'b')],
      ),
      r"`mixture.sampling` 'uniform' has no use for them",
    ),
    (lambda c: c.mixture.update({'sampling': 'weigthed'}), r'Did you mean `weighted`'),
    (lambda c: c.tasks.b.update({'dataset': 'a'}), r'`datasets.b` has no task'),
    (
      lambda c: (c.mixture.update({'sampling': 'mixed'}), c.datasets.b.clip.update({'frames': 2})),
      r'clip.frames` is 4 and `datasets.b.clip.frames` 2',
    ),
    (
      lambda c: (c.datasets.b.update({'batch_size': 5}), c.update({'grad_accumulation': 2})),
      r'`datasets.b.batch_size` 5 does not divide',
    ),
    (
      lambda c: c.evaluation.update({'joint_tasks': {'both': ('a', 'b')}}),
      r'joins tasks of several datasets',
    ),
  ],
)
def test_mixtures_that_cannot_be(two, change, message):
  with two.unlocked():
    change(two)
  with pytest.raises(ConfigError, match=message):
    experiment_lib.parse(two)


def test_another_mixture_is_not_the_same_run(two, tmp_path):
  two.duration = '4 steps'
  run.run('train', two, str(tmp_path))
  two.update({'duration': '6 steps'})
  two.datasets.a.weight = two.datasets.b.weight = 1.0
  with pytest.raises(CheckpointMismatchError, match='mixture'):
    run.run('train', two, str(tmp_path))
