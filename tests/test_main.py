"""The command line of `main.py`: one line for each mistake, before JAX does anything."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run_main(*arguments: str) -> subprocess.CompletedProcess:
  command = [sys.executable, 'main.py', *arguments]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--config.batch_sise=3'], "ConfigError: --config has no key 'batch_sise'. Did you mean 'batch_size'?"),
    (['--config.batch_size=many'], "flag --config.batch_size=many: invalid literal"),
    (['--mode=trian'], 'flag --mode=trian: value should be one of <train|eval|init>'),
    (['stray'], "Unexpected argument 'stray'"),
    (['--config.datasets.demo.dir=/nowhere'], 'DataError: /nowhere/manifest.json'),
    (['--config.duration=long'], "ConfigError: `duration` must read like '500 steps'"),
    (['--config.trunk.tubelet=(3,8,8)'], 'ConfigError: trunk.tubelet'),
  ],
)  # fmt: skip
def test_mistakes_are_one_line(arguments, message, tmp_path, demo_data_dir):
  workdir = tmp_path / 'run'
  data = f'--config.datasets.demo.dir={demo_data_dir}'
  done = run_main('--config=configs/vivit/demo.py', f'--workdir={workdir}', data, *arguments)
  assert done.returncode == 1
  assert message in done.stderr
  assert 'Traceback' not in done.stderr
  assert not workdir.exists()


def test_a_missing_config_file_is_named(tmp_path):
  done = run_main('--config=configs/vivit/dem.py', f'--workdir={tmp_path / "run"}')
  assert done.returncode == 1
  assert 'ConfigError: --config cannot be loaded' in done.stderr
  assert 'configs/vivit/dem.py' in done.stderr
  assert 'Traceback' not in done.stderr


def test_help_has_an_example():
  done = run_main('--help')
  assert 'python main.py --config=configs/vivit/k400_base_fe.py' in done.stdout
