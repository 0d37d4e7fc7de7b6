"""Heads across label sets: the rows of a checkpoint's classifier by the names of its classes."""

import collections
import dataclasses
import os
from collections.abc import Mapping, Sequence

import numpy as np

from datasets import annotations
from datasets.class_names import nearest, normalise_class_name
from errors import CheckpointMismatchError, DataError
from train_lib.state import OBJECTIVE

_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Rows:
  """Which rows of a checkpoint's head become the rows of a head of the model.

  Attributes:
    task: of the model.
    source: the checkpoint's head.
    indices: for each class of the task, its row there.
    counts: how the names were matched -> classes.
    unused: names of the rows that no class took.
  """

  task: str
  source: str
  indices: tuple[int, ...]
  counts: Mapping[str, int]
  unused: tuple[str, ...]

  @property
  def same(self) -> bool:
    """Whether the head is taken as it is."""
    return self.indices == tuple(range(len(self.indices) + len(self.unused)))

  def __str__(self) -> str:
    matched, total = len(self.indices), len(self.indices) + len(self.unused)
    how = ', '.join(f'{n} {name}' for name, n in self.counts.items() if n)
    text = f'heads_{self.task}: {matched} of {total} rows of {self.source} by name ({how})'
    if self.unused:
      shown = ', '.join(map(repr, self.unused[:_SHOWN]))
      text += f'; not used: {len(self.unused)}, {shown}{" ..." * (len(self.unused) > _SHOWN)}'
    return text


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


def map_heads(
  arrays: Mapping[str, np.ndarray],
  stored: Mapping[str, Sequence[str]],
  wanted: Mapping[str, Sequence[str]],
  synonyms: Sequence[tuple[str, str]],
  where: str,
) -> tuple[dict[str, np.ndarray], list[Rows]]:
  """Gives the model's heads the rows of a checkpoint's by name (UniFormerV2, appendix F).

  A class is taken from the row of the same name, else of the same name but for case and symbols, else
  of a synonym. A checkpoint with one head fills every head of the model, one with several the heads of
  the same tasks. Where rows move, the objective's own parameters are left out: theirs would not.

  Args:
    arrays: flat, with heads as `heads_TASK/...`, or one as `output_projection/...` and `pre_logits/...`.
    stored: task -> the checkpoint's class names; '' for a head without a name.
    wanted: task -> the data's.
    synonyms: pairs of names of one class.
    where: the checkpoint, for messages.

  Returns:
    The arrays with the model's heads in place of the checkpoint's, kernels `[..., classes]`; and what
    became of each head.

  Raises:
    CheckpointMismatchError: a class has no row, or shares one; a task has no head; the names are not as
      many as the rows.
  """
  sources = {task: _source(task, stored, where) for task in wanted}
  rows = [
    _match(task, names, sources[task], stored[sources[task]], synonyms, where)
    for task, names in wanted.items()
  ]
  heads = {source: _head(arrays, source) for source in sources.values()}
  taken = {path for head in heads.values() for path in head}
  result = {path: array for path, array in arrays.items() if path not in taken}
  if not all(found.same for found in rows):
    result = {path: a for path, a in result.items() if path.split('/')[0] != OBJECTIVE}
  for found in rows:
    source = sources[found.task]
    for path, array in heads[source].items():
      leaf = path.removeprefix(f'heads_{source}/') if source else path
      if leaf.startswith('output_projection/'):
        array = _gathered(array, found, len(stored[source]), f'{where}: {path}')
      result[f'heads_{found.task}/{leaf}'] = array
  return result, rows


def _source(task: str, stored: Mapping[str, Sequence[str]], where: str) -> str:
  """The checkpoint's task whose head fills a task's."""
  if len(stored) == 1:
    return next(iter(stored))
  if task not in stored:
    raise CheckpointMismatchError(
      f'{where} has no task {task!r}; it has {sorted(stored)}. Rename the task, or set '
      '`init_from.load_head=False`.'
    )
  return task


def _head(arrays: Mapping[str, np.ndarray], task: str) -> dict[str, np.ndarray]:
  prefixes = (f'heads_{task}/',) if task else ('output_projection/', 'pre_logits/')
  return {path: array for path, array in arrays.items() if path.startswith(prefixes)}


def _gathered(array: np.ndarray, rows: Rows, classes: int, where: str) -> np.ndarray:
  if array.shape[-1] != classes:
    raise CheckpointMismatchError(
      f'{where} has {array.shape[-1]} rows, but the checkpoint names {classes} classes. Import the '
      'weights again with the class names that belong to them.'
    )
  return array[..., list(rows.indices)]


def _match(
  task: str,
  names: Sequence[str],
  source: str,
  stored: Sequence[str],
  synonyms: Sequence[tuple[str, str]],
  where: str,
) -> Rows:
  finder = _Finder(stored, synonyms)
  same = list(names) == list(stored)
  found = [(row, 'exact') if same else finder.find(name) for row, name in enumerate(names)]
  missing = [name for name, (row, _) in zip(names, found, strict=True) if row is None]
  indices = tuple(row for row, _ in found if row is not None)
  shared = [row for row, n in collections.Counter(indices).items() if n > 1]
  if missing or shared:
    raise CheckpointMismatchError(
      '\n  '.join(
        [
          f'{where}: {_difference(task, source, names, stored)} {len(missing)} classes have no row by '
          f'name, {len(shared)} rows would serve several:',
          *(f'- {name!r}{nearest(name, stored)}' for name in missing),
          *(
            f'+ {stored[row]!r}: {[n for n, (r, _) in zip(names, found, strict=True) if r == row]}'
            for row in shared
          ),
        ]
      )
      + '\nName the pairs that mean one class in a csv with the header name,label '
      '(`init_from.class_synonyms`), or set `init_from.load_head=False`.'
    )
  taken = set(indices)
  unused = tuple(name for row, name in enumerate(stored) if row not in taken)
  counts = collections.Counter(how for _, how in found)
  return Rows(task, f'heads_{source}' if source else 'the head', indices, counts, unused)


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
    self._plain = _rows_by_name([normalise_class_name(name) for name in stored])
    self._synonyms: dict[str, list[str]] = {}
    for pair in synonyms:
      a, b = map(normalise_class_name, pair)
      self._synonyms.setdefault(a, []).append(b)
      self._synonyms.setdefault(b, []).append(a)

  def find(self, name: str) -> tuple[int | None, str]:
    """(row or None, how it was found)."""
    if name in self._exact:
      return self._exact[name], 'exact'
    plain = normalise_class_name(name)
    if plain in self._plain:
      return self._plain[plain], 'but for case and symbols'
    for other in self._synonyms.get(plain, ()):
      if other in self._plain:
        return self._plain[other], 'by synonym'
    return None, ''


def _rows_by_name(names: Sequence[str]) -> dict[str, int]:
  """Rows of the names that occur once: of others it is not known which is meant."""
  counts = collections.Counter(names)
  return {name: row for row, name in enumerate(names) if counts[name] == 1}
