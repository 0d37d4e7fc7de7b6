"""Pools of workers: any number gives the same bytes, and whoever is killed, the build goes on."""

import dataclasses
import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from datasets import build, records, workers
from errors import DataError
from tests.datasets.test_build import hashes, make_plan, run_here, video_root

__all__ = ['video_root']
ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 120


def test_processes_write_the_same_bytes_as_this_process(tmp_path, video_root):
  build.build(make_plan(tmp_path / 'here', video_root), run_here)
  two = functools.partial(workers.run_processes, workers=2)
  build.build(make_plan(tmp_path / 'two', video_root), two)
  assert hashes(tmp_path / 'here') == hashes(tmp_path / 'two')
  manifests = [(tmp_path / name / 'manifest.json').read_text() for name in ('here', 'two')]
  assert manifests[0] == manifests[1]


def test_an_error_inside_a_worker_reaches_the_caller(tmp_path, video_root):
  plan = make_plan(tmp_path, video_root)

  def run(plan, tasks):
    broken = dataclasses.replace(tasks[1], folder=str(tmp_path / 'nowhere'))
    workers.run_processes(plan, [tasks[0], broken], workers=1)

  with pytest.raises(DataError, match=r'nowhere.*cannot be written'):
    build.build(plan, run)
  assert plan.tasks[0].facts()['examples'] > 0


# Builds in a process of its own; its worker, which imports this file too, waits in one row until
# the file `go` is there.
SCRIPT = """
import signal, sys, time
from pathlib import Path
from datasets import build, workers
from errors import DataError
from tests.datasets.test_build import make_plan

convert_row = build.convert_row

def slow(row, settings):
  while row.number == 10 and not Path(sys.argv[3]).exists():
    time.sleep(0.02)
  return convert_row(row, settings)

build.convert_row = slow

if __name__ == '__main__':
  # A test run started in the background may ignore SIGINT, and children inherit that.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    build.build(
      make_plan(sys.argv[1], sys.argv[2], shards=6),
      lambda plan, tasks: workers.run_processes(plan, tasks, workers=1),
    )
  except DataError as error:
    sys.exit(str(error))
"""


class Building:
  """A build in a process group of its own that comes to wait after some shards."""

  def __init__(self, tmp_path, video_root):
    self.directory = tmp_path / 'out'
    self.go = tmp_path / 'go'
    self._command = [sys.executable, tmp_path / 'script.py', self.directory, video_root, self.go]
    (tmp_path / 'script.py').write_text(SCRIPT)
    self.plan = make_plan(self.directory, video_root, shards=6)

  def start(self):
    self.process = subprocess.Popen(
      self._command,
      env={**os.environ, 'PYTHONPATH': str(ROOT)},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      start_new_session=True,
    )
    return self

  def wait_until_stuck(self):
    """Waits until the slow row, the second of the fifth shard, is under way."""
    current = self.plan.tasks[4].current
    wait_for(lambda: current.exists() and current.read_text() == 'v 8 ü.mp4')

  @property
  def folder(self):
    return self.plan.folder

  def members(self):
    """Processes of the group that live, and are no zombies: {pid: command line}."""
    found = {}
    for folder in Path('/proc').glob('[0-9]*'):
      try:
        state, _, group = (folder / 'stat').read_text().rpartition(')')[2].split()[:3]
        if int(group) == self.process.pid and state != 'Z':
          found[int(folder.name)] = (folder / 'cmdline').read_text()
      except (FileNotFoundError, ProcessLookupError):
        continue
    return found

  def end(self):
    """Output and exit code, once every process is gone."""
    output = self.process.communicate(timeout=PATIENCE_SECONDS)[0]
    wait_for(lambda: not self.members())
    return output, self.process.returncode


def wait_for(condition):
  deadline = time.monotonic() + PATIENCE_SECONDS
  while not condition():
    assert time.monotonic() < deadline, 'waited in vain'
    time.sleep(0.02)


@pytest.fixture
def building(tmp_path, video_root):
  made = Building(tmp_path, video_root)
  yield made.start()
  if made.members():
    os.killpg(made.process.pid, signal.SIGKILL)


def check_that_it_goes_on(building, video_root, tmp_path, shards=(4,)):
  """What has a shard's name is whole; the same command ends as if nothing had happened."""
  kept = {}
  for task in building.plan.tasks:
    path = building.directory / task.name
    if path.exists():
      assert len(list(records.read_records(path))) == task.facts()['examples']
      kept[path] = path.stat().st_mtime_ns
  assert len(kept) in shards
  assert not (building.directory / 'manifest.json').exists()
  building.go.touch()
  output, code = building.start().end()
  assert code == 0, output
  assert all(path.stat().st_mtime_ns == written for path, written in kept.items())
  build.build(make_plan(tmp_path / 'whole', video_root, shards=6), run_here)
  assert hashes(building.directory) == hashes(tmp_path / 'whole')
  assert not building.folder.exists()


def test_a_killed_build_leaves_no_process_and_goes_on(building, video_root, tmp_path):
  building.wait_until_stuck()
  os.kill(building.process.pid, signal.SIGKILL)
  building.end()
  check_that_it_goes_on(building, video_root, tmp_path)


def test_a_killed_worker_is_an_error_that_names_the_videos(building, video_root, tmp_path):
  building.wait_until_stuck()
  worker = next(pid for pid, command in building.members().items() if 'spawn_main' in command)
  os.kill(worker, signal.SIGKILL)
  output, code = building.end()
  assert code == 1
  assert 'a worker process was ended by the system' in output
  assert 'v 8 ü.mp4' in output
  assert 'Traceback' not in output
  check_that_it_goes_on(building, video_root, tmp_path)


def test_an_interrupted_build_ends_cleanly_and_goes_on(building, video_root, tmp_path):
  building.wait_until_stuck()
  os.killpg(building.process.pid, signal.SIGINT)
  building.go.touch()
  output, code = building.end()
  assert code in (-signal.SIGINT, 1)
  assert output.count('Traceback') <= 2  # the script's own: workers stay silent
  assert 'KeyboardInterrupt' in output
  assert not list(building.folder.glob('.*.tmp'))
  # The worker may end the shard it is at before the interrupted parent ends the worker.
  check_that_it_goes_on(building, video_root, tmp_path, shards=(4, 5))
