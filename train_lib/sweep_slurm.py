"""Runs of a sweep as Slurm jobs, through `submitit`."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from errors import ConfigError, PreemptedError, SweepError
from train_lib.sweep_runs import Run

MAIN = (sys.executable, 'main.py')
FOLDER = 'slurm'
"""In the sweep's folder, submitit's own files and its jobs' output."""

# Names of submitit that it gives to any cluster; the others are Slurm's alone.
_COMMON = (
  'name', 'timeout_min', 'mem_gb', 'nodes', 'cpus_per_task', 'gpus_per_node', 'tasks_per_node'
)  # fmt: skip
_POLL_SECONDS = 1.0


def parameters(items: Sequence[str]) -> dict[str, Any]:
  """Reads `['partition=gpu', 'timeout_min=60']`; whole numbers become numbers.

  Raises:
    ConfigError: An item is not of the form `name=value`.
  """
  values: dict[str, Any] = {}
  for item in items:
    name, equals, value = item.partition('=')
    if not equals or not name:
      raise ConfigError(f'--slurm: expected name=value,name=value, got {item!r}.')
    values[name] = int(value) if value.isdecimal() else value
  return values


class MainJob:
  """What a job does: `main.py`, whose output goes to the run's log as with any launcher.

  Preempted or about to run out of time, the job's Python is told by a signal; submitit then calls
  `checkpoint`, which lets `main.py` save, and puts the job back into the queue.

  Args:
    arguments: The program and its arguments.
    log: Its log.
  """

  def __init__(self, arguments: Sequence[str], log: Path):
    self.arguments = tuple(arguments)
    self.log = log
    self._pid = 0

  def __call__(self) -> None:
    """Runs it to its end; where it was asked to stop and this job was not ended, goes on.

    Raises:
      SweepError: It failed.
    """
    code = PreemptedError.exit_code
    while code == PreemptedError.exit_code:
      code = self._run()
    if code:
      raise SweepError(f'main.py ended with exit code {code}: see {self.log}')

  def _run(self) -> int:
    rank = os.environ.get('SLURM_PROCID', '0')  # Of a run on several hosts, the first one speaks.
    log = self.log if rank == '0' else self.log.with_suffix(f'.{rank}.log')
    with log.open('ab') as file:
      process = subprocess.Popen(self.arguments, stdout=file, stderr=subprocess.STDOUT)
    self._pid = process.pid
    code = process.wait()
    self._pid = 0
    return code

  def checkpoint(self) -> Any:
    """Has `main.py` save and end; returns what submitit puts into the queue again."""
    from submitit.helpers import DelayedSubmission

    if self._pid:
      with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(self._pid, signal.SIGTERM)
        # Not `wait`: that is where the signal has interrupted this process.
        os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
    return DelayedSubmission(MainJob(self.arguments, self.log))


def run_all(
  runs: Sequence[Run],
  finished: Collection[Path],
  out: Path,
  parallel: int,
  options: Mapping[str, Any],
  main: Sequence[str] = MAIN,
) -> dict[Path, tuple[str, str]]:
  """Submits what has not finished, one job a run, and waits for the jobs.

  Runs that wait for none are one job array of at most `parallel` at a time; a run that waits for others
  is a job with their ids as `afterok`, which Slurm cancels if one of them fails.

  Args:
    runs: Of the sweep, none before the ones that it waits for.
    finished: Folders of those that are not to be run.
    out: Its folder, which all nodes see.
    parallel: How many of the array run at a time.
    options: As `parameters` reads them; `cluster` may be 'local' or 'debug', which need no Slurm.
    main: The program and its first arguments.

  Returns:
    Folder of every run that has not finished -> its state and why.

  Raises:
    ConfigError: submitit is not installed, Slurm is not there, or an option is not known.
  """
  waiting = [run for run in runs if run.workdir not in finished]
  jobs: dict[Path, Any] = {}
  executor = _executor(out, parallel, options)
  for run in waiting:
    run.workdir.parent.mkdir(parents=True, exist_ok=True)
  first = [run for run in waiting if not set(run.after) - set(finished)]
  with executor.batch():
    for run in first:
      jobs[run.workdir] = executor.submit(MainJob([*main, *run.arguments()], run.log))
  for run in waiting:
    if run.workdir not in jobs:
      needed = [jobs[path].job_id for path in run.after if path not in finished]
      if executor.cluster == 'slurm':
        executor.update_parameters(slurm_dependency=f'afterok:{":".join(needed)}')
      else:  # Nothing else knows of dependencies.
        _wait({path: jobs[path] for path in run.after if path in jobs})
      jobs[run.workdir] = executor.submit(MainJob([*main, *run.arguments()], run.log))
  print(f'{len(jobs)} jobs, output in {out / FOLDER}. Ctrl-C leaves them in the queue.', flush=True)
  return _wait(jobs)


def _executor(out: Path, parallel: int, options: Mapping[str, Any]) -> Any:
  try:
    import submitit
  except ModuleNotFoundError as error:
    raise ConfigError('--launcher=slurm needs submitit: pip install submitit') from error
  given = dict(options)
  cluster = given.pop('cluster', 'slurm')
  shared = {k: given.pop(k) for k in _COMMON if k in given}
  slurm = {
    'array_parallelism': parallel,
    'additional_parameters': {'kill-on-invalid-dep': 'yes'},
    **given,
  }
  try:
    executor = submitit.AutoExecutor(folder=out / FOLDER / '%j', cluster=cluster)
    executor.update_parameters(**shared, **{f'slurm_{k}': v for k, v in slurm.items()})
  except (RuntimeError, ValueError, NameError, TypeError) as error:
    raise ConfigError(f'--slurm={dict(options)}: {error}') from error
  return executor


def _wait(jobs: Mapping[Path, Any]) -> dict[Path, tuple[str, str]]:
  """Waits for jobs; folder -> state and why, of those that failed."""
  left, failed = dict(jobs), {}
  while left:
    for path, job in list(left.items()):
      if not job.done():
        continue
      del left[path]
      error = job.exception()
      print(f'job {job.job_id} of {path}: {"failed" if error else "done"}', flush=True)
      if error:
        # submitit quotes the job's traceback, and adds where its files are.
        named = [line.strip() for line in str(error).splitlines() if 'Error: ' in line]
        failed[path] = ('failed', named[-1] if named else str(error))
    if left:
      time.sleep(_POLL_SECONDS)
  return failed
