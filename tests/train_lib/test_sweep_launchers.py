"""Launchers of sweeps, on a stub in place of `main.py` that leaves what a run leaves."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from errors import ConfigError
from train_lib import sweep, sweep_local, sweep_results, sweep_runs, sweep_slots, sweep_slurm
from train_lib.sweep_states import LogTail, Seen, look

# Trains as its `file` says: 'ok', 'fail', 'die', or 'wait' until it is asked to stop.
STUB = """
import json, os, signal, sys, time
from pathlib import Path
given = dict(a.lstrip('-').split('=', 1) for a in sys.argv[1:])
workdir, how = Path(given['workdir']), given['config']
with open(workdir.parent / 'starts', 'a') as file:
  file.write('x')
if how == 'fail':
  print('step 1/4 | loss 2 | lr 0.1 | ETA 3s')
  sys.exit('DataError: no such clip')
if how == 'die':
  os.kill(os.getpid(), signal.SIGKILL)
if how == 'wait' and not (workdir.parent / 'go').exists():
  signal.signal(signal.SIGTERM, lambda *_: os._exit(75))
  print('step 2/4 | loss 1 | lr 0.1 | ETA 2s', flush=True)
  (workdir.parent / 'waits').touch()
  time.sleep(100)
folder = workdir / 'checkpoints' / '4'
for name in ('_CHECKPOINT_METADATA', 'state/_METADATA', 'state/manifest.ocdbt'):
  (folder / name).parent.mkdir(parents=True, exist_ok=True)
  (folder / name).write_text('x')
rate = float(given.get('config.optimizer.learning_rate', 0.002))
metrics = {'top1/motion': rate * 100 + int(given['config.seed']) / 10, 'loss/motion': 1.5}
meta = {'evaluated': True, 'position': {'examples': {'demo': 32}}, 'metrics': metrics}
(folder / 'meta').mkdir()
(folder / 'meta' / 'metadata').write_text(json.dumps(meta))
print('step 4/4 | loss 0.5 | top1/motion 0.75 | lr 0.1 | ETA 0s')
"""


@pytest.fixture
def main(tmp_path):
  """The stub's program and first arguments."""
  path = tmp_path / 'stub.py'
  path.write_text(STUB)
  return sys.executable, str(path)


@pytest.fixture(scope='module')
def demo_config():
  """The demo's config in four steps, as JSON."""
  from tools.sweep import resolve

  return resolve('configs/vivit/demo.py', {'duration': '4 steps', 'optimizer.warmup': '0 steps'})


@pytest.fixture
def planned(tmp_path, demo_config):
  """Plans rows, whose configs are what the stub is to do."""

  def resolve(file, overrides):
    config = json.loads(json.dumps(demo_config))
    config['name'] = file
    config['seed'] = int(overrides['seed'])
    config['init_from']['path'] = overrides.get('init_from.path', '')
    if 'optimizer.learning_rate' in overrides:
      config['optimizer']['learning_rate'] = float(overrides['optimizer.learning_rate'])
    return config

  def plan(rows, **asked):
    described = sweep.Description('a.py', rows, {}, (), None, tmp_path, None)
    return sweep_runs.plan(described, tmp_path / 'out', resolve, **asked)

  return plan


def starts(run):
  """How often the stub was started for a run's row."""
  return len((run.workdir.parent / 'starts').read_text())


def run_local(runs, main, parallel=2):
  return sweep_local.run_all(runs, runs[0].workdir.parents[1], parallel, lambda jobs: None, main)


def test_failed_runs_are_named_what_waits_for_them_is_skipped_and_the_rest_goes_on(planned, main):
  def rows(add):
    bad = add({}, name='bad', config='fail')
    then = add({}, name='then', config='ok', init_from=bad)
    add({}, name='last', config='ok', after=[then])
    add({}, name='killed', config='die')
    good = add({'optimizer.learning_rate': 0.004}, name='good', config='ok')
    add({'optimizer.learning_rate': 0.001}, name='after good', config='ok', init_from=good)

  runs = planned(rows)
  jobs = run_local(runs, main)
  assert {job.run.name: (job.state, job.why) for job in jobs} == {
    'bad': ('failed', 'DataError: no such clip'),
    'then': ('skipped', 'bad, seed 0 failed'),
    'last': ('skipped', 'then, seed 0 skipped'),
    'killed': ('failed', 'ended by SIGKILL: out of memory?'),
    'good': ('finished', ''),
    'after good': ('finished', ''),
  }
  assert runs[0].log.read_text().startswith(f'$ {runs[0].command()}\n')
  assert look(runs[4]).metrics == {'top1/motion': 0.4, 'loss/motion': 1.5}
  again = run_local(runs, main)
  assert [job.before for job in again] == [False, False, False, False, True, True]
  assert [starts(runs[i]) for i in (0, 4, 5)] == [2, 1, 1]


def test_a_stopped_sweep_lets_its_runs_save_and_goes_on(planned, main, tmp_path):
  def rows(add):
    add({}, name='first', config='ok')
    add({'optimizer.learning_rate': 0.004}, name='second', config='wait')

  runs = planned(rows)
  seen = []

  def stop_when_it_waits(jobs):
    seen.append([job.state for job in jobs])
    if (runs[1].workdir.parent / 'waits').exists() and jobs[0].state == 'finished':
      os.kill(os.getpid(), signal.SIGINT)
      (runs[1].workdir.parent / 'waits').unlink()

  before = signal.getsignal(signal.SIGINT)
  with pytest.raises(KeyboardInterrupt):
    sweep_local.run_all(runs, tmp_path / 'out', 2, stop_when_it_waits, main)
  assert seen[-1] == ['finished', 'interrupted']
  assert signal.getsignal(signal.SIGINT) == before
  (runs[1].workdir.parent / 'go').touch()
  assert [job.state for job in run_local(runs, main)] == ['finished', 'finished']
  assert [starts(run) for run in runs] == [1, 2]


def test_a_killed_sweep_takes_its_runs_with_it(planned, main, tmp_path):
  runs = planned(lambda add: add({}, name='only', config='wait'))
  # A process of its own would spend ten seconds on importing.
  sweeping = os.fork()
  if not sweeping:
    sweep_local.run_all(runs, tmp_path / 'out', 1, lambda jobs: None, main)
    os._exit(0)
  while not (runs[0].workdir.parent / 'waits').exists():
    time.sleep(0.05)
  (child,) = Path(f'/proc/{sweeping}/task/{sweeping}/children').read_text().split()
  os.kill(sweeping, signal.SIGKILL)
  os.waitpid(sweeping, 0)
  status = Path(f'/proc/{child}/status')
  for _ in range(1200):
    if not status.exists() or '\nState:\tZ' in status.read_text():
      break
    time.sleep(0.05)
  else:
    pytest.fail('the run goes on without its sweep')


@pytest.mark.parametrize(
  ('parallel', 'cores', 'gpus', 'expected'),
  [
    (1, range(8), ['0', '1'], [([], {})]),
    (2, range(5), [], [([0, 1], {}), ([2, 3], {})]),
    (3, range(2), [], [([0], {}), ([1], {}), ([0], {})]),
    (
      2,
      range(2),
      ['0', '1', '2', '3'],
      [([0], {'CUDA_VISIBLE_DEVICES': '0,1'}), ([1], {'CUDA_VISIBLE_DEVICES': '2,3'})],
    ),
    (
      2,
      [],
      ['7'],
      [([], {'CUDA_VISIBLE_DEVICES': '7', 'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.45'})] * 2,
    ),
  ],
)
def test_a_machine_is_divided_into_equal_parts(parallel, cores, gpus, expected):
  found = sweep_slots.slots(parallel, list(cores), gpus)
  assert [(sorted(slot.cores), slot.environment) for slot in found] == expected


def test_what_a_run_prints_is_read_as_it_grows(tmp_path):
  path = tmp_path / 'run.log'
  path.write_text('an earlier attempt\nDataError: old\n')
  tail, seen = LogTail(path), Seen()
  with path.open('a') as file:
    file.write('step 1,200/1,600 | loss 0.5 | top1/motion 0.75 | lr 0.1 | 9 clips/s | ETA 4s\nste')
  seen.read(tail.lines())
  assert (seen.step, seen.total, seen.left, seen.error) == (1200, 1600, '4s', '')
  assert seen.metrics == 'loss 0.5 | top1/motion 0.75'
  with path.open('a') as file:
    file.write('p 1,600/1,600 | loss 0.4 | lr 0 | ETA 0s\n')
    file.write('eval of demo at 1,600: top1/motion 1 | 160 videos in 2s\nerrors.DataError: new\n')
  seen.read(tail.lines())
  assert (seen.step, seen.metrics, seen.error) == (1600, 'top1/motion 1', 'errors.DataError: new')


# --- Results ---


def test_results_are_the_same_however_often_a_sweep_is_continued(planned, main, tmp_path):
  def rows(add):
    for rate in (0.001, 0.002, 0.004):
      add({'optimizer.learning_rate': rate}, config='ok', seeds=(0, 1), group='Rates')

  runs = planned(rows)
  described = sweep.Description(
    'a.py', rows, {'top-1': 'top1/motion'}, (), None, tmp_path, lambda workdir: {'extra': 0.25}
  )
  run_local(runs[:3], main)
  results = sweep_results.collect(runs, described, {runs[4].workdir: ('failed', 'why')})
  (table,) = sweep_results.groups(results)
  metrics = sweep_results.metrics_shown(results, described)
  assert sweep_results.text_table(sweep_results.cells(table, metrics)) == (
    '                          top-1   seeds\n'
    'learning_rate=0.001  15.0 ± 7.1       2\n'
    'learning_rate=0.002        20.0  1 of 2\n'
    'learning_rate=0.004           -  0 of 2'
  )
  run_local(runs, main)
  sweep_results.write_rows(
    tmp_path / 'a.csv', sweep_results.collect(runs, described, {}), tmp_path / 'out'
  )
  with (tmp_path / 'a.csv').open() as file:
    lines = list(csv.DictReader(file))
  assert lines[3] == {
    'run': 'learning_rate=0.002',
    'group': 'Rates',
    'seed': '1',
    'optimizer.learning_rate': '0.002',
    'extra': '0.25',
    'loss/motion': '1.5',
    'top1/motion': '0.30000000000000004',
    'state': 'finished',
    'workdir': 'Rates/learning_rate=0.002/seed1',
  }
  first = (tmp_path / 'a.csv').read_bytes()
  run_local(runs, main)
  sweep_results.write_rows(
    tmp_path / 'b.csv', sweep_results.collect(runs, described, {}), tmp_path / 'out'
  )
  assert (tmp_path / 'b.csv').read_bytes() == first


# --- Slurm ---


def test_slurm_runs_are_submitted_in_order_and_failures_named(planned, main, tmp_path):
  def rows(add):
    good = add({}, name='good', config='ok')
    add({}, name='after', config='ok', init_from=good)
    add({}, name='bad', config='fail')

  runs = planned(rows)
  options = sweep_slurm.parameters(['cluster=local', 'timeout_min=5'])
  states = sweep_slurm.run_all(runs, (), tmp_path / 'out', 2, options, main)
  assert states == {
    runs[2].workdir: (
      'failed',
      f'errors.SweepError: main.py ended with exit code 1: see {runs[2].log}',
    )
  }
  assert [look(run).finished for run in runs] == [True, True, False]
  assert 'DataError: no such clip' in runs[2].log.read_text()


def test_slurm_is_given_an_array_and_dependencies(planned, main, tmp_path, monkeypatch):
  folder = tmp_path / 'bin'
  folder.mkdir()
  sbatch = f'#!/bin/sh\ncat "$1" >> {tmp_path}/submitted\necho Submitted batch job 12\n'
  for name, text in (('srun', '#!/bin/sh\n'), ('sbatch', sbatch)):
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)
  monkeypatch.setenv('PATH', f'{folder}:{os.environ["PATH"]}')
  monkeypatch.setattr(
    sweep_slurm, '_wait', lambda jobs: {path: ('queued', j.job_id) for path, j in jobs.items()}
  )

  def rows(add):
    good = add({}, name='good', config='ok', seeds=(0, 1))
    add({}, name='after', config='ok', seeds=(0, 1), init_from=good)

  runs = planned(rows)
  options = sweep_slurm.parameters(['partition=gpu', 'timeout_min=90', 'gpus_per_node=8'])
  states = sweep_slurm.run_all(runs, (), tmp_path / 'out', 2, options, main)
  assert [states[run.workdir][1] for run in runs] == ['12_0', '12_1', '12', '12']
  text = (tmp_path / 'submitted').read_text()
  assert text.count('#SBATCH --partition=gpu\n') == 3
  assert text.count('#SBATCH --time=90\n') == text.count('#SBATCH --gpus-per-node=8\n') == 3
  assert text.count('#SBATCH --array=0-1%2\n') == 1
  assert '#SBATCH --dependency=afterok:12_0\n' in text
  assert '#SBATCH --dependency=afterok:12_1\n' in text
  assert text.count('#SBATCH --kill-on-invalid-dep=yes\n') == 3


def test_a_preempted_job_saves_and_is_queued_again(main, tmp_path):
  workdir = tmp_path / 'row' / 'seed0'
  workdir.parent.mkdir()
  arguments = [*main, '--config=wait', f'--workdir={workdir}', '--config.seed=0']
  job = sweep_slurm.MainJob(arguments, workdir.with_suffix('.log'))

  class Requeued(Exception):
    pass

  def preempted(*_):
    again = job.checkpoint()
    assert again.function.arguments == tuple(arguments)
    raise Requeued

  before = signal.signal(signal.SIGUSR2, preempted)
  waker = subprocess.Popen(
    [
      'sh',
      '-c',
      f'until [ -e {workdir.parent}/waits ]; do sleep 0.1; done; kill -USR2 {os.getpid()}',
    ]
  )
  try:
    with pytest.raises(Requeued):
      job()
  finally:
    waker.wait()
    signal.signal(signal.SIGUSR2, before)


@pytest.mark.parametrize(
  ('items', 'message'),
  [
    (['partition'], "--slurm: expected name=value,name=value, got 'partition'"),
    (['cluster=local', 'timeout=3'], "'timeout': 3}"),
    (['cluster=slurm'], 'srun'),
  ],
)
def test_bad_slurm_options_are_named(items, message, tmp_path):
  with pytest.raises(ConfigError) as caught:
    sweep_slurm.run_all([], (), tmp_path, 1, sweep_slurm.parameters(items))
  assert message in str(caught.value)
