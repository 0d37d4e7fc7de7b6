"""Runs that are asked to stop, or whose loss is not a number."""

import errno
import json
import os
import signal

import jax
import numpy as np
import pytest

from errors import CheckpointError, PreemptedError, TrainingDivergedError
from train_lib import checkpoint, data, evaluation, json_lines, loop, preemption, run
from train_lib import experiment as experiment_lib
from train_lib.metric_log import MetricLog


def lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def scalars(workdir):
  """(step, name, value) of everything that does not measure time."""
  rows = json_lines.read(workdir / 'metrics.jsonl')
  timed = ('step', 'time', 'train/clips_per_second')
  return [
    (row['step'], k, v)
    for row in rows
    for k, v in row.items()
    if k not in timed and '/time/' not in k
  ]


def same_parameters(a, b):
  a, b = (jax.tree.leaves(checkpoint.load_params(str(folder))[0]) for folder in (a, b))
  return all(np.array_equal(x, y) for x, y in zip(a, b))


def terminate():
  os.kill(os.getpid(), signal.SIGTERM)


def terminated_after(steps, config, workdir, monkeypatch):
  """Trains, sent SIGTERM after some steps."""
  original, seen = MetricLog.add, []

  def add(self, metrics, rows):
    original(self, metrics, rows)
    seen.append(1)
    if len(seen) == steps:
      terminate()

  monkeypatch.setattr(MetricLog, 'add', add)
  with pytest.raises(PreemptedError, match=f'at step {steps}.*the same command goes on') as caught:
    run.run('train', config, str(workdir))
  monkeypatch.undo()
  assert caught.value.exit_code == 75
  assert checkpoint.latest_step(workdir) == steps


def test_sigterm_saves_and_the_run_goes_on_bit_for_bit(
  finished, tiny_config, tmp_path, monkeypatch, capsys
):
  workdir, _ = finished
  before = signal.getsignal(signal.SIGTERM)
  terminated_after(5, tiny_config, tmp_path / 'resumed', monkeypatch)
  assert signal.getsignal(signal.SIGTERM) is before
  run.run('train', tiny_config, str(tmp_path / 'resumed'))
  assert 'step 5' in capsys.readouterr().out
  assert same_parameters(workdir, tmp_path / 'resumed')
  evaluations = [
    [x for x in scalars(folder) if x[1].startswith('eval/')]
    for folder in (workdir, tmp_path / 'resumed')
  ]
  assert evaluations[0] == evaluations[1]


def test_sigterm_within_an_evaluation_saves_first_and_evaluates_after_the_restart(
  finished, tiny_config, tmp_path, monkeypatch
):
  workdir, _ = finished
  resumed = tmp_path / 'resumed'
  tiny_config.checkpoint.update({'keep': 1, 'best_metric': 'loss/motion'})
  original = evaluation.evaluate

  def evaluate(*arguments):
    terminate()
    return original(*arguments)

  monkeypatch.setattr(evaluation, 'evaluate', evaluate)
  with pytest.raises(PreemptedError, match='while evaluating'):
    run.run('train', tiny_config, str(resumed))
  monkeypatch.undo()
  assert checkpoint.latest_step(resumed) == 4
  assert not [x for x in scalars(resumed) if x[1].startswith('eval/')]
  run.run('train', tiny_config, str(resumed))
  assert scalars(resumed) == scalars(workdir)
  assert same_parameters(workdir, resumed)
  losses = {step: value for step, name, value in scalars(resumed) if name == 'eval/loss/motion'}
  assert checkpoint.complete_steps(resumed) == sorted({min(losses, key=losses.get), 6})


def test_ctrl_c_is_raised_where_the_run_looks_and_a_second_one_at_once():
  signal.signal(signal.SIGINT, signal.default_int_handler)
  with preemption.Preemption() as stop:
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
      stop()
    with pytest.raises(KeyboardInterrupt):
      os.kill(os.getpid(), signal.SIGINT)
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_full_disk_is_named_wherever_the_run_meets_it(tiny_config, tmp_path, monkeypatch):
  append = json_lines.JsonLines.append

  def full(self, step, values):
    if step == 4:
      raise OSError(errno.ENOSPC, 'No space left on device')
    append(self, step, values)

  monkeypatch.setattr(json_lines.JsonLines, 'append', full)
  with pytest.raises(
    CheckpointError, match=r'No space left on device\. The newest .*checkpoints/3\. Free space'
  ):
    run.run('train', tiny_config, str(tmp_path))
  assert checkpoint.latest_step(tmp_path) == 3


# --- Not a number ---


def poisoned(config, rows, monkeypatch):
  """Makes the loss of every batch with one of these rows NaN, through a mask that is not a number."""
  original = data.train_stream

  def stream(*arguments):
    for batch in original(*arguments):
      bad = np.isin(np.asarray(batch['row']), rows)
      mask = np.where(bad, np.float32('nan'), np.asarray(batch['batch_mask']))
      yield {**batch, 'batch_mask': jax.device_put(mask, batch['batch_mask'].sharding)}

  monkeypatch.setattr(data, 'train_stream', stream)
  config.update({'duration': '8 steps', 'log_every': '4 steps', 'log_examples': True})
  config.evaluation.every = config.checkpoint.every = 'never'
  return config


def test_a_loss_that_is_not_a_number_names_step_dataset_and_examples(
  tiny_config, tmp_path, monkeypatch
):
  config = poisoned(tiny_config, [7], monkeypatch)
  with pytest.raises(TrainingDivergedError) as caught:
    run.run('train', config, str(tmp_path))
  train = data.open_split(experiment_lib.parse(config), 'demo', 'train')
  steps = {x['step']: x['examples'] for x in lines(tmp_path / 'examples.jsonl')}
  assert sorted(steps) == [1, 2, 3, 4]
  epoch = [name for ids in steps.values() for name in ids]
  assert sorted(epoch) == sorted(map(train.key, range(32)))
  bad = next(step for step, ids in steps.items() if train.key(7) in ids)
  message = str(caught.value)
  assert 'loss = nan' in message
  assert f'in steps 1 to 4, first at step {bad}: dataset' in message
  assert "'demo'" in message and repr(train.key(7)) in message
  first = lines(tmp_path / 'nonfinite.jsonl')[0]
  assert (first['step'], first['dataset'], first['examples']) == (bad, 'demo', steps[bad])
  assert first['values']['loss'] == 'NaN'


def test_updates_that_are_not_finite_are_skipped_within_the_budget(
  tiny_config, tmp_path, monkeypatch, capsys
):
  config = poisoned(tiny_config, [7], monkeypatch)
  config.max_skipped_steps = 2  # Row 7 comes once in each of the two epochs.
  run.run('train', config, str(tmp_path))
  printed = capsys.readouterr().out
  assert 'its update was skipped (1 of at most 2)' in printed
  assert 'its update was skipped (2 of at most 2)' in printed
  params = checkpoint.load_params(str(tmp_path))[0]
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))
  values = {(s, k): v for s, k, v in scalars(tmp_path)}
  assert [values[s, 'train/skipped_steps'] for s in (4, 8)] == [1, 2]
  assert all(np.isfinite(values[s, 'train/loss']) for s in (4, 8))


def test_one_more_than_the_budget_stops_the_run(tiny_config, tmp_path, monkeypatch):
  config = poisoned(tiny_config, [7], monkeypatch)
  config.max_skipped_steps = 1
  with pytest.raises(TrainingDivergedError, match=r'in steps 5 to 8, .* after 1 skipped updates'):
    run.run('train', config, str(tmp_path))
  assert checkpoint.latest_step(tmp_path) is None


def test_profile_mode_writes_a_trace_and_nothing_else(tiny_config, tmp_path, capsys):
  run.run('profile', tiny_config, str(tmp_path / 'run'))
  printed = capsys.readouterr().out
  assert 'waiting for data' in printed
  assert list((tmp_path / 'run').rglob('*.xplane.pb'))
  assert [p.name for p in (tmp_path / 'run').iterdir()] == ['plugins']


def test_nothing_is_saved_twice_and_the_plan_is_exact(tiny_config, build):
  tiny_config.update({'duration': '9 steps'})
  program, _, _ = build(tiny_config)
  plan = loop._Plan(program, 0, True)
  assert [s for s in range(10) if plan.evaluates(s)] == [4, 8, 9]
  assert [s for s in range(10) if plan.saves(s)] == [3, 4, 6, 8, 9]
  resumed = loop._Plan(program, 4, True)
  assert [s for s in range(4, 10) if resumed.saves(s)] == [6, 8, 9]
  cut_short = loop._Plan(program, 4, False)
  assert [s for s in range(4, 10) if cut_short.evaluates(s)] == [4, 8, 9]
  assert [s for s in range(4, 10) if cut_short.saves(s)] == [4, 6, 8, 9]
