"""What a sweep trains: rows of a table, each a config with changes, repeated with several seeds.

A sweep file, or a config file, describes one:

  METRICS = {'top-1': 'top1/motion'}                  # label in the table -> metric of the evaluation
  CLAIMS = [('wide', 'narrow', 'top-1')]              # the first row should be ahead of the second

  def sweep(add):
    for changes in product({'optimizer.learning_rate': [1e-3, 2e-3], 'trunk.num_layers': [2, 3]}):
      add(changes)

Lists of changes are plain lists of dicts: `product(a) + zipped(b)` is one after the other, and
`[x | y for x in a for y in b]` every pair.
"""

import hashlib
import importlib.util
import inspect
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from errors import ConfigError

Changes = dict[str, Any]
"""Dotted config key -> value."""

_LONGEST = 80  # characters of a folder's name
_SET_BY_SWEEP = {'seed': 'seeds=', 'init_from.path': 'init_from='}


def product(values: Mapping[str, Sequence[Any]]) -> list[Changes]:
  """Every combination of the keys' values, the last key's changing fastest."""
  _check_lists('product', values)
  return [dict(zip(values, row)) for row in itertools.product(*values.values())]


def zipped(values: Mapping[str, Sequence[Any]]) -> list[Changes]:
  """The first value of every key, then the second of every key, and so on.

  Raises:
    ConfigError: The keys have different numbers of values.
  """
  _check_lists('zipped', values)
  lengths = {key: len(each) for key, each in values.items()}
  if len(set(lengths.values())) > 1:
    raise ConfigError(f'zipped: expected as many values of every key, got {lengths}.')
  return [dict(zip(values, row)) for row in zip(*values.values())]


def _check_lists(owner: str, values: Mapping[str, Sequence[Any]]) -> None:
  for key, each in values.items():
    if isinstance(each, str) or not isinstance(each, Sequence) or not each:
      raise ConfigError(f'{owner}: expected a list of values of `{key}`, got {each!r}.')


@dataclass(frozen=True, eq=False)
class Row:
  """A row of the table, as `Sweep.__call__` takes it; the handle of its runs."""

  changes: Mapping[str, Any]
  name: str
  groups: tuple[str, ...]
  config: str | None
  seeds: tuple[int, ...] | None
  after: tuple['Row', ...]
  init_from: 'Row | None'
  shown: bool


class Sweep:
  """Takes the rows of a sweep: the `add` of `sweep(add)`.

  Attributes:
    data: Folder of the data that the sweep file's `prepare` makes.
    rows: What has been added, in order.
  """

  def __init__(self, data: Path = Path('data')):
    self.data = data
    self.rows: list[Row] = []

  def __call__(
    self,
    changes: Mapping[str, Any],
    *,
    name: str = '',
    group: str | Sequence[str] = '',
    config: str | None = None,
    seeds: Sequence[int] | None = None,
    after: Sequence[Row] = (),
    init_from: Row | None = None,
    shown: bool = True,
  ) -> Row:
    """Adds a row.

    Args:
      changes: Dotted config key -> value, on top of the config and of what the command line changes.
      name: Of the row; empty: made of the keys that differ between the rows of its table.
      group: Title of its table, or of several that it stands in.
      config: Config file with argument, `'FILE.py:ARGUMENT'`; None: the command line's.
      seeds: Its seeds, where the command line asks for none; None: 0.
      after: Rows that must have finished, with the same seed, before this one starts.
      init_from: The row whose run, of the same seed, this one starts from.
      shown: Whether the row stands in the table, or others only start from it.

    Returns:
      The row, for `after` and `init_from` of others.

    Raises:
      ConfigError: A value that the sweep itself sets, repeated or bad seeds, or a row of another sweep.
    """
    for key, instead in _SET_BY_SWEEP.items():
      if key in changes:
        raise ConfigError(f'add({dict(changes)!r}): `{key}` is set by `{instead}...`.')
    if seeds is not None and (not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0):
      raise ConfigError(f'add(seeds={seeds!r}): expected whole numbers of at least 0, each once.')
    groups = (group,) if isinstance(group, str) else tuple(group)
    waits = (*after, *((init_from,) if init_from else ()))
    if not all(row in self.rows for row in waits):
      raise ConfigError(
        f'add(name={name!r}): `after` and `init_from` take rows that add() returned.'
      )
    row = Row(
      dict(changes),
      name,
      groups,
      config,
      None if seeds is None else tuple(seeds),
      waits,
      init_from,
      shown,
    )
    self.rows.append(row)
    return row


@dataclass(frozen=True)
class Description:
  """A sweep file, loaded.

  Attributes:
    source: Its path.
    rows: Called with a `Sweep`, adds to it.
    metrics: Label in the table -> metric of the evaluation; empty: the configs' `best_metric`.
    claims: (row, row that it should be ahead of, label of a metric), and if it is of one table only,
      that table's title.
    prepare: Makes the data in a folder, if it is not there.
    data: That folder, where the command line names none.
    extra_metrics: Given a run's folder, further metrics of it.
  """

  source: str
  rows: Callable[[Sweep], None]
  metrics: Mapping[str, str]
  claims: Sequence[tuple[str, ...]]
  prepare: Callable[[Path], None] | None
  data: Path
  extra_metrics: Callable[[Path], Mapping[str, float]] | None


def load(source: str) -> Description:
  """Loads `FILE.py` or `FILE.py:ARGUMENT`; the argument is given to `sweep(add, argument)`.

  Raises:
    ConfigError: It cannot be loaded, defines no `sweep`, or that takes no argument.
  """
  path, _, argument = source.partition(':')
  module = _module(path)
  sweep = getattr(module, 'sweep', None)
  if not callable(sweep):
    raise ConfigError(
      f'{path} defines no `sweep(add)`: write it there, or name a file that does with --sweep=FILE.'
    )
  takes = len(inspect.signature(sweep).parameters)
  if argument and takes < 2:
    raise ConfigError(f'{source}: its `sweep(add)` takes no argument, got {argument!r}.')

  def rows(add: Sweep) -> None:
    try:
      sweep(add, argument) if argument else sweep(add)
    except ConfigError:
      raise
    except Exception as error:
      raise ConfigError(f'{path}: sweep(add) raised {type(error).__name__}: {error}') from error

  return Description(
    source=source,
    rows=rows,
    metrics=getattr(module, 'METRICS', {}),
    claims=getattr(module, 'CLAIMS', ()),
    prepare=getattr(module, 'prepare', None),
    data=Path(getattr(module, 'DATA', 'data')),
    extra_metrics=getattr(module, 'extra_metrics', None),
  )


def _module(path: str) -> ModuleType:
  spec = importlib.util.spec_from_file_location(f'sweep_file_{Path(path).stem}', path)
  if not path.endswith('.py') or spec is None or spec.loader is None:
    raise ConfigError(f'{path} is no sweep file: expected FILE.py or FILE.py:ARGUMENT.')
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except Exception as error:
    raise ConfigError(f'{path} cannot be loaded: {type(error).__name__}: {error}') from error
  return module


def row_names(rows: Sequence[Row]) -> dict[Row, str]:
  """Names of the rows: given ones, or the keys that differ between the unnamed ones of a table.

  Raises:
    ConfigError: Two rows of a table have the same name.
  """
  names: dict[Row, str] = {}
  for groups in dict.fromkeys(row.groups for row in rows):
    unnamed = [row for row in rows if row.groups == groups and not row.name]
    varied = [_with_config(row) for row in unnamed]
    keys = _differing(varied)
    for row, values in zip(unnamed, varied):
      parts = [f'{short}={_shown(values[key])}' for key, short in keys.items() if key in values]
      names[row] = ','.join(parts) or 'base'
  names = {row: row.name or names[row] for row in rows}
  taken: dict[tuple[str, str], Row] = {}
  for row, name in names.items():
    for group in row.groups:
      other = taken.setdefault((group, name), row)
      if other is not row:
        where = f' of {group!r}' if group else ''
        raise ConfigError(
          f'Two rows{where} are called {name!r}: {dict(other.changes)} and {dict(row.changes)}. Give '
          'them different `name=`s, or remove one.'
        )
  return names


def _with_config(row: Row) -> Changes:
  return {**({'config': row.config} if row.config else {}), **row.changes}


def _differing(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
  """The keys whose values differ between rows -> as much of their end as tells them apart."""
  every = list(dict.fromkeys(key for row in rows for key in row))
  absent = object()
  differing = [k for k in every if len({repr(row.get(k, absent)) for row in rows}) > 1]
  keys = differing if len(rows) > 1 else every
  return {key: _short(key, [other for other in keys if other != key]) for key in keys}


def _short(key: str, others: Sequence[str]) -> str:
  parts = key.split('.')
  for start in range(len(parts) - 1, 0, -1):
    end = '.'.join(parts[start:])
    if not any(other == end or other.endswith(f'.{end}') for other in others):
      return end
  return key


def _shown(value: Any) -> str:
  return 'x'.join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def folder_name(text: str) -> str:
  """A name that any file system takes, of bounded length; what is cut off is told apart by a hash."""
  plain = re.sub(r'[^\w.=,+-]+', '_', text, flags=re.ASCII).strip('_.') or '_'
  if len(plain) <= _LONGEST:
    return plain
  digest = hashlib.sha256(text.encode()).hexdigest()[:6]
  return f'{plain[: _LONGEST - 7]}-{digest}'
