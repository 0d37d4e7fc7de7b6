"""Kills a sweep of eight runs half-way and starts it again; it must end as an undisturbed one does.

  python -m benchmarks.sweep_resume
  python -m benchmarks.sweep_resume --parallel=1 --steps=200

Tiny ViViTs train on demo data: four learning rates, two seeds each, once undisturbed. The second time the
sweep and all its runs are killed (SIGKILL) once three have finished and another has saved a checkpoint,
then the same command is given again. No run that had finished may be touched: its log and its
checkpoints stay as they were; and `results.csv` must be the same, byte for byte. Exits with 1 otherwise.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import flags

from benchmarks.tiny_run import OVERRIDES
from datasets import demo
from tools import command
from train_lib import checkpoint

_PARALLEL = flags.DEFINE_integer('parallel', 2, 'Runs beside each other.', 1, allow_override=True)
_STEPS = flags.DEFINE_integer('steps', 60, 'Steps of each run.', 40, allow_override=True)

ROOT = Path(__file__).parents[1]
RUNS, FINISHED_BEFORE = 8, 3
SAVE_EVERY = 10
_POLL_SECONDS = 0.02
_DESCRIPTION = """
from train_lib.sweep import product

def sweep(add):
  for changes in product({'optimizer.learning_rate': [5e-4, 1e-3, 2e-3, 4e-3]}):
    add(changes, seeds=(0, 1))
"""


def start(folder: Path, out: Path, steps: int, parallel: int) -> subprocess.Popen:
  """Starts the sweep, in a process group of its own."""
  config = {
    **OVERRIDES,
    'datasets.demo.dir': folder / 'data',
    'duration': f'{steps} steps',
    'log_every': '5 steps',
    'checkpoint.every': f'{SAVE_EVERY} steps',
  }
  arguments = ['--config=configs/vivit/demo.py', f'--sweep={folder / "sweep.py"}']
  arguments += [f'--config.{key}={value}' for key, value in config.items()]
  return subprocess.Popen(
    [sys.executable, '-m', 'tools.sweep', *arguments, f'--out={out}', f'--parallel={parallel}'],
    cwd=ROOT,
    start_new_session=True,
    # The two sweeps compile the same programs.
    env={**os.environ, 'JAX_COMPILATION_CACHE_DIR': str(folder / 'compiled')},
  )


def finish(process: subprocess.Popen) -> None:
  """Waits for a sweep that must succeed."""
  if process.wait():
    sys.exit(f'The sweep ended with exit code {process.returncode}.')


def steps_of(out: Path) -> dict[Path, int]:
  """The newest checkpoint of every run that has one."""
  newest = {folder: checkpoint.latest_step(folder) for folder in sorted(out.glob('*/seed?'))}
  return {folder: step for folder, step in newest.items() if step is not None}


def kill_half_way(process: subprocess.Popen, out: Path, steps: int) -> dict[Path, int]:
  """Kills the sweep and its runs; the step of every run that has a checkpoint."""
  while process.poll() is None:
    found = steps_of(out)
    finished = sum(step == steps for step in found.values())
    if finished >= FINISHED_BEFORE and any(step < steps for step in found.values()):
      children = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
      for group in (process.pid, *map(int, children)):
        os.killpg(group, signal.SIGKILL)
      process.wait()
      return steps_of(out)
    time.sleep(_POLL_SECONDS)
  sys.exit('The sweep ended before it could be killed: give it more --steps.')


def files_of(folder: Path) -> dict[Path, int]:
  """When each file of a run, and its log, was last written, in nanoseconds."""
  files = [*folder.rglob('*'), folder.with_suffix('.log')]
  # The lock is only looked at, which leaves it as it is.
  return {file: file.stat().st_mtime_ns for file in files if file.is_file()}


def main() -> None:
  """Trains twice and compares."""
  steps, parallel = _STEPS.value, _PARALLEL.value
  with tempfile.TemporaryDirectory(prefix='tubelet-sweep-') as name:
    folder = Path(name)
    demo.write(folder / 'data', seed=0, train=64, test=16)
    (folder / 'sweep.py').write_text(_DESCRIPTION)
    whole, broken = folder / 'undisturbed', folder / 'killed'
    finish(start(folder, whole, steps, parallel))
    at = kill_half_way(start(folder, broken, steps, parallel), broken, steps)
    done = [run for run, step in at.items() if step == steps]
    cut = {f'{run.parent.name}/{run.name}': step for run, step in at.items() if step < steps}
    before = {run: files_of(run) for run in done}
    print(f'\nKilled with {len(done)} of {RUNS} runs finished, others at step {cut}.\n', flush=True)
    finish(start(folder, broken, steps, parallel))
    repeated = [run for run in done if files_of(run) != before[run]]
    same = (whole / 'results.csv').read_bytes() == (broken / 'results.csv').read_bytes()
  print(
    f'\nfinished runs repeated   {len(repeated)} of {len(done)}\n'
    f'results.csv              {"equal byte for byte" if same else "DIFFERENT"}'
  )
  if repeated or not same:
    sys.exit(1)


if __name__ == '__main__':
  command.run(main)
