"""AVA's csv files of boxes and excluded keyframes, in arrays, and class groups.

A row of boxes is `video,seconds,x1,y1,x2,y2,class[,score]`, without a header; `video,seconds` alone
says that the keyframe is annotated and holds no box. Coordinates are fractions of the frame.
"""

import contextlib
import csv
import dataclasses
import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from errors import DataError

GROUPS = ('head', 'mid', 'tail')
AVA_GROUPS = Path(__file__).with_name('ava_v2.2_class_groups.csv')
"""Head, mid and tail classes of AVA v2.2, Table 9 of Beyond Transfer Learning."""
AVA_EVALUATED = Path(__file__).with_name('ava_v2.2_evaluated.pbtxt')
"""The 60 of AVA v2.2's 80 classes that are evaluated; their names are those of `AVA_GROUPS`."""

BOX_DECIMALS, SCORE_DECIMALS = 6, 9
_ROWS_AT_ONCE = 100_000
_LAYOUT = 'video,seconds,x1,y1,x2,y2,class[,score], or video,seconds for a keyframe without boxes'
_Array = np.ndarray[Any, np.dtype[Any]]


class KeyframeName(NamedTuple):
  """A video and a time in it, in seconds with 6 decimals: `902`, `0902` and `902.0` are equal."""

  video: str
  seconds: str

  @classmethod
  def parse(cls, video: str, seconds: str) -> 'KeyframeName':
    """Raises a ValueError unless `seconds` is a finite number."""
    time = float(seconds)
    if not math.isfinite(time):
      raise ValueError(f'could not convert string to a time: {seconds!r}')
    return cls(video, f'{time:.6f}')


@dataclasses.dataclass(frozen=True)
class BoxTable:
  """The rows of a csv file, or what would be one.

  Attributes:
    source: The file, for messages.
    keyframes: All that the rows name, in order of appearance, those without boxes too.
    keyframe: int64 [N], each box's place in `keyframes`.
    boxes: float64 [N, 4] ymin, xmin, ymax, xmax, fractions of the frame, as written.
    labels: int64 [N], class ids.
    scores: float64 [N], 1.0 where the file has none.
    lines: int64 [N], from 1.
    rows_without_box: Rows of two columns.
  """

  source: str
  keyframes: tuple[KeyframeName, ...]
  keyframe: _Array
  boxes: _Array
  labels: _Array
  scores: _Array
  lines: _Array
  rows_without_box: int = 0

  @property
  def rows(self) -> int:
    """All rows, with and without a box."""
    return len(self.labels) + self.rows_without_box


class ClassGroup(NamedTuple):
  """The group of a class (head, mid or tail) and how many labels it has in training."""

  group: str
  train_labels: int


def read_boxes(path: str | os.PathLike[str], *, with_scores: bool = True) -> BoxTable:
  """Reads ground truth or detections.

  Args:
    path: The csv file.
    with_scores: Whether the eighth column is a score; AVA's ground truth has person ids there.

  Raises:
    DataError: The file cannot be read; a row has another number of columns, or holds a number that
      is none or is not finite. The message names file and line.
  """
  reader = _Reader(path, with_scores)
  first_line = 1
  for rows in _chunks(path):
    reader.take(rows, first_line)
    first_line += len(rows)
  return reader.table()


def read_keyframes(path: str | os.PathLike[str]) -> frozenset[KeyframeName]:
  """Reads a list of keyframes, `video,seconds` in each row, as AVA's excluded timestamps.

  Raises:
    DataError: As `read_boxes`.
  """
  found = set()
  for line, row in enumerate(itertools.chain.from_iterable(_chunks(path)), start=1):
    if row:
      _check_columns(path, line, row, (2,), 'video,seconds')
      with _named(path, line, 'video,seconds'):
        found.add(KeyframeName.parse(*row))
  return frozenset(found)


def _chunks(path: str | os.PathLike[str]) -> Iterator[list[list[str]]]:
  """Yields the rows of a csv file, many at once; blank lines are empty rows."""
  try:
    with open(path, newline='', encoding='utf-8') as file:
      reader = csv.reader(file)
      while rows := list(itertools.islice(reader, _ROWS_AT_ONCE)):
        yield rows
  except OSError as error:
    raise DataError(f'{path}: cannot be read: {error.strerror}.') from error
  except (UnicodeDecodeError, csv.Error) as error:
    raise DataError(f'{path}: no csv file in UTF-8 ({error}).') from error


class _Reader:
  """Columns of the rows taken so far."""

  def __init__(self, path: str | os.PathLike[str], with_scores: bool):
    self._path, self._with_scores = path, with_scores
    self._keyframes = _Keyframes()
    self._columns: list[tuple[_Array, ...]] = []
    self._without_box = 0

  def take(self, rows: list[list[str]], first_line: int) -> None:
    sizes = np.array([len(row) for row in rows])
    wrong = np.flatnonzero(~np.isin(sizes, (0, 2, 7, 8)))
    if len(wrong):
      _check_columns(self._path, first_line + wrong[0], rows[wrong[0]], (2, 7, 8), _LAYOUT)
    try:
      self._columns.append(self._convert(rows, sizes, first_line))
    except ValueError:
      for line, row in enumerate(rows, first_line):  # Which one it was.
        with _named(self._path, line, _LAYOUT):
          self._convert([row], np.array([len(row)]), line)
      raise
    self._without_box += int(np.sum(sizes == 2))

  def _convert(
    self, rows: Sequence[Sequence[str]], sizes: _Array, first_line: int
  ) -> tuple[_Array, ...]:
    """keyframe, boxes, labels, scores and lines of the rows with boxes."""
    keyframe = np.array([self._keyframes[row[0], row[1]] for row in rows if row], np.int64)
    full = [row for row in rows if len(row) > 2]
    corners = itertools.chain.from_iterable(row[2:6] for row in full)
    boxes = np.fromiter(map(float, corners), np.float64, 4 * len(full)).reshape(-1, 4)
    labels = np.fromiter((int(row[6]) for row in full), np.int64, len(full))
    scores = np.ones(len(full))
    if self._with_scores:
      scored = sizes[sizes > 2] == 8
      scores[scored] = [float(row[7]) for row in full if len(row) == 8]
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
      raise ValueError('a number is not finite')
    lines = first_line + np.flatnonzero(sizes > 2)
    return keyframe[sizes[sizes > 0] > 2], boxes[:, [1, 0, 3, 2]], labels, scores, lines

  def table(self) -> BoxTable:
    empty = (np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0))
    columns = [(*empty, np.zeros(0, np.int64)), *self._columns]
    keyframe, boxes, labels, scores, lines = map(np.concatenate, zip(*columns, strict=True))
    return BoxTable(
      str(self._path), self._keyframes.order, keyframe, boxes, labels, scores, lines,
      self._without_box,
    )  # fmt: skip


class _Keyframes(dict[tuple[str, str], int]):
  """(video, seconds as written) -> place of the keyframe, in order of appearance."""

  def __init__(self) -> None:
    self._places: dict[KeyframeName, int] = {}

  def __missing__(self, written: tuple[str, str]) -> int:
    place = self._places.setdefault(KeyframeName.parse(*written), len(self._places))
    self[written] = place
    return place

  @property
  def order(self) -> tuple[KeyframeName, ...]:
    return tuple(self._places)


def _check_columns(
  path: str | os.PathLike[str], line: int, row: list[str], sizes: Sequence[int], layout: str
) -> None:
  if len(row) not in sizes:
    expected = ' or '.join(map(str, sizes))
    raise DataError(
      f'{path}, line {line}: {len(row)} columns, expected {expected} ({layout}): {row}.'
    )


@contextlib.contextmanager
def _named(path: str | os.PathLike[str], line: int, layout: str) -> Iterator[None]:
  """Turns a ValueError of the block into a DataError that names the line."""
  try:
    yield
  except ValueError as error:
    hint = " AVA's csv files have no header." if line == 1 else ''
    raise DataError(f'{path}, line {line}: {error}. Expected {layout}.{hint}') from error


def write_boxes(
  path: Path, table: BoxTable, keys: Mapping[KeyframeName, str], *, with_scores: bool = True
) -> None:
  """Writes rows in AVA's layout, whole or not at all: boxes with 6 decimals, scores with 9.

  Args:
    path: The file.
    table: What to write; keyframes without a box get a row of two columns.
    keys: Keyframe -> `video,seconds` as it shall stand there.
    with_scores: Whether to write the eighth column.
  """
  layout = '%s' + f',%.{BOX_DECIMALS}f' * 4 + ',%d' + f',%.{SCORE_DECIMALS}f' * with_scores + '\n'
  names = [_quoted(keys[keyframe]) for keyframe in table.keyframes]
  rows: list[Iterable[Any]] = [
    (names[k] for k in table.keyframe),
    *table.boxes[:, [1, 0, 3, 2]].T.tolist(),
    table.labels.tolist(),
  ]
  partial = path.with_name(path.name + '.partial')
  with partial.open('w', encoding='utf-8') as file:
    for row in zip(*rows, *[table.scores.tolist()] * with_scores, strict=True):
      file.write(layout % row)
    for k in sorted(set(range(len(names))) - set(table.keyframe.tolist())):
      file.write(f'{names[k]}\n')
  os.replace(partial, path)


def _quoted(key: str) -> str:
  """`video,seconds` as two cells of a csv file, whatever the video's name holds."""
  video, _, seconds = key.rpartition(',')
  return '"{}",{}'.format(video.replace('"', '""'), seconds) if set(video) & set(',"') else key


def rounded(values: _Array, decimals: int) -> _Array:
  """The float64 nearest to each value with so many decimals: what a reader of the text gets."""
  return np.round(np.asarray(values, np.float64), decimals)


# --- Classes ---


def read_class_groups(path: str | os.PathLike[str]) -> dict[str, ClassGroup]:
  """Class name -> its group, of a csv file with the header `label,group,train_labels`.

  Raises:
    DataError: The file cannot be read or has other columns, or a row is broken.
  """
  rows = itertools.chain.from_iterable(_chunks(path))
  header = ['label', 'group', 'train_labels']
  if (found := next(rows, [])) != header:
    raise DataError(f'{path}, line 1: the columns are {found}, expected {header}.')
  groups = {}
  for line, row in enumerate(rows, start=2):
    if row:
      _check_columns(path, line, row, (3,), ','.join(header))
      if row[1] not in GROUPS or not row[2].isdecimal() or row[0] in groups:
        raise DataError(
          f'{path}, line {line}: expected a class that is not above, one of {GROUPS} and a number '
          f'of labels, got {row}.'
        )
      groups[row[0]] = ClassGroup(row[1], int(row[2]))
  return groups


def class_groups(path: str | os.PathLike[str], names: Iterable[str]) -> Mapping[str, ClassGroup]:
  """The groups of the classes `names`.

  Args:
    path: A csv file; `'ava'` for AVA v2.2's, or `''` for AVA's if it has all the classes, else none.
    names: Class names.

  Raises:
    DataError: As `read_class_groups`, or a class is not in the file.
  """
  groups = read_class_groups(path if path not in ('', 'ava') else AVA_GROUPS)
  missing = sorted(set(names) - set(groups))
  if not missing:
    return groups
  if path == '':
    return {}
  raise DataError(
    f'{AVA_GROUPS if path == "ava" else path}: {len(missing)} classes have no group there, for '
    f'example {missing[:3]}. Name the table that was made for these classes.'
  )
