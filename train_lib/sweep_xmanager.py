"""Runs of a sweep as work units of an XManager experiment."""

import asyncio
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from errors import ConfigError
from train_lib.sweep_runs import Run

MAIN = 'main.py'


def specification(executor: Any) -> Any:
  """What is run, an `xm.Packageable`: this Python, which needs no packaging, of this checkout.

  For an executor elsewhere, such as `xm_local.Vertex`, package `xm.python_container` of the checkout
  instead and give it to `launch`.

  Args:
    executor: An `xm.Executor`.
  """
  xm, _ = _packages()
  return xm.binary(executor_spec=executor.Spec(), path=sys.executable)


def job(run: Run, executable: Any, executor: Any, main: str = MAIN) -> Any:
  """A run as an `xm.Job`.

  Args:
    run: It.
    executable: Of `Experiment.package`.
    executor: An `xm.Executor`.
    main: The program.
  """
  xm, _ = _packages()
  return xm.Job(
    executable=executable,
    executor=executor,
    name=f'{run.workdir.parent.name}-{run.workdir.name}',
    args=[os.path.abspath(main), *run.arguments()],
  )


async def launch(
  runs: Sequence[Run],
  finished: Collection[Path],
  parallel: int,
  experiment: Any,
  executable: Any,
  executor: Any,
  main: str = MAIN,
) -> dict[Path, tuple[str, str]]:
  """Adds a work unit for each run that has not finished, and waits for them: `parallel` at a time, and
  none before those that it waits for have completed.

  Args:
    runs: Of the sweep, none before the ones that it waits for.
    finished: Folders of those that are not to be run.
    parallel: How many run at a time.
    experiment: An `xm.Experiment` that has been entered.
    executable: Of its `package`.
    executor: An `xm.Executor`.
    main: The program.

  Returns:
    Folder of every run that failed or was skipped -> its state and why.
  """
  xm, _ = _packages()
  free = asyncio.Semaphore(parallel)
  tasks: dict[Path, asyncio.Task[None]] = {}
  bad: dict[Path, tuple[str, str]] = {}

  async def one(run: Run) -> None:
    for path in run.after:
      if path in tasks:
        await tasks[path]
      if path in bad:
        bad[run.workdir] = ('skipped', f'{path} {bad[path][0]}')
        return
    async with free:
      unit = await experiment.add(job(run, executable, executor, main))
      try:
        await unit.wait_until_complete()
      except xm.ExperimentUnitError as error:
        bad[run.workdir] = ('failed', str(error))

  for run in runs:
    if run.workdir not in finished:
      run.workdir.parent.mkdir(parents=True, exist_ok=True)
      tasks[run.workdir] = asyncio.create_task(one(run))
  await asyncio.gather(*tasks.values())
  return bad


def run_all(
  runs: Sequence[Run], finished: Collection[Path], out: Path, parallel: int, main: str = MAIN
) -> dict[Path, tuple[str, str]]:
  """Runs what has not finished as an experiment on this machine, and waits; as `launch`.

  Raises:
    ConfigError: xmanager is not installed.
  """
  _, xm_local = _packages()

  async def run() -> dict[Path, tuple[str, str]]:
    executor = xm_local.Local()
    bad: dict[Path, tuple[str, str]] = {}
    try:
      async with xm_local.create_experiment(experiment_title=out.name) as experiment:
        (executable,) = experiment.package([specification(executor)])
        bad |= await launch(runs, finished, parallel, experiment, executable, executor, main)
    except RuntimeError:  # On leaving, of a job whose failure has been noted.
      if not bad:
        raise
    return bad

  return asyncio.run(run())


def _packages() -> tuple[Any, Any]:
  try:
    from xmanager import xm, xm_local
  except ModuleNotFoundError as error:
    raise ConfigError('--launcher=xmanager needs xmanager: pip install xmanager') from error
  return xm, xm_local
