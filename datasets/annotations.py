"""Annotation files -> rows: which part of which video carries which labels.

`read_csv` and `read_folder` read a user's own data; the layouts that the public datasets come in are
in `datasets.annotation_layouts`. Both hand entries to `collect`, which holds the rules for a row.
"""

import csv
import dataclasses
import difflib
import functools
import io
import math
import os
import posixpath
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from datasets.region_records import Region
from errors import DataError

GROUP = 'label'
"""Name of the label group of data that has only one."""

VIDEO_SUFFIXES = frozenset(
  ('.3gp', '.avi', '.flv', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.ogv', '.webm', '.wmv')
)

IMAGE_SUFFIXES = frozenset(('.bmp', '.jpeg', '.jpg', '.png', '.webp'))

Classes = Sequence[str] | Mapping[str, Sequence[str]] | None
"""Class names in label order, by label group where there are several; None: those that occur."""


@dataclasses.dataclass(frozen=True)
class KeyframeBoxes:
  """The keyframe that a clip is cut around, and the boxes of it.

  Attributes:
    seconds: where the keyframe stands in its video.
    clip_seconds: length of the clip, half of it before the keyframe.
    file_start: second of the video that the file begins with.
    regions: annotated boxes, one for each label of each box, labels counting through all groups.
    proposals: detected boxes.
  """

  seconds: float
  clip_seconds: float
  file_start: float = 0.0
  regions: tuple[Region, ...] = ()
  proposals: tuple[Region, ...] = ()

  @property
  def num_rows(self) -> int:
    """Rows of the annotation file that it was read from."""
    return max(len(self.regions), 1)


@dataclasses.dataclass(frozen=True)
class Row:
  """One clip to be read from a video.

  Attributes:
    number: line of the row in its annotation file, from 1, header included (as editors count); for
      JSON files the position of the entry, from 1.
    path: video file, relative to the folder of the videos.
    labels: label group -> names of the classes, one or, in a multi-label group, any number.
    start: where the clip starts in its video, in seconds; None: at the beginning.
    end: where it ends, in seconds, exclusive; None: at the end.
    key: name of the clip, unique in its split.
    split: name of the split the file puts it in; '': the file names none.
    boxes: the keyframe that the clip is cut around, in place of `start` and `end`; None: no keyframe.
  """

  number: int
  path: str
  labels: Mapping[str, tuple[str, ...]]
  key: str
  start: float | None = None
  end: float | None = None
  split: str = ''
  boxes: KeyframeBoxes | None = None


@dataclasses.dataclass(frozen=True)
class Rejected:
  """A row that cannot be used: where it stands, its video ('' if unknown) and why, in a sentence."""

  number: int
  path: str
  reason: str


@dataclasses.dataclass(frozen=True)
class LabelGroup:
  """Class names of a label group in label order.

  Attributes:
    classes: names.
    multi_label: whether there may be several labels.
    regions: whether labels belong to the boxes of a keyframe rather than to a clip.
    class_ids: the numbers that the annotations call the classes by; (): not by numbers.
  """

  classes: tuple[str, ...]
  multi_label: bool = False
  regions: bool = False
  class_ids: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Annotations:
  """What an annotation file says: label groups in order, rows in order, and what it got wrong."""

  groups: Mapping[str, LabelGroup]
  rows: tuple[Row, ...]
  rejected: tuple[Rejected, ...] = ()


def read_csv(
  path: str | os.PathLike[str],
  *,
  classes: Classes = None,
  multi_label: Collection[str] = (),
  separator: str = '|',
) -> Annotations:
  """Reads `path,label[,start,end][,key][,split]` with a header, UTF-8, in any order of columns.

  Several label groups are columns `label:GROUP`. Times are seconds or `[HH:]MM:SS[.fff]`.

  Args:
    path: the file.
    classes: class names; a label outside them is a mistake of its row.
    multi_label: groups in which a clip has any number of labels.
    separator: what stands between the labels in a cell of such a group.

  Raises:
    DataError: the file cannot be read, its columns are others, or no row can be used. Mistakes of
      single rows are in `rejected`.
  """
  lines = read_table(path)
  columns = _columns(path, next(lines, (0, []))[1])
  names = {c: c.partition(':')[2] or GROUP for c in columns if c.partition(':')[0] == 'label'}
  groups = label_groups(path, names.values(), classes, multi_label)

  def entries() -> Iterator[Entry]:
    for number, cells in lines:
      if len(cells) != len(columns):
        problem = f'{len(cells)} cells, the header has {len(columns)} (quote names with commas)'
        yield Entry(number, cells[0], problem=problem)
        continue
      row = dict(zip(columns, cells, strict=True))
      labels = {
        name: _labels(row[column], separator, groups[name]) for column, name in names.items()
      }
      rest = {name: row.get(name, '') for name in ('start', 'end', 'key', 'split')}
      yield Entry(number, row['path'], labels, **rest)

  return collect(path, entries(), groups)


def read_classes(path: str | os.PathLike[str]) -> tuple[str, ...]:
  """Class names in label order from a UTF-8 file with one a line; blank lines are skipped.

  Raises:
    DataError: the file cannot be read, is empty or repeats a name.
  """
  names = (line.strip() for line in read_text(path).splitlines())
  return checked_classes(path, [name for name in names if name])


def read_folder(
  video_root: str | os.PathLike[str], *, classes: Sequence[str] | None = None
) -> Annotations:
  """One sub-folder per class: every video at any depth below it is a row, in sorted order.

  Where there is no video at all, every image is; beside videos they are taken for covers and left.

  Raises:
    DataError: no such folder, nothing in it, or the sub-folders are splits instead of classes.
  """
  paths: list[str] = []
  for suffixes in (VIDEO_SUFFIXES, IMAGE_SUFFIXES):
    paths = paths or [path for path in find_videos(video_root, suffixes) if '/' in path]
  found = sorted({path.split('/')[0] for path in paths})
  if not paths:
    raise DataError(
      f'{video_root}: no videos or images in sub-folders; expected one sub-folder per class.'
    )
  if {name.lower() for name in found} <= {'train', 'val', 'valid', 'validation', 'test'}:
    raise DataError(
      f'{video_root}: the sub-folders {found} are splits; expected one sub-folder per class. '
      f'Name a split, such as {Path(video_root) / found[0]}.'
    )
  entries = (
    Entry(number, path, {GROUP: (path.split('/')[0],)})
    for number, path in enumerate(paths, start=1)
  )
  return collect(video_root, entries, label_groups(video_root, [GROUP], classes))


def find_videos(
  root: str | os.PathLike[str], suffixes: Collection[str] = VIDEO_SUFFIXES
) -> list[str]:
  """Paths of the video files below a folder, relative to it with `/`, sorted; links are followed.

  Args:
    root: the folder.
    suffixes: of the files to find, in lower case.

  Raises:
    DataError: no such folder.
  """
  if not os.path.isdir(root):
    raise DataError(f'{root}: no such folder of videos.')
  found, seen = [], {os.path.realpath(root)}
  for folder, subfolders, files in os.walk(root, followlinks=True):
    targets = {name: os.path.realpath(os.path.join(folder, name)) for name in sorted(subfolders)}
    subfolders[:] = [n for n in targets if not n.startswith('.') and targets[n] not in seen]
    seen.update(targets[name] for name in subfolders)  # A link may lead back up: visit once.
    relative = Path(folder).relative_to(root)
    for name in files:
      if not name.startswith('.') and os.path.splitext(name)[1].lower() in suffixes:
        found.append((relative / name).as_posix())
  return sorted(found)


def read_text(path: str | os.PathLike[str]) -> str:
  """Content of a UTF-8 file without its byte-order mark.

  Raises:
    DataError: the file cannot be read or is in another encoding.
  """
  try:
    data = Path(path).read_bytes()
  except OSError as error:
    raise DataError(f'{path}: cannot be read: {error.strerror}.') from error
  try:
    return data.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    line = data.count(b'\n', 0, error.start) + 1
    encoding = 'UTF-16' if data[:2] in (b'\xff\xfe', b'\xfe\xff') else 'WINDOWS-1252'
    raise DataError(
      f'{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8, the only encoding read. '
      f"Convert the file: iconv -f {encoding} -t UTF-8 '{path}' > converted{Path(path).suffix}"
    ) from error


def read_table(path: str | os.PathLike[str]) -> Iterator[tuple[int, list[str]]]:
  """Yields (line from 1, stripped cells) of the rows of a csv file that are not blank.

  Raises:
    DataError: the file cannot be read or a quoted cell is broken.
  """
  reader = csv.reader(io.StringIO(read_text(path), newline=''), strict=True, skipinitialspace=True)
  while True:
    line = reader.line_num + 1
    try:
      cells = [cell.strip() for cell in next(reader)]
    except StopIteration:
      return
    except csv.Error as error:
      raise DataError(
        f'{path}, line {line}: broken csv ({error}). Close every quote, and double quotes inside.'
      ) from error
    if any(cells):
      yield line, cells


def _columns(path: str | os.PathLike[str], found: list[str]) -> list[str]:
  """The header, or the DataError that says what it should be."""
  wanted = 'path,label[,start,end][,key][,split], or a column label:GROUP for each label group'
  where = f'{path}: found the columns {found}, wanted {wanted}.'
  if not found:
    raise DataError(f'{path}: empty. Wanted a header {wanted}, and rows.')
  if 'path' not in found:
    other = [name for name in (';', '\t') if len(found) == 1 and name in found[0]]
    hint = 'Separate cells by commas.' if other else 'The first line must be the header.'
    raise DataError(f'{where} {hint}')
  labels = [name for name in found if name == 'label' or re.fullmatch(r'label:.+', name)]
  if not labels:
    raise DataError(f'{where} There is no label.')
  if 'label' in labels and len(labels) > 1:
    raise DataError(f'{where} Name every label group: {labels} mixes both ways.')
  unknown = [n for n in found if n not in {'path', 'start', 'end', 'key', 'split', *labels}]
  if unknown:
    raise DataError(f'{where} Remove or rename {unknown}.')
  if len(set(found)) != len(found):
    raise DataError(f'{where} A column stands there twice.')
  return found


def _labels(cell: str, separator: str, group: LabelGroup) -> tuple[str, ...]:
  """The labels of a cell; a class whose own name holds the separator is one label."""
  if cell in group.classes:
    return (cell,)
  return tuple(part.strip() for part in cell.split(separator) if part.strip())


def label_groups(
  source: str | os.PathLike[str],
  names: Iterable[str],
  classes: Classes,
  multi_label: Collection[str] = (),
) -> dict[str, LabelGroup]:
  """The groups called `names`; classes not given stay empty, for `collect` to find.

  Raises:
    DataError: `classes` or `multi_label` names another group, or a class list repeats a name.
  """
  names = list(names)
  if classes is None:
    classes = {}
  elif not isinstance(classes, Mapping):
    if len(names) != 1:
      raise DataError(f'{source}: has the label groups {names}; give class names for each by name.')
    classes = {names[0]: classes}
  unknown = sorted({*classes, *multi_label} - set(names))
  if unknown:
    raise DataError(f'{source}: there is no label group {unknown}; the file has {names}.')
  given = {n: checked_classes(f'classes of {n!r}', classes[n]) for n in classes}
  return {name: LabelGroup(given.get(name, ()), name in multi_label) for name in names}


def checked_classes(source: str | os.PathLike[str], names: Sequence[str]) -> tuple[str, ...]:
  """The names as a tuple, or a DataError when there are none or one occurs twice."""
  repeated = sorted(name for name, count in Counter(names).items() if count > 1)
  if repeated:
    raise DataError(f'{source}: class names repeat: {repeated[:5]}. Every class needs its own.')
  if not names:
    raise DataError(f'{source}: no class names; expected one a line.')
  return tuple(names)


@dataclasses.dataclass(frozen=True)
class Entry:
  """A row as a file has it, unchecked; with a `problem` it is rejected for that reason."""

  number: int
  path: str
  labels: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
  start: str | float | None = None
  end: str | float | None = None
  key: str = ''
  split: str = ''
  problem: str = ''


def collect(
  source: str | os.PathLike[str],
  entries: Iterable[Entry],
  groups: Mapping[str, LabelGroup],
  *,
  key_is_identity: bool = False,
) -> Annotations:
  """Checks entries and sorts them into rows and rejected ones.

  Args:
    source: named in errors.
    entries: in the order of the file.
    groups: label groups; one without classes gets the sorted set of those that occur.
    key_is_identity: tell clips apart by their keys; otherwise by path, start and end.

  Raises:
    DataError: no entry can be used, or none has a label in some group.
  """
  checker = _Checker(groups, key_is_identity)
  rows: list[Row] = []
  rejected: list[Rejected] = []
  for entry in entries:
    try:
      rows.append(checker.row(entry))
    except _Mistake as mistake:
      rejected.append(Rejected(entry.number, entry.path, str(mistake)))
  if not rows:
    first = f' The first: row {rejected[0].number}: {rejected[0].reason}.' if rejected else ''
    raise DataError(f'{source}: no usable row, {len(rejected)} rejected.{first}')
  complete = {
    name: LabelGroup(
      group.classes or tuple(sorted({label for row in rows for label in row.labels[name]})),
      group.multi_label,
    )
    for name, group in groups.items()
  }
  empty = [name for name, group in complete.items() if not group.classes]
  if empty:
    raise DataError(f'{source}: no row has a label in the groups {empty}.')
  return Annotations(complete, tuple(rows), tuple(rejected))


class _Mistake(Exception):
  """Why an entry cannot be used, as a sentence without its full stop."""


class _Checker:
  """The rules for a row, and what earlier rows were."""

  def __init__(self, groups: Mapping[str, LabelGroup], key_is_identity: bool):
    self._groups = groups
    self._known = {name: frozenset(group.classes) for name, group in groups.items()}
    self._key_is_identity = key_is_identity
    self._clips: dict[tuple[str, float, float | None], int] = {}
    self._keys: dict[str, int] = {}
    self._nearest = functools.cache(self._find_nearest)  # The same slip tends to come often.

  def row(self, entry: Entry) -> Row:
    """The entry as a Row, or a _Mistake."""
    if entry.problem:
      raise _Mistake(entry.problem)
    if not entry.path:
      raise _Mistake('no path')
    path = posixpath.normpath(entry.path)
    start, end = _seconds(entry.start, 'start'), _seconds(entry.end, 'end')
    if end is not None and end <= (start or 0.0):
      raise _Mistake(f'end ({end:g} s) is not after start ({start or 0:g} s)')
    labels = {name: self._labels(name, entry.labels[name]) for name in self._groups}
    key = entry.key or clip_key(path, start, end)
    clip = (path, start or 0.0, end)
    if clip in self._clips and not self._key_is_identity:
      raise _Mistake(f'same path, start and end as row {self._clips[clip]}')
    if key in self._keys:
      raise _Mistake(f'same key {key!r} as row {self._keys[key]}')
    self._clips[clip] = self._keys[key] = entry.number
    return Row(entry.number, path, labels, key, start, end, entry.split)

  def _labels(self, group: str, names: Sequence[str]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(names))
    if not self._groups[group].multi_label and len(names) != 1:
      found = f'several labels {list(names)}' if names else 'no label'
      raise _Mistake(f'{found} in the single-label group {group!r}')
    for name in names if self._known[group] else ():
      if name not in self._known[group]:
        raise _Mistake(self._nearest(group, name))
    return names

  def _find_nearest(self, group: str, name: str) -> str:
    close = difflib.get_close_matches(name, self._known[group], n=1)
    hint = f'; nearest: {close[0]!r}' if close else ''
    return f'{name!r} is not among the {len(self._known[group])} classes of {group!r}{hint}'


_CLOCK = re.compile(r'(?:(\d+):)?(\d+):(\d{1,2}(?:\.\d*)?)')


def _seconds(value: str | float | None, name: str) -> float | None:
  """Seconds from a number or `[HH:]MM:SS[.fff]`; None for nothing."""
  if value is None or value == '':
    return None
  clock = _CLOCK.fullmatch(value) if isinstance(value, str) else None
  try:
    if clock:
      hours, minutes, rest = int(clock[1] or 0), int(clock[2]), float(clock[3])
      if rest < 60 and (minutes < 60 or not clock[1]):
        return 3600.0 * hours + 60.0 * minutes + rest
    seconds = float(value)
  except (TypeError, ValueError):
    seconds = math.nan
  if not (math.isfinite(seconds) and seconds >= 0):
    raise _Mistake(f'{name} is {value!r}, expected seconds or [HH:]MM:SS')
  return seconds


def clip_key(path: str, start: float | None, end: float | None) -> str:
  """A readable name: the path, and where given the times; different clips get different ones."""
  if not start and end is None:
    return path
  return f'{path}@{_short(start or 0.0)}-{"" if end is None else _short(end)}'


def _short(seconds: float) -> str:
  return repr(seconds).removesuffix('.0')
