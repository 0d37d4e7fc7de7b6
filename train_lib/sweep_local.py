"""Runs of a sweep as processes on this machine: some beside each other, in order, resumable."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Self

from errors import PreemptedError
from train_lib.compilation_cache import FOLDER as CACHE
from train_lib.sweep_runs import Run
from train_lib.sweep_slots import Slot, slots
from train_lib.sweep_states import (
  FAILED,
  FINISHED,
  INTERRUPTED,
  QUEUED,
  RUNNING,
  SKIPPED,
  Found,
  LogTail,
  Seen,
  look,
)
from train_lib.workdir_lock import holder

MAIN = (sys.executable, 'main.py')
_POLL_SECONDS = 0.2
_PARENT_DIED = 1  # PR_SET_PDEATHSIG of prctl(2)


class Job:
  """A run and how it is going.

  Attributes:
    run: What it is.
    state: One of the names in `sweep_states`.
    why: Of a run that failed, was skipped or waits.
    seen: What it has printed.
    before: Whether it had finished before this sweep was started.
  """

  def __init__(self, run: Run, found: Found):
    self.run = run
    self.state = FINISHED if found.finished else QUEUED
    self.before = found.finished
    self.why = ''
    self.seen = Seen(step=found.step, total=found.step if found.finished else 0)
    self.slot: Slot | None = None
    self._process: subprocess.Popen[bytes] | None = None
    self._tail: LogTail | None = None
    self._begin = self._end = 0.0

  @property
  def seconds(self) -> float:
    """Wall time of this attempt."""
    return (time.monotonic() if self.state == RUNNING else self._end) - self._begin

  def start(self, main: Sequence[str], slot: Slot, environment: Mapping[str, str]) -> None:
    """Starts the process, in a session of its own: Ctrl-C in the terminal is for the sweep alone."""
    run = self.run
    run.workdir.parent.mkdir(parents=True, exist_ok=True)
    with run.log.open('ab') as log:
      log.write(f'$ {run.command()}\n'.encode())
      log.flush()
      self._tail = LogTail(run.log)
      self._process = subprocess.Popen(
        [*main, *run.arguments()],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**environment, **slot.environment},
        preexec_fn=_follow(slot),
      )
    self.slot, self.state, self.why = slot, RUNNING, ''
    self._begin = time.monotonic()

  def poll(self, stopping: bool) -> None:
    """Reads what it has printed, and how it ended if it did."""
    assert self._process is not None and self._tail is not None
    code = self._process.poll()
    self.seen.read(self._tail.lines())
    if code is None:
      return
    self._end, self.slot = time.monotonic(), None
    asked = code == PreemptedError.exit_code or (stopping and code < 0)
    if code == 0 and look(self.run).finished:
      self.state = FINISHED
    elif asked:
      self.state, self.why = INTERRUPTED, 'the same sweep goes on with it'
    else:
      self.state, self.why = FAILED, self._error(code)

  def _error(self, code: int) -> str:
    if self.seen.error:
      return self.seen.error
    if code < 0:
      name = signal.Signals(-code).name
      return f'ended by {name}' + (': out of memory?' if code == -signal.SIGKILL else '')
    assert self._tail is not None
    return f'exit code {code}: {self._tail.last or "it printed nothing"}'

  def stop(self, kill: bool) -> None:
    """Asks the process to save and stop, or ends it and what it has started."""
    if self.state != RUNNING or self._process is None or self._process.poll() is not None:
      return
    if kill:
      os.killpg(self._process.pid, signal.SIGKILL)
    else:
      self._process.send_signal(signal.SIGTERM)


def run_all(
  runs: Sequence[Run],
  out: Path,
  parallel: int,
  show: Callable[[Sequence[Job]], None],
  main: Sequence[str] = MAIN,
) -> list[Job]:
  """Runs what has not finished, as many beside each other as asked, and waits.

  Ctrl-C or SIGTERM once: the runs save and stop, and nothing new is started; twice: they are killed.
  If this process is killed, its runs save and stop too (Linux). A run that another process is training
  is waited for. All runs share the compiled programs in OUT/compilation_cache.

  Args:
    runs: Of the sweep, none before the ones that it waits for.
    out: Its folder.
    parallel: How many run beside each other.
    show: Called again and again with all jobs.
    main: The program and its first arguments.

  Raises:
    KeyboardInterrupt: Ctrl-C was pressed; the runs have ended.
    PreemptedError: SIGTERM was received; the runs have ended.
  """
  jobs = {run.workdir: Job(run, look(run)) for run in runs}
  free = slots(parallel)
  environment = {'JAX_COMPILATION_CACHE_DIR': str(out.absolute() / CACHE), **os.environ}
  with _Signals() as signals:
    while True:
      running = [job for job in jobs.values() if job.state == RUNNING]
      for job in running:
        signals.forward(job)
        slot = job.slot
        job.poll(signals.received)
        if job.state != RUNNING and slot is not None:
          free.append(slot)
      _skip(jobs)
      ready = [] if signals.received else _ready(jobs)
      for job in ready:
        if free and not _held(job):
          job.start(main, free.pop(0), environment)
      show(list(jobs.values()))
      if not ready and not any(job.state == RUNNING for job in jobs.values()):
        break
      time.sleep(_POLL_SECONDS)
  signals.raise_received()
  return list(jobs.values())


def _ready(jobs: Mapping[Path, Job]) -> list[Job]:
  return [
    job
    for job in jobs.values()
    if job.state == QUEUED and all(jobs[path].state == FINISHED for path in job.run.after)
  ]


def _skip(jobs: Mapping[Path, Job]) -> None:
  """Gives up the runs that wait for one that failed or was given up itself."""
  for job in jobs.values():
    if job.state == QUEUED:
      for path in job.run.after:
        if jobs[path].state in (FAILED, SKIPPED):
          job.state, job.why = SKIPPED, f'{jobs[path].run.title} {jobs[path].state}'


def _held(job: Job) -> bool:
  """Whether another process trains in the run's folder, such as one that a killed sweep has left."""
  who = holder(job.run.workdir)
  job.why = f'waits for {who}' if who else ''
  return bool(who)


def _follow(slot: Slot) -> Callable[[], None]:
  """What a child does before it becomes `main.py`: it keeps to its cores, and ends with this process."""
  prctl = ctypes.CDLL(None).prctl if sys.platform == 'linux' else None

  def prepare() -> None:
    if slot.cores:
      os.sched_setaffinity(0, slot.cores)
    if prctl is not None:
      prctl(_PARENT_DIED, signal.SIGTERM)

  return prepare


class _Signals:
  """SIGINT and SIGTERM while runs are under way."""

  def __init__(self) -> None:
    self._received: list[int] = []
    self._forwarded: dict[int, int] = {}
    self._previous: dict[int, Any] = {}

  @property
  def received(self) -> bool:
    return bool(self._received)

  def __enter__(self) -> Self:
    # Python runs signal handlers in the main thread only; elsewhere they keep their meaning.
    main = threading.current_thread() is threading.main_thread()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if main else ():
      self._previous[signum] = signal.signal(signum, self._on_signal)
    return self

  def __exit__(self, *_: object) -> None:
    for signum, handler in self._previous.items():
      signal.signal(signum, handler)

  def _on_signal(self, signum: int, frame: FrameType | None) -> None:
    del frame
    self._received.append(signum)

  def forward(self, job: Job) -> None:
    """Tells a run once of the first signal and once of the second."""
    told = self._forwarded.get(id(job), 0)
    if told < min(2, len(self._received)):
      self._forwarded[id(job)] = told + 1
      job.stop(kill=told == 1)

  def raise_received(self) -> None:
    """Raises what the first signal means."""
    if not self._received:
      return
    if self._received[0] == signal.SIGINT:
      raise KeyboardInterrupt
    raise PreemptedError('Asked to stop: the runs have saved. The same command goes on from there.')
