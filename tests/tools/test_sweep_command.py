"""`tools.sweep` on real runs of `main.py`, and its mistakes."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from errors import ConfigError
from tools import sweep as command

ROOT = Path(__file__).parents[2]
SIZES = {
  'duration': '4 steps',
  'batch_size': 8,
  'optimizer.warmup': '0 steps',
  'datasets.demo.temporal_views': 1,
  'datasets.demo.clip.frames': 2,
  'trunk.hidden_size': 16,
  'trunk.num_layers': 1,
  'trunk.temporal_num_layers': 1,
  'trunk.num_heads': 2,
  'trunk.mlp_dim': 16,
  'trunk.tubelet': (2, 16, 16),
  'evaluation.pictures': False,
}


def run_sweep(*arguments):
  program = [sys.executable, '-m', 'tools.sweep', '--config=configs/vivit/demo.py', *arguments]
  return subprocess.run(program, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def description(tmp_path):
  path = tmp_path / 'sweep.py'
  path.write_text(
    "METRICS = {'top-1': 'top1/motion'}\n"
    "CLAIMS = [('fine', 'coarse', 'top-1')]\n"
    'def sweep(add):\n'
    "  first = add({}, name='coarse')\n"
    "  add({'optimizer.learning_rate': 0.004}, name='fine', init_from=first)\n"
  )
  return path


def test_a_sweep_trains_in_order_reports_and_repeats_nothing(description, tmp_path, demo_data_dir):
  out = tmp_path / 'out'
  sizes = [f'--config.{key}={value}' for key, value in SIZES.items()]
  asked = [f'--sweep={description}', f'--out={out}', f'--config.datasets.demo.dir={demo_data_dir}']
  done = run_sweep(*asked, *sizes)
  assert done.returncode == 0, done.stdout + done.stderr
  assert 'fine beats coarse on top-1: ' in done.stdout
  first = (out / 'results.csv').read_bytes()
  rows = list(csv.DictReader(first.decode().splitlines()))
  assert [(row['run'], row['state'], row['workdir']) for row in rows] == [
    ('coarse', 'finished', 'coarse/seed0'),
    ('fine', 'finished', 'fine/seed0'),
  ]
  assert [row['optimizer.learning_rate'] for row in rows] == ['0.002', '0.004']
  assert f'START from {out}/coarse/seed0' in (out / 'fine' / 'seed0.log').read_text()
  assert '| fine |' in (out / 'results.md').read_text()
  assert (out / 'results.png').read_bytes().startswith(b'\x89PNG')
  logs = [(out / name / 'seed0.log').read_bytes() for name in ('coarse', 'fine')]
  again = run_sweep(*asked, *sizes)
  assert '[2/2] fine, seed 0 finished before' in again.stdout
  assert [(out / name / 'seed0.log').read_bytes() for name in ('coarse', 'fine')] == logs
  assert (out / 'results.csv').read_bytes() == first


def test_a_dry_run_prints_the_commands_and_writes_nothing(description, tmp_path):
  out = tmp_path / 'out'
  done = run_sweep(f'--sweep={description}', f'--out={out}', '--dry_run', '--config.batch_size=4')
  assert done.stdout.splitlines() == [
    f'python main.py --config=configs/vivit/demo.py --workdir={out}/coarse/seed0 '
    '--config.batch_size=4 --config.seed=0',
    f'python main.py --config=configs/vivit/demo.py --workdir={out}/fine/seed0 --config.batch_size=4 '
    f'--config.optimizer.learning_rate=0.004 --config.init_from.path={out}/coarse/seed0 '
    '--config.seed=0',
    f'# 2 runs in {out}',
  ]
  assert not out.exists()


@pytest.mark.parametrize(
  ('key', 'value', 'message'),
  [
    ('optimizer.learning_rat', '1', 'Did you mean `optimizer.learning_rate`?'),
    ('batch_size', 'many', '--config.batch_size=many has another type than the config'),
    ('trunk.nme.x', '1', 'Unknown config key `trunk.nme`. Did you mean `trunk.name`?'),
  ],
)
def test_a_change_that_does_not_fit_is_named(key, value, message):
  with pytest.raises(ConfigError) as caught:
    command.resolve('configs/vivit/demo.py', {key: value})
  assert message in str(caught.value)


def test_the_example_resolves():
  from train_lib import sweep, sweep_runs

  description = sweep.load(str(ROOT / 'sweeps' / 'lr.py'))
  config = str(ROOT / 'configs' / 'vivit' / 'demo.py')
  runs = sweep_runs.plan(description, Path('out'), command.resolve, config=config, seeds=(0, 1))
  assert [run.workdir.parent.name for run in runs[::2]] == [
    'learning_rate=0.0005',
    'learning_rate=0.002',
    'learning_rate=0.008',
  ]
  assert runs[-1].resolved['optimizer']['learning_rate'] == 0.008
