"""Runs a sweep: many runs of main.py from one description, and a table of what came of them.

  python -m tools.sweep --config=configs/vivit/demo.py --sweep=sweeps/lr.py --out=runs/lr --seeds=2
  python -m tools.sweep --config=configs/vivit/demo.py --sweep=sweeps/lr.py --out=runs/lr --dry_run
  python -m tools.sweep --config=... --sweep=... --out=... --launcher=slurm --slurm=partition=gpu,gpus_per_node=8

--sweep names a file with `sweep(add)`, see train_lib/sweep.py; without it the config file has one. Every
--config.KEY=VALUE holds for all runs, and a mistake in any of them is found before the first one starts.

The same command goes on with an interrupted sweep: runs that have finished are not repeated, interrupted
ones continue from their checkpoints, failed ones are tried again. A run that fails is listed with its
error and its log; the others go on. Ends with OUT/results.md, results.csv and pictures; --report makes
these from what is there.

Exit code 75 means: interrupted, start the same command again.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import config_flags

from errors import ConfigError, PreemptedError, SweepError
from tools import command

if TYPE_CHECKING:
  from train_lib.sweep import Description
  from train_lib.sweep_runs import Run

config_flags.DEFINE_config_file(
  'config',
  None,
  'Config of rows that name none; --config.KEY=VALUE holds for every run.',
  allow_override=True,
)
_SWEEP = flags.DEFINE_string(
  'sweep', None, 'FILE.py or FILE.py:ARGUMENT with `sweep(add)`.', allow_override=True
)
_OUT = flags.DEFINE_string(
  'out', None, 'Folder of the runs and results.', required=True, allow_override=True
)
_DATA = flags.DEFINE_string(
  'data', None, "Folder of the sweep file's own data.", allow_override=True
)
_SEEDS = flags.DEFINE_integer(
  'seeds', None, 'Runs of every row, with seeds from 0 on.', 1, allow_override=True
)
_LAUNCHER = flags.DEFINE_enum(
  'launcher', 'local', ['local', 'slurm', 'xmanager'], 'What runs them.', allow_override=True
)
_PARALLEL = flags.DEFINE_integer('parallel', 1, 'Runs beside each other.', 1, allow_override=True)
_SLURM = flags.DEFINE_list(
  'slurm',
  [],
  "Of each job, in submitit's names: partition=gpu,timeout_min=60,gpus_per_node=8. cluster=debug or "
  'local runs without Slurm.',
  allow_override=True,
)
_DRY_RUN = flags.DEFINE_bool(
  'dry_run', False, 'Print the commands, start and write nothing.', allow_override=True
)
_REPORT = flags.DEFINE_bool(
  'report', False, 'Only make the results of what is there.', allow_override=True
)


def resolve(path: str, overrides: Mapping[str, str]) -> dict[str, Any]:
  """The config that main.py gets.

  Raises:
    ConfigError: A key does not exist, or a value does not fit.
  """
  from train_lib import experiment

  config = command.load_config(path, overrides)
  experiment.parse(config)
  resolved: dict[str, Any] = json.loads(experiment.to_json(config))
  return resolved


def main() -> None:
  """Plans, runs and reports."""
  from train_lib import sweep, sweep_runs

  given = dict(command.config_flags_given(sys.argv[1:]))
  config = given.pop('config', None)
  source = _SWEEP.value or (config or '').partition(':')[0]
  if not source:
    raise ConfigError(
      '--sweep is missing: name a file with `sweep(add)`, or a --config that has one.'
    )
  description = sweep.load(source)
  out = Path(_OUT.value)
  data = Path(_DATA.value) if _DATA.value else description.data
  runs = sweep_runs.plan(
    description,
    out,
    resolve,
    config=config,
    common={key.removeprefix('config.'): value for key, value in given.items()},
    seeds=range(_SEEDS.value) if _SEEDS.value else None,
    data=data,
  )
  if _DRY_RUN.value:
    print('\n'.join(run.command() for run in runs) + f'\n# {len(runs)} runs in {out}')
    return
  sweep_runs.check_unchanged(runs)
  states = {} if _REPORT.value else _launch(runs, out, description, data)
  report(runs, out, description, states)


def _launch(
  runs: 'Sequence[Run]', out: Path, description: 'Description', data: Path
) -> dict[Path, tuple[str, str]]:
  """Runs what has not finished; the states of all."""
  from train_lib import (
    sweep_display,
    sweep_local,
    sweep_runs,
    sweep_slurm,
    sweep_states,
    sweep_xmanager,
  )

  for folder in sweep_runs.gone(runs, out):
    print(f'{folder} is not in the sweep any more: it stays, and is not in the results.')
  if description.prepare:
    description.prepare(data)
  sweep_runs.record(runs, out, description.source)
  if _LAUNCHER.value != 'local':
    finished = {run.workdir for run in runs if sweep_states.look(run).finished}
    if _LAUNCHER.value == 'xmanager':
      return sweep_xmanager.run_all(runs, finished, out, _PARALLEL.value)
    options = sweep_slurm.parameters(_SLURM.value)
    return sweep_slurm.run_all(runs, finished, out, _PARALLEL.value, options)
  with sweep_display.Display() as display:
    jobs = sweep_local.run_all(runs, out, _PARALLEL.value, display.show)
  return {job.run.workdir: (job.state, job.why) for job in jobs}


def report(
  runs: 'Sequence[Run]',
  out: Path,
  description: 'Description',
  states: Mapping[Path, tuple[str, str]],
) -> None:
  """Writes the results and prints them.

  Raises:
    SweepError: Runs have failed; lists them.
    PreemptedError: Runs were interrupted, and none has failed.
    ConfigError: The description's metrics or claims are about nothing that there is.
  """
  from train_lib import sweep_charts
  from train_lib import sweep_results as lib

  results = lib.collect(runs, description, states)
  out.mkdir(parents=True, exist_ok=True)
  lib.write_rows(out / lib.ROWS, results, out)
  metrics = lib.metrics_shown(results, description)
  lib.check_metrics(results, metrics)
  tables = lib.groups(results)
  claims = lib.verdicts(tables, metrics, description.claims)
  pictures = [lib.picture_of(out, table) for table in tables]
  for table, picture in zip(tables, pictures):
    sweep_charts.chart_png(picture, table, metrics)
    title = [f'\n{table.title}'] if table.title else []
    print('\n'.join([*title, '', lib.text_table(lib.cells(table, metrics))]))
  lib.write_tables(out / lib.TABLE, tables, metrics, claims, pictures)
  files = [out / lib.TABLE, out / lib.ROWS, *pictures]
  print('\n' + '\n'.join([*claims, '', *(f'  results       {file}' for file in files)]), flush=True)
  _check_all_finished(results)


def _check_all_finished(results: 'Sequence[Any]') -> None:
  from train_lib.sweep_states import FAILED, FINISHED, SKIPPED

  bad = [result for result in results if result.state != FINISHED]
  if not bad or _REPORT.value:
    return
  lines = [
    f'{result.run.title} {result.state}{f": {result.why}" if result.why else ""}'
    + (f' ({result.run.log})' if result.state == FAILED else '')
    for result in bad
  ]
  failed = any(result.state in (FAILED, SKIPPED) for result in bad)
  raise (SweepError if failed else PreemptedError)(
    f'{len(bad)} of {len(results)} runs have not finished:\n  '
    + '\n  '.join(lines)
    + '\nThe same command tries them again and repeats none that has finished.'
  )


if __name__ == '__main__':
  command.run(main, interrupted='The same command goes on: what is finished is not repeated.')
