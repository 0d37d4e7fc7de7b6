"""Kills a training run again and again; it must end as an undisturbed one does, bit for bit.

  python -m benchmarks.kill_resume --kills=20
  python -m benchmarks.kill_resume --kills=5 --seed=3 --workers=1

A tiny ViViT trains on demo data in processes of `main.py`, first undisturbed, then under SIGKILL at
seeded points: before its first step, between steps, during a save, within an evaluation. After the
last kill it runs to its end. What is compared: the examples, the losses and the evaluation of every
step, and a hash of the final parameters. A kill that leaves a process behind is an error, too. Exits
with 1 if anything differs.
"""

import collections
import dataclasses
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags
from rich.progress import track

from benchmarks.tiny_run import OVERRIDES
from datasets import demo
from tools import command
from train_lib import checkpoint, json_lines
from train_lib.weight_files import flatten

_KILLS = flags.DEFINE_integer('kills', 20, 'How often the run is killed.', allow_override=True)
_SEED = flags.DEFINE_integer('seed', 0, 'Of the points at which it is killed.', allow_override=True)
_WORKERS = flags.DEFINE_integer(
  'workers', 0, 'Worker processes that make its batches.', allow_override=True
)

ROOT = Path(__file__).parents[1]
EVALUATE_EVERY, SAVE_EVERY, STEPS_PER_KILL = 10, 4, 12
AIMS = ('start', 'step', 'save', 'evaluation')
_POLL_SECONDS = 0.001
_PATIENCE_SECONDS = 600


@dataclasses.dataclass(frozen=True)
class Run:
  """A training run in processes of `main.py`.

  Attributes:
    data: Folder of demo data.
    workdir: Its folder.
    cache: Folder of compiled programs.
    steps: Its length.
    workers: Worker processes that make batches.
  """

  data: Path
  workdir: Path
  cache: Path
  steps: int
  workers: int = 0

  def start(self) -> subprocess.Popen:
    """Starts or restarts it, in a process group of its own."""
    config = {
      **OVERRIDES,
      'datasets.demo.dir': self.data,
      'duration': f'{self.steps} steps',
      'log_every': '1 step',
      'log_examples': True,
      'loader_processes': self.workers,
      'evaluation.every': f'{EVALUATE_EVERY} steps',
      'checkpoint.every': f'{SAVE_EVERY} steps',
    }
    arguments = [f'--config.{key}={value}' for key, value in config.items()]
    arguments += [f'--workdir={self.workdir}', f'--compilation_cache={self.cache}']
    with (self.workdir.parent / 'output.txt').open('a') as output:
      return subprocess.Popen(
        [sys.executable, 'main.py', '--config=configs/vivit/demo.py', *arguments],
        cwd=ROOT,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
      )

  def finish(self) -> None:
    """Starts it and waits for its end."""
    process = self.start()
    if process.wait():
      log = (self.workdir.parent / 'output.txt').read_text()[-2000:]
      sys.exit(f'The run ended with exit code {process.returncode}:\n{log}')

  def lines(self) -> list[dict[str, Any]]:
    """What it has logged; it may be writing the last line."""
    file = self.workdir / 'metrics.jsonl'
    return json_lines.read(file) if file.exists() else []

  def logged_since(self, moment: float) -> bool:
    """Whether it has written to its log since, in seconds since the epoch."""
    file = self.workdir / 'metrics.jsonl'
    return file.exists() and file.stat().st_mtime > moment

  def saving(self) -> bool:
    """Whether a checkpoint is being written, or its process was killed while it was."""
    folder = self.workdir / checkpoint.FOLDER
    return any(folder.glob('*.orbax-checkpoint-tmp*'))

  def evaluating(self) -> bool:
    """Whether the last thing it has logged is a step after which it evaluates."""
    last = self.lines()[-1:]
    return bool(last) and last[0]['step'] % EVALUATE_EVERY == 0 and 'train/loss' in last[0]

  def results(self) -> dict[str, Any]:
    """What must be the same in every run of this length."""
    timed = ('time', 'train/clips_per_second')
    metrics = [
      (row['step'], name, value)
      for row in self.lines()
      for name, value in row.items()
      if name not in timed and '/time/' not in name
    ]
    params = sorted(flatten(checkpoint.load_params(str(self.workdir))[0]).items())
    digest = hashlib.sha256(b''.join(name.encode() + array.tobytes() for name, array in params))
    return {
      'examples of every step': (self.workdir / 'examples.jsonl').read_text(),
      'losses of every step': [m for m in metrics if m[1].startswith('train/')],
      'evaluations': [m for m in metrics if m[1].startswith('eval/')],
      'final parameters': digest.hexdigest(),
    }


def kill_once(run: Run, aim: str, draw: random.Random, start_seconds: float) -> str:
  """Starts the run and kills it at a point of the kind of `aim`; returns where it was hit.

  Args:
    run: The run.
    aim: One of `AIMS`.
    draw: Draws the exact point.
    start_seconds: What the first start took until its first step; later ones need not compile.
  """
  goal = max((line['step'] for line in run.lines()), default=0) + draw.randint(1, STEPS_PER_KILL)
  resumed = checkpoint.latest_step(run.workdir) or 0
  begin, wait = time.time(), draw.uniform(0.01, 0.2) * start_seconds
  process = run.start()

  def moves() -> bool:  # What is there of the run before is no sign of this one.
    return run.logged_since(begin) and any(line['step'] > resumed for line in run.lines()[-2:])

  reached: dict[str, Callable[[], bool]] = {
    'start': lambda: time.time() - begin > wait or moves(),
    'step': lambda: moves() and run.lines()[-1]['step'] >= goal,
    'save': lambda: moves() and run.saving(),
    'evaluation': lambda: moves() and run.evaluating(),
  }
  while process.poll() is None and not reached[aim]():
    time.sleep(_POLL_SECONDS)
  if aim in ('step', 'evaluation'):
    time.sleep(draw.uniform(0, 0.02))
  process.send_signal(signal.SIGKILL)
  ended = process.wait()
  check_nothing_is_left(process.pid)
  if ended != -signal.SIGKILL:
    sys.exit(f'The run ended before it could be killed at: {aim}. Exit code: {ended}.')
  if not moves():
    return 'before its first step'
  if run.evaluating():
    return 'in an evaluation'
  return 'during a save' if run.saving() else 'in a step'


def check_nothing_is_left(group: int) -> None:
  """Waits for the processes of a killed run's group to end; an error if they do not."""
  deadline = time.monotonic() + _PATIENCE_SECONDS
  while time.monotonic() < deadline:
    try:
      os.killpg(group, 0)
    except ProcessLookupError:
      return
    time.sleep(_POLL_SECONDS)
  sys.exit(f'A killed run has left processes behind: process group {group}.')


def compare(undisturbed: Run, killed: Run) -> bool:
  """Prints what is equal; whether everything is."""
  expected, got = undisturbed.results(), killed.results()
  for name, value in expected.items():
    same = 'equal' if got[name] == value else 'DIFFERENT'
    count = '' if isinstance(value, str) else f', {len(value):,} values'
    shown = f', sha256 {value[:16]}' if name == 'final parameters' else ''
    print(f'{name:<24}{same}{count}{shown}')
  return got == expected


def main() -> None:
  """Runs both and compares."""
  kills, draw = _KILLS.value, random.Random(_SEED.value)
  hits: collections.Counter[str] = collections.Counter()
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    demo.write(folder / 'data', train=64, test=16)
    steps = STEPS_PER_KILL * (kills + 1)
    undisturbed = Run(folder / 'data', folder / 'undisturbed', folder / 'cache', steps)
    killed = dataclasses.replace(undisturbed, workdir=folder / 'killed', workers=_WORKERS.value)
    begin = time.time()
    undisturbed.finish()
    first = undisturbed.lines()[0]['time'] - begin
    for number in track(range(kills), 'kills', transient=True):
      hits[kill_once(killed, AIMS[number % len(AIMS)], draw, first)] += 1
    killed.finish()
    where = ', '.join(f'{count} {place}' for place, count in sorted(hits.items()))
    print(f'kills                   {hits.total()}: {where}')
    same = compare(undisturbed, killed)
  sys.exit(0 if same else 1)


if __name__ == '__main__':
  command.run(main)
