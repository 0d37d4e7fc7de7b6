"""The runs of a sweep: each with its resolved config, its folder and the command that makes it."""

import dataclasses
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from errors import ConfigError
from train_lib.config_changes import config_changes, describe
from train_lib.files import write_atomically
from train_lib.sweep import Description, Row, Sweep, folder_name, row_names

FILE = 'sweep.json'
LOG = '.log'
"""Beside a run's folder, what it prints."""

Resolve = Callable[[str, Mapping[str, str]], dict[str, Any]]
"""(config file with argument, key -> value as on a command line) -> the resolved config."""


@dataclasses.dataclass(frozen=True)
class Run:
  """One run of `main.py`.

  Attributes:
    name: Of its row.
    groups: Titles of the tables that it stands in.
    seed: Its seed.
    shown: Whether it stands in them.
    changes: Of its row: dotted key -> value.
    config: Config file with argument.
    overrides: Everything that is changed of it, as on a command line.
    resolved: The whole config.
    workdir: Its folder.
    after: Folders of the runs that must have finished before.
  """

  name: str
  groups: tuple[str, ...]
  seed: int
  shown: bool
  changes: Mapping[str, Any]
  config: str
  overrides: Mapping[str, str]
  resolved: Mapping[str, Any]
  workdir: Path
  after: tuple[Path, ...]

  @property
  def title(self) -> str:
    """For people."""
    return f'{self.name}, seed {self.seed}'

  @property
  def log(self) -> Path:
    """Where what it prints goes."""
    return self.workdir.with_name(self.workdir.name + LOG)

  def arguments(self) -> list[str]:
    """Of `main.py`."""
    changes = [f'--config.{key}={value}' for key, value in self.overrides.items()]
    return [f'--config={self.config}', f'--workdir={self.workdir}', *changes]

  def command(self) -> str:
    """To be copied into a shell."""
    return shlex.join(['python', 'main.py', *self.arguments()])


def plan(
  description: Description,
  out: Path,
  resolve: Resolve,
  *,
  config: str | None = None,
  common: Mapping[str, str] | None = None,
  seeds: Sequence[int] | None = None,
  data: Path | None = None,
) -> list[Run]:
  """The runs that a description asks for, those that others wait for first.

  Args:
    description: As loaded.
    out: Folder of the sweep.
    resolve: Applies changes to a config as `main.py` does, and checks it.
    config: Of rows that name none.
    common: Changes of every run, as on a command line.
    seeds: Of every row; None: what the rows say, or 0.
    data: Folder of the data; None: the description's.

  Raises:
    ConfigError: There is no row or no config, a key or value does not fit, a row waits for a seed that
      the other has not, or two runs are the same.
  """
  sweep = Sweep(data or description.data)
  description.rows(sweep)
  if not sweep.rows:
    raise ConfigError(f'{description.source}: sweep(add) adds nothing.')
  names = row_names(sweep.rows)
  folders = {row: _folder(out, row, name) for row, name in names.items()}
  of = {row: tuple(seeds or row.seeds or (0,)) for row in sweep.rows}
  runs = []
  for row, name in names.items():
    file = row.config or config
    if file is None:
      raise ConfigError(
        f'{description.source}: {name!r} names no config: give it one, or --config.'
      )
    for seed in of[row]:
      _check_seed(row, seed, names, of)
      after = tuple(folders[other] / f'seed{seed}' for other in row.after)
      start = {'init_from.path': folders[row.init_from] / f'seed{seed}'} if row.init_from else {}
      asked = {**row.changes, **start, 'seed': seed}
      overrides = {**(common or {}), **{key: _text(value) for key, value in asked.items()}}
      resolved = resolve(file, overrides)
      _check_taken(name, asked, resolved)
      workdir = folders[row] / f'seed{seed}'
      runs.append(
        Run(
          name, row.groups, seed, row.shown, row.changes, file, overrides, resolved, workdir, after
        )
      )
  _check_distinct(runs)
  return runs


def _folder(out: Path, row: Row, name: str) -> Path:
  group = row.groups[0] if row.groups else ''
  return (out / folder_name(group) if group else out) / folder_name(name)


def _check_seed(
  row: Row, seed: int, names: Mapping[Row, str], of: Mapping[Row, Sequence[int]]
) -> None:
  for other in row.after:
    if seed not in of[other]:
      raise ConfigError(
        f'{names[row]!r} with seed {seed} waits for {names[other]!r}, which has seeds '
        f'{list(of[other])} only: give both the same `seeds=`.'
      )


def _text(value: Any) -> str:
  """A value as on a command line."""
  return 'none' if value is None else str(value)


def _check_taken(name: str, asked: Mapping[str, Any], resolved: Mapping[str, Any]) -> None:
  """Raises ConfigError where a value did not survive the command line."""
  for key, value in asked.items():
    got: Any = resolved
    for part in key.split('.'):
      got = got[part]
    wanted = json.loads(json.dumps(value, default=str))
    if got != wanted:
      raise ConfigError(
        f'{name!r}: `{key}` was asked to be {value!r}, but the config has {got!r} then: give a value of '
        "the type that it has there, or make it an argument of the config file, 'FILE.py:ARGUMENT'."
      )


def _check_distinct(runs: Sequence[Run]) -> None:
  configs: dict[str, Run] = {}
  folders: dict[Path, Run] = {}
  for run in runs:
    same = configs.setdefault(json.dumps(run.resolved, sort_keys=True), run)
    if same is not run:
      raise ConfigError(
        f'{same.title!r} ({same.workdir}) and {run.title!r} ({run.workdir}) have the same config. Add '
        'it once; `group=(TITLE, TITLE)` shows a row in several tables.'
      )
    same = folders.setdefault(run.workdir, run)
    if same is not run:
      raise ConfigError(
        f'{same.title!r} and {run.title!r} would share {run.workdir}: give them other `name=`s.'
      )


# --- What is recorded ---


def check_unchanged(runs: Sequence[Run]) -> None:
  """Refuses to take runs for others.

  Raises:
    ConfigError: The folder of a run holds one that was begun with another config.
  """
  for run in runs:
    began = _read(run.workdir / 'config.json')
    # As JSON has them: 1.0 and 1 are the same value.
    changes = config_changes(began, run.resolved) if began else []
    if changes:
      listed = '\n  '.join(describe(changes))
      raise ConfigError(
        f'{run.workdir} holds a run of another config than is asked for now:\n  {listed}\nChoose '
        f'another --out, or remove {run.workdir} to train it again.'
      )


def gone(runs: Sequence[Run], out: Path) -> list[str]:
  """Folders that the sweep recorded before and that are not asked for any more."""
  before = _read(out / FILE).get('runs', [])
  now = {str(run.workdir) for run in runs}
  return [each['workdir'] for each in before if each['workdir'] not in now]


def record(runs: Sequence[Run], out: Path, source: str) -> None:
  """Writes `sweep.json`: every run with its config, its changes and its command."""
  listed = [
    {
      'name': run.name,
      'groups': list(run.groups),
      'seed': run.seed,
      'shown': run.shown,
      'changes': dict(run.changes),
      'workdir': str(run.workdir),
      'after': [str(path) for path in run.after],
      'command': run.command(),
      'config_file': run.config,
      'config': dict(run.resolved),
    }
    for run in runs
  ]
  out.mkdir(parents=True, exist_ok=True)
  text = json.dumps({'sweep': source, 'runs': listed}, indent=1, default=str)
  write_atomically(out / FILE, text + '\n')


def _read(file: Path) -> dict[str, Any]:
  if not file.is_file():
    return {}
  try:
    values = json.loads(file.read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    raise ConfigError(f'{file} cannot be read as JSON: {error}. Remove it.') from error
  return values if isinstance(values, dict) else {}
