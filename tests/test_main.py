"""The command line of `main.py`: one line for each mistake, before JAX does anything."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A test run started in the background may ignore SIGINT, and children inherit that.
HEEDING_SIGINT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def run_main(*arguments: str) -> subprocess.CompletedProcess:
  command = [sys.executable, 'main.py', *arguments]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--config.batch_sise=3'], 'Unknown config key `batch_sise`. Did you mean `batch_size`?'),
    (['--config.trunk.hiden_size=3'], 'Unknown config key `trunk.hiden_size`. Did you mean `trunk.hidden_size`?'),
    (['--config.tasks.motion.head.foo=3'], 'Unknown config key `tasks.motion.head.foo`. Known in `tasks.motion.head`: bias_init'),
    (['--config.batch_size=many'], 'ConfigError: --config.batch_size=many has another type than the config'),
    (['--config.trunk.num_heads=0'], 'trunk.num_heads=0: expected at least 1'),
    (['--config.seed=-1'], '`seed` must be at least 0, got -1'),
    (['--config.datasets.demo.clip.crop=99'], 'In `datasets.demo.clip`: clip.crop: expected <= resize (32), got 99'),
    (['--mode=trian'], 'flag --mode=trian: value should be one of <train|eval|profile|init>'),
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
  assert 'ConfigError: --config=configs/vivit/dem.py cannot be loaded' in done.stderr
  assert 'Traceback' not in done.stderr


@pytest.mark.parametrize(
  ('source', 'reason'),
  [
    ('def get_config(:', 'invalid syntax'),
    ('x = 1', "no attribute 'get_config'"),
    ('def get_config():\n  return undefined_name', 'undefined_name'),
  ],
)
def test_a_broken_config_file_is_one_line(source, reason, tmp_path):
  path = tmp_path / 'broken.py'
  path.write_text(source)
  done = run_main(f'--config={path}', f'--workdir={tmp_path / "run"}')
  assert done.returncode == 1
  assert f'ConfigError: --config={path} cannot be loaded' in done.stderr
  assert reason in done.stderr
  assert 'Traceback' not in done.stderr


def test_config_arguments_that_do_not_exist_are_named(tmp_path):
  done = run_main('--config=configs/vivit/demo.py:atention=x', f'--workdir={tmp_path / "run"}')
  assert (
    "Unknown config argument 'atention'; known: ['attention', 'temporal_layers']" in done.stderr
  )
  assert 'Traceback' not in done.stderr


def test_an_interrupted_run_says_how_to_go_on(tmp_path, demo_data_dir):
  command = [sys.executable, '-c', HEEDING_SIGINT, 'main.py', '--config=configs/vivit/demo.py']
  command += [f'--workdir={tmp_path / "run"}', f'--config.datasets.demo.dir={demo_data_dir}']
  command += ['--config.log_every=5 steps', '--config.duration=100000 steps']
  command += ['--config.trunk.num_layers=1', '--config.trunk.temporal_num_layers=0']
  process = subprocess.Popen(
    command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )
  for line in process.stdout:
    if line.startswith('step '):
      process.send_signal(signal.SIGINT)
      break
  _, errors = process.communicate(timeout=120)
  assert process.returncode == 130
  assert 'Interrupted. The same command goes on from the newest checkpoint.' in errors
  assert 'Traceback' not in errors


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--config', 'configs/vivit/demo.py', '--config.batch_sise', '3'], 'key `batch_sise`'),
    (['--config', 'configs/vivit/dem.py'], 'ConfigError: --config=configs/vivit/dem.py cannot be'),
  ],
)
def test_flags_may_be_written_with_a_space(arguments, message, tmp_path):
  done = run_main(*arguments, f'--workdir={tmp_path / "run"}')
  assert done.returncode == 1
  assert message in done.stderr
  assert 'Traceback' not in done.stderr


def test_help_has_an_example():
  done = run_main('--help')
  assert 'python main.py --config=configs/vivit/k400_base_fe.py' in done.stdout
