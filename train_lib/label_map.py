"""Heads across label sets: the rows of a checkpoint's classifier by the names of its classes."""

import collections
import dataclasses
import os
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from datasets import annotations
from datasets.class_names import nearest_in, normalise_class_name
from errors import CheckpointMismatchError, DataError
from train_lib.state import OBJECTIVE

_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Rows:
  """Which rows of a checkpoint's head become the rows of a head of the model.

  Attributes:
    task: of the model.
    source: the checkpoint's task; '' for a head without a name.
    indices: for each class of the task, its row there; -1 where it has none and starts new.
    counts: how the names were matched -> classes.
    inexact: (name, the row's) of classes whose rows have other names.
    unused: names of the rows that no class took.
    new: names of the classes that have no row.
  """

  task: str
  source: str
  indices: tuple[int, ...]
  counts: Mapping[str, int]
  inexact: tuple[tuple[str, str], ...]
  unused: tuple[str, ...]
  new: tuple[str, ...] = ()

  @property
  def same(self) -> bool:
    """Whether the head is taken as it is."""
    return self.indices == tuple(range(len(self.indices) + len(self.unused)))

  def __str__(self) -> str:
    matched = len(self.indices) - len(self.new)
    total = matched + len(self.unused)
    how = ', '.join(f'{n} {name}' for name, n in self.counts.items() if n)
    source = f'heads_{self.source}' if self.source else 'the head'
    text = f'heads_{self.task}: {matched} of {total} rows of {source} by name ({how or "none"})'
    if self.new:
      text += f'; new: {len(self.new)}, {_first(map(repr, self.new))}'
    if self.inexact:
      text += f'; not exact: {_first(f"{name!r} <- {row!r}" for name, row in self.inexact)}'
    if self.unused:
      text += f'; not used: {len(self.unused)}, {_first(map(repr, self.unused))}'
    return text


def _first(items: Iterable[str]) -> str:
  listed = list(items)
  return ', '.join(listed[:_SHOWN]) + ' ...' * (len(listed) > _SHOWN)


def read_synonyms(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
  """Pairs of names that mean one class, from a csv with the header `name,label`; '' has none.

  Raises:
    DataError: the file cannot be read, or a row has not two names.
  """
  if not path:
    return []
  lines = list(annotations.read_table(path))
  if not lines or lines[0][1] != ['name', 'label']:
    found = lines[0][1] if lines else 'nothing'
    raise DataError(f'{path}: expected the header name,label, found {found}.')
  for number, cells in lines[1:]:
    if len(cells) != 2 or not all(cells):
      raise DataError(f'{path}, row {number}: expected two names, found {cells}. Quote commas.')
  return [(cells[0], cells[1]) for _, cells in lines[1:]]


def unnamed(where: str) -> str:
  """What to say of a checkpoint whose classes are not known."""
  return (
    f'{where} does not name its classes: rows are taken in the order they have. If scores are at '
    'chance, import it with --class_names=FILE.'
  )


def map_heads(
  arrays: Mapping[str, np.ndarray],
  stored: Mapping[str, Sequence[str]],
  wanted: Mapping[str, Sequence[str]],
  synonyms: Sequence[tuple[str, str]],
  where: str,
  optional: Collection[str] = (),
  unmatched: str = 'error',
) -> tuple[dict[str, np.ndarray], list[Rows]]:
  """Gives the model's heads the rows of a checkpoint's by name (UniFormerV2, appendix F).

  A class is taken from the row of the same name, else of the same name but for case and symbols, else
  of a synonym. A checkpoint with one head fills every head of the model, one with several the heads of
  the same tasks. Where rows move or a head is left out, so are the objective's own parameters, which
  would not move.

  Args:
    arrays: flat, with heads as `heads_TASK/...`, or one as `output_projection/...` and `pre_logits/...`.
    stored: task -> the checkpoint's class names; '' for a head without a name.
    wanted: task -> the data's.
    synonyms: pairs of names of one class.
    where: the checkpoint, for messages.
    optional: tasks whose heads are left out where they have no rows.
    unmatched: what a class without a row is: an 'error', or 'new'.

  Returns:
    The arrays with the model's heads in place of the checkpoint's, kernels `[..., classes]`, masked
    arrays where there are new classes; and what became of each head, but for those left out.

  Raises:
    CheckpointMismatchError: a class has no row and may not be new, has several, or shares one; a task
      has no head; the names are not as many as the rows.
  """
  rows: list[Rows] = []
  for task, names in wanted.items():
    source = _source(task, arrays, stored)
    found = None
    if source is not None:
      found = _match(task, names, source, stored[source], synonyms, unmatched == 'new')
    if found is not None:
      rows.append(found)
    elif task not in optional:
      raise CheckpointMismatchError(
        _no_head(task, arrays, stored, where)
        if source is None
        else _no_rows(task, names, source, stored[source], synonyms, where)
      )
  # A head left out may not be filled by position.
  left_out = wanted.keys() - {found.task for found in rows}
  taken = {found.source for found in rows} | left_out | ({''} if left_out else set())
  result = {path: array for path, array in arrays.items() if _head_of(path) not in taken}
  if left_out or not all(found.same for found in rows):
    result = {path: a for path, a in result.items() if path.split('/')[0] != OBJECTIVE}
  for found in rows:
    result |= _gathered(arrays, found, len(stored[found.source]), where)
  return result, rows


def _source(
  task: str, arrays: Mapping[str, np.ndarray], stored: Mapping[str, Sequence[str]]
) -> str | None:
  """The checkpoint's task whose head fills a task's: its only head, or that of the same task."""
  if len(stored) == 1 and not _unnamed(arrays, stored):
    return next(iter(stored))
  return task if task in stored else None


def _unnamed(arrays: Mapping[str, np.ndarray], stored: Mapping[str, Sequence[str]]) -> list[str]:
  """The tasks with a head and without class names."""
  return sorted({task for task in map(_head_of, arrays) if task is not None} - stored.keys())


def _head_of(path: str) -> str | None:
  """The task of an array of a head, '' for a head without a name; None of other arrays."""
  scope = path.split('/')[0]
  if scope.startswith('heads_'):
    return scope.removeprefix('heads_')
  return '' if scope in ('output_projection', 'pre_logits') else None


def _gathered(
  arrays: Mapping[str, np.ndarray], rows: Rows, classes: int, where: str
) -> dict[str, np.ndarray]:
  """The arrays of a head of the model."""
  result = {}
  for path, array in arrays.items():
    if _head_of(path) != rows.source:
      continue
    leaf = path.removeprefix(f'heads_{rows.source}/')
    if leaf.startswith('output_projection/'):
      if array.shape[-1] != classes:
        raise CheckpointMismatchError(
          f'{where}: {path} has {array.shape[-1]} rows, but the checkpoint names {classes} classes. '
          'Import the weights again with the class names that belong to them.'
        )
      array = array[..., list(rows.indices)]
      if rows.new:
        array = np.ma.array(array, mask=np.broadcast_to(np.less(rows.indices, 0), array.shape))
    result[f'heads_{rows.task}/{leaf}'] = array
  return result


def _find(
  names: Sequence[str], stored: Sequence[str], synonyms: Sequence[tuple[str, str]]
) -> list[tuple[list[int], str]]:
  """For each name the rows that it may mean, and how they were found."""
  if list(names) == list(stored):
    return [([row], 'exact') for row in range(len(names))]
  finder = _Finder(stored, synonyms)
  return [finder.find(name) for name in names]


def _match(
  task: str,
  names: Sequence[str],
  source: str,
  stored: Sequence[str],
  synonyms: Sequence[tuple[str, str]],
  new: bool,
) -> Rows | None:
  """The row of each name; None where one has several, that of another, or none and may not be new."""
  found = _find(names, stored, synonyms)
  taken = [row for rows, _ in found for row in rows]
  fewest = 0 if new else 1
  if not all(fewest <= len(rows) <= 1 for rows, _ in found) or len(set(taken)) < len(taken):
    return None
  indices = tuple(rows[0] if rows else -1 for rows, _ in found)
  pairs = [(name, stored[row]) for name, row in zip(names, indices, strict=True) if row >= 0]
  return Rows(
    task,
    source,
    indices,
    counts=collections.Counter(how for _, how in found if how),
    inexact=tuple((name, other) for name, other in pairs if name != other),
    unused=tuple(name for row, name in enumerate(stored) if row not in set(taken)),
    new=tuple(name for name, row in zip(names, indices, strict=True) if row < 0),
  )


def _no_head(
  task: str, arrays: Mapping[str, np.ndarray], stored: Mapping[str, Sequence[str]], where: str
) -> str:
  unnamed_heads = _unnamed(arrays, stored)
  others = f', and heads without class names: {unnamed_heads}' if unnamed_heads else ''
  return (
    f'{where} has no task {task!r}; it has {sorted(stored)}{others}. Rename the task, or '
    f'{_without_it(task)}'
  )


def _without_it(task: str) -> str:
  return (
    f"let a new head start at random by `init_from.allow_new=('heads_{task}/*',)`, or load none by "
    '`init_from.load_head=False`.'
  )


def _no_rows(
  task: str,
  names: Sequence[str],
  source: str,
  stored: Sequence[str],
  synonyms: Sequence[tuple[str, str]],
  where: str,
) -> str:
  """What `_match` found wrong."""
  users: dict[int, list[str]] = {}
  missing, several = [], []
  nearest = nearest_in(stored)
  for name, (rows, how) in zip(names, _find(names, stored, synonyms), strict=True):
    if len(rows) == 1:
      users.setdefault(rows[0], []).append(name)
    elif rows:
      several.append(
        f'? {name!r}: several rows have this name ({how}): {[stored[row] for row in rows]}'
      )
    else:
      missing.append(f'- {name!r}{nearest(name)}')
  shared = [f'+ {stored[row]!r}: {own}' for row, own in users.items() if len(own) > 1]
  head = (
    f'{where}: {_difference(task, source, names, stored)} {len(missing)} classes have no row by name, '
    f'{len(several)} have several, {len(shared)} rows would serve several:'
  )
  advice = (
    'Name the pairs that mean one class in a csv with the header name,label '
    '(`init_from.class_synonyms`), let classes without a row start new '
    f"(`init_from.unmatched_classes='new'`), {_without_it(task)}"
  )
  return '\n  '.join([head, *missing, *several, *shared]) + f'\n{advice}'


def _difference(task: str, source: str, names: Sequence[str], stored: Sequence[str]) -> str:
  """The first thing in which two class lists differ."""
  if len(names) != len(stored):
    return f'task {source or task!r} has {len(stored)} classes there, but {len(names)} in the data.'
  for i, (old, new) in enumerate(zip(stored, names, strict=True)):
    if old != new:
      return f'class {i} of task {source or task!r} is {old!r} there, but {new!r} in the data.'
  return f'the classes of task {source or task!r} are not told apart.'


class _Finder:
  """Finds the row of a name."""

  def __init__(self, stored: Sequence[str], synonyms: Sequence[tuple[str, str]]):
    self._exact = _rows_by_name(stored)
    self._plain = _rows_by_name(map(normalise_class_name, stored))
    self._synonyms: dict[str, list[str]] = {}
    for pair in synonyms:
      a, b = map(normalise_class_name, pair)
      self._synonyms.setdefault(a, []).append(b)
      self._synonyms.setdefault(b, []).append(a)

  def find(self, name: str) -> tuple[list[int], str]:
    """The rows that it may mean: one, none, or several that are not told apart; how they were found."""
    plain = normalise_class_name(name)
    by_synonym = {
      row for other in self._synonyms.get(plain, ()) for row in self._plain.get(other, ())
    }
    for rows, how in (
      (self._exact.get(name), 'exact'),
      (self._plain.get(plain), 'but for case and symbols'),
      (sorted(by_synonym), 'by synonym'),
    ):
      if rows:
        return rows, how
    return [], ''


def _rows_by_name(names: Iterable[str]) -> dict[str, list[int]]:
  rows: dict[str, list[int]] = {}
  for row, name in enumerate(names):
    rows.setdefault(name, []).append(row)
  return rows
