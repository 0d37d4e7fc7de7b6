"""A run that is killed with SIGKILL, again and again, ends as an undisturbed one, bit for bit.

The processes are forked from a server that has imported everything and has not touched JAX's
devices; `benchmarks/kill_resume.py` does the same with whole processes and many kills.
"""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from train_lib import checkpoint, evaluation, json_lines, metric_log, run


def die(*_, **__):
  os.kill(os.getpid(), signal.SIGKILL)


def die_at(place, workdir):
  """Makes this process kill itself: in its `place`-th step, in its first save, or in its first
  evaluation once a checkpoint is complete."""
  if place == 'evaluation':

    def saved_then_die(*_):
      while checkpoint.latest_step(Path(workdir)) is None:
        time.sleep(0.05)
      die()

    evaluation.write_results = saved_then_die
  elif place == 'save':
    save = checkpoint.Checkpointer.save

    def save_or_die(*arguments):
      os.rename = die  # When the files are written, but their folder has not its final name.
      save(*arguments)

    checkpoint.Checkpointer.save = save_or_die
  else:
    add, seen = metric_log.MetricLog.add, []

    def add_or_die(*arguments):
      seen.append(1)
      add(*arguments) if len(seen) < place else die()

    metric_log.MetricLog.add = add_or_die


def train(config, workdir, output, place):
  """Trains to the end, or until it is killed at `place`; what it prints goes to a file."""
  os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
  if place is not None:
    die_at(place, workdir)
  run.run('train', config, workdir)


@pytest.fixture
def train_in_a_process(tiny_config, tmp_path):
  """Trains the tiny config in `tmp_path/run` till a place; gives the exit code and the output."""
  context = multiprocessing.get_context('forkserver')
  context.set_forkserver_preload(['train_lib.run', 'configs.vivit.demo', 'datasets.demo'])

  def train_(place=None):
    output = tmp_path / 'output.txt'
    arguments = (tiny_config.to_dict(), str(tmp_path / 'run'), str(output), place)
    process = context.Process(target=train, args=arguments)
    process.start()
    process.join()
    return process.exitcode, output.read_text()

  return train_


def metrics(workdir):
  """(step, name, value) of all that was logged but times."""
  return [
    (row['step'], name, value)
    for row in json_lines.read(workdir / 'metrics.jsonl')
    for name, value in row.items()
    if name not in ('time', 'train/clips_per_second') and '/time/' not in name
  ]


def test_three_kills_change_nothing(finished, train_in_a_process, tmp_path):
  undisturbed, killed = finished[0], tmp_path / 'run'

  code, output = train_in_a_process('save')  # Of step 3.
  assert code == -signal.SIGKILL
  assert output.startswith('START from scratch')
  torn = killed / checkpoint.FOLDER / '3.orbax-checkpoint-tmp'
  assert torn.is_dir()
  assert checkpoint.latest_step(killed) is None

  code, output = train_in_a_process('evaluation')  # At step 4, after step 3 was saved.
  assert code == -signal.SIGKILL
  assert f'{torn} was left by a save that did not finish: removed.' in output
  assert 'did not end by itself; its lock is taken over.' in output
  assert 'START from scratch' in output
  assert checkpoint.latest_step(killed) == 3
  assert not [m for m in metrics(killed) if m[1].startswith('eval/')]

  code, output = train_in_a_process(2)  # In step 5, right after step 4 was saved.
  assert code == -signal.SIGKILL
  assert 'RESUME at step 3 of 6' in output

  code, output = train_in_a_process()
  assert code == 0
  assert 'RESUME at step 4 of 6' in output or 'RESUME at step 3 of 6' in output
  assert metrics(killed) == metrics(undisturbed)
  leaves = [
    jax.tree.leaves(checkpoint.load_params(str(folder))[0]) for folder in (undisturbed, killed)
  ]
  assert all(np.array_equal(a, b) for a, b in zip(*leaves, strict=True))
