"""AVA's and AVA-Kinetics' files -> rows: a keyframe each, with its annotated and detected boxes.

Formats as published at research.google.com/ava, without headers. Annotations: `video_id,timestamp,
x1,y1,x2,y2,action_id[,person_id]`, or two columns for a keyframe without boxes; excluded keyframes:
`video_id,timestamp`; detections: `video_id,timestamp,x1,y1,x2,y2[,action_id],score`. Timestamps are
seconds in the video, equal as numbers (`902`, `0902`, `902.0`); coordinates are fractions of the frame.
"""

import abc
import dataclasses
import functools
import os
import re
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from datasets import annotations, label_map
from datasets.annotations import GROUP, Annotations, KeyframeBoxes, LabelGroup, Rejected, Row
from datasets.region_records import Region
from errors import DataError

LAYOUTS = ('ava', 'ava_kinetics')

_Key = tuple[str, Decimal]
"""A video's id and the time of a keyframe in it, in seconds."""
_Box = tuple[float, float, float, float]
_SHOWN_KEYS = 3


@dataclasses.dataclass(frozen=True)
class Tally:
  """What became of a file's rows: `rows` is the sum of the others.

  Attributes:
    file: its name.
    rows: that are not blank.
    used: in keyframes to be converted; of the list of excluded keyframes, those that can be read.
    rejected: cannot be used; listed with a reason, or their keyframe is.
    excluded: of keyframes on the list of excluded ones.
    repeated: detections that repeat a box, as files with a row for each action do.
    elsewhere: detections in keyframes that are not annotated, or cannot be used.
  """

  file: str
  rows: int
  used: int
  rejected: int
  excluded: int = 0
  repeated: int = 0
  elsewhere: int = 0


@dataclasses.dataclass(frozen=True)
class Detections(Annotations):
  """Annotations of boxes, and what became of each file's rows, those of the annotations first."""

  tallies: tuple[Tally, ...] = ()


def read(
  path: str | os.PathLike[str],
  *,
  video_root: str | os.PathLike[str],
  labelmap: str | os.PathLike[str],
  excluded: str | os.PathLike[str] | None = None,
  proposals: Sequence[str | os.PathLike[str]] = (),
  clip_seconds: float = 3.0,
) -> Detections:
  """Reads the annotated keyframes whose videos are there.

  A keyframe that is said to have no boxes is a row if something was detected in it: an official
  score counts that as wrong.

  Args:
    path: annotations.
    video_root: folder with the videos, at any depth: `ID.*`, or parts `ID_START_END.*` in seconds.
    labelmap: the classes, as pbtxt.
    excluded: keyframes to leave out.
    proposals: files of detections.
    clip_seconds: length of the clips about the keyframes.

  Raises:
    DataError: a file cannot be read, no keyframe can be used, or a file of proposals has none in
      common with the annotations. Mistakes of single rows are in `rejected`.
  """
  if not 0 < clip_seconds <= 60:
    raise DataError(f'clip_seconds: expected more than 0 and at most 60, got {clip_seconds}.')
  classes = label_map.read(labelmap)
  left_out = _Excluded(excluded) if excluded else None
  keys = left_out.keys if left_out else set()
  annotated = _Annotated(path, classes, keys)
  boxes: dict[_Key, dict[_Box, float]] = {}
  detected = [_Detected(file, annotated, keys, boxes) for file in proposals]
  rows, unusable = _rows(annotated, boxes, _Videos(video_root), clip_seconds)
  rejected = [r for file in (annotated, left_out, *detected) if file for r in file.rejected]
  rejected += unusable.values()
  if not rows:
    first = f' The first: row {rejected[0].number}: {rejected[0].reason}' if rejected else ''
    raise DataError(f'{path}: no usable keyframe, {len(rejected)} rejected.{first}')
  lost = sum(annotated.keyframes[key].rows for key in unusable)
  tallies = [annotated.tally(lost), *(file.tally(unusable) for file in detected)]
  tallies += [left_out.tally()] if left_out else []
  group = LabelGroup(tuple(classes.values()), True, True, tuple(classes))
  return Detections({GROUP: group}, tuple(rows), tuple(rejected), tuple(tallies))


class DetectedBoxes(NamedTuple):
  """The boxes to look at in a keyframe: ymin, xmin, ymax, xmax in [0, 1], and the score of each."""

  seconds: float
  boxes: tuple[_Box, ...]
  scores: tuple[float, ...]


def read_boxes(path: str | os.PathLike[str]) -> dict[str, list[DetectedBoxes]]:
  """Reads boxes without their actions: of a detector, or of AVA's annotations.

  Rows are `video_id,timestamp,x1,y1,x2,y2`, followed by nothing, by `[action_id,]score`, or, if that
  is a whole number in all rows, by `action_id[,person_id]` of annotations. The score of a box is 1
  without one, and the highest of the rows that repeat it. There is no header.

  Returns:
    Video's id -> its keyframes by time.

  Raises:
    DataError: the file cannot be read, has no rows, or one that cannot be used.
  """
  rows = list(annotations.read_table(path))
  scored = any(len(cells) > 6 and not cells[-1].isdecimal() for _, cells in rows)
  found: dict[str, dict[Decimal, dict[_Box, float]]] = {}
  for line, cells in rows:
    try:
      name, seconds = _key(cells, (6, 7, 8), 'video_id,timestamp,x1,y1,x2,y2[,action_id][,score]')
      score = _fraction('score', cells[-1]) if scored and len(cells) > 6 else 1.0
      boxes = found.setdefault(name, {}).setdefault(seconds, {})
      box = _box(cells)
      boxes[box] = max(score, boxes.get(box, 0.0))
    except _Mistake as mistake:
      raise DataError(f'{path}, line {line}: {mistake}.') from mistake
  if not found:
    raise DataError(
      f'{path}: no rows. Expected video_id,timestamp,x1,y1,x2,y2[,score] for each box.'
    )
  return {
    name: [DetectedBoxes(float(t), tuple(b), tuple(b.values())) for t, b in sorted(own.items())]
    for name, own in found.items()
  }


class _Mistake(Exception):
  """Why a row cannot be used, as a sentence without its full stop."""


class _File(abc.ABC):
  """A csv file that has been read: how many rows it has, and which cannot be used."""

  def __init__(self, path: str | os.PathLike[str]):
    self.path, self.name = path, os.path.basename(path)
    self.rows = 0
    self.rejected: list[Rejected] = []
    for line, cells in annotations.read_table(path):
      self.rows += 1
      try:
        self._take(line, cells)
      except _Mistake as mistake:
        self.rejected.append(Rejected(line, self.name, f'{mistake}.'))

  @abc.abstractmethod
  def _take(self, line: int, cells: list[str]) -> None:
    """Takes a row, or raises a _Mistake."""


class _Excluded(_File):
  """A list of keyframes."""

  def __init__(self, path: str | os.PathLike[str]):
    self.keys: set[_Key] = set()
    super().__init__(path)

  def _take(self, line: int, cells: list[str]) -> None:
    del line
    self.keys.add(_key(cells, (2,), 'video_id,timestamp'))

  def tally(self) -> Tally:
    return Tally(self.name, self.rows, self.rows - len(self.rejected), len(self.rejected))


@dataclasses.dataclass
class _Keyframe:
  """An annotated keyframe: its first line, its name as it stands there, and (box, class) -> line."""

  line: int
  name: str
  boxes: dict[tuple[_Box, int], int] = dataclasses.field(default_factory=dict)

  @property
  def rows(self) -> int:
    return max(len(self.boxes), 1)


class _Annotated(_File):
  """Annotated keyframes in the order of the file."""

  def __init__(
    self, path: str | os.PathLike[str], classes: Mapping[int, str], excluded: Container[_Key]
  ):
    self._numbers = {number: place for place, number in enumerate(classes)}
    self.names = tuple(classes.values())
    self._out = excluded
    self.excluded = 0
    self.keyframes: dict[_Key, _Keyframe] = {}
    super().__init__(path)

  def _take(self, line: int, cells: list[str]) -> None:
    wanted = 'video_id,timestamp[,x1,y1,x2,y2,action_id[,person_id]]'
    key = _key(cells, (2, 7, 8), wanted)
    if key in self._out:
      self.excluded += 1
      return
    known = self.keyframes.get(key)
    if known and not (known.boxes and len(cells) > 2):
      says = 'says that the keyframe has no boxes' if not known.boxes else 'has a box in it'
      raise _Mistake(f'line {known.line} {says}')
    keyframe = known or _Keyframe(line, f'{cells[0]},{cells[1]}')
    if len(cells) > 2:
      box, label = _box(cells), self._label(cells[6])
      if (box, label) in keyframe.boxes:
        raise _Mistake(f'same box and class as line {keyframe.boxes[box, label]}')
      keyframe.boxes[box, label] = line
    self.keyframes[key] = keyframe

  def _label(self, cell: str) -> int:
    if not cell.isdecimal() or int(cell) not in self._numbers:
      numbers = list(self._numbers)
      raise _Mistake(
        f'class {cell!r} is not in the label map of {len(numbers)} classes, {numbers[0]} to '
        f'{numbers[-1]}'
      )
    return self._numbers[int(cell)]

  def tally(self, lost: int) -> Tally:
    """Counts, with `lost` rows of keyframes that cannot be used."""
    bad = len(self.rejected) + lost
    return Tally(self.name, self.rows, self.rows - bad - self.excluded, bad, self.excluded)


class _Detected(_File):
  """Detections in annotated keyframes."""

  def __init__(
    self,
    path: str | os.PathLike[str],
    annotated: _Annotated,
    excluded: Container[_Key],
    boxes: dict[_Key, dict[_Box, float]],
  ):
    self._annotated, self._out, self._boxes = annotated, excluded, boxes
    self.excluded = self.repeated = self.elsewhere = 0
    self._new: Counter[_Key] = Counter()
    self._others: dict[str, None] = {}
    super().__init__(path)
    if not self._new and not self.repeated:
      raise self._without_overlap()

  def _take(self, line: int, cells: list[str]) -> None:
    del line
    key = _key(cells, (7, 8), 'video_id,timestamp,x1,y1,x2,y2[,action_id],score')
    if key in self._out:
      self.excluded += 1
      return
    box, score = _box(cells), _fraction('score', cells[-1])
    if key not in self._annotated.keyframes:
      self.elsewhere += 1
      if len(self._others) < _SHOWN_KEYS:
        self._others[f'{cells[0]},{cells[1]}'] = None
      return
    found = self._boxes.setdefault(key, {})
    if box in found:
      self.repeated += 1
    else:
      self._new[key] += 1
    found[box] = max(score, found.get(box, 0.0))

  def tally(self, unusable: Container[_Key]) -> Tally:
    """Counts, with `unusable` keyframes."""
    used = sum(count for key, count in self._new.items() if key not in unusable)
    elsewhere = self.elsewhere + self._new.total() - used
    bad = len(self.rejected)
    return Tally(self.name, self.rows, used, bad, self.excluded, self.repeated, elsewhere)

  def _without_overlap(self) -> DataError:
    here = list(self._others)
    there = [k.name for k in list(self._annotated.keyframes.values())[:_SHOWN_KEYS]]
    bad = ''
    if self.rejected:
      first = self.rejected[0]
      bad = f' {len(self.rejected):,} rows are rejected, the first, {first.number}: {first.reason}'
    return DataError(
      f'{self.path}: none of its {self.rows:,} rows is of a keyframe of {self._annotated.path}: '
      f'there are {there}, here {here}.{bad} Give the detections of the same videos, with the same '
      'ids and times in seconds.'
    )


def _key(cells: Sequence[str], sizes: Sequence[int], wanted: str) -> _Key:
  """The keyframe that a row is of."""
  if len(cells) not in sizes:
    raise _Mistake(f'{len(cells)} columns, expected {" or ".join(map(str, sizes))}: {wanted}')
  if not cells[0]:
    raise _Mistake('no video_id')
  return cells[0], _seconds(cells[1])


@functools.lru_cache(maxsize=1 << 12)
def _seconds(text: str) -> Decimal:
  try:
    seconds = Decimal(text)
  except InvalidOperation:
    seconds = Decimal('NaN')
  if not seconds.is_finite() or seconds < 0:
    raise _Mistake(f'timestamp is {text!r}, expected seconds')
  return seconds


def _fraction(name: str, text: str) -> float:
  try:
    value = float(text)
  except ValueError as error:
    raise _Mistake(f'{name} is {text!r}, expected a number') from error
  if not 0 <= value <= 1:
    raise _Mistake(f'{name} is {text}, outside [0, 1]')
  return value


def _box(cells: Sequence[str]) -> _Box:
  """ymin, xmin, ymax, xmax of the columns x1, y1, x2, y2."""
  values = [_fraction(name, text) for name, text in zip(('x1', 'y1', 'x2', 'y2'), cells[2:6])]
  for low, name in enumerate('xy'):
    # Records hold float32.
    if not np.float32(values[low]) < np.float32(values[low + 2]):
      first, second = cells[2 + low], cells[4 + low]
      raise _Mistake(f'{name}1 is {first} and {name}2 {second}, expected {name}1 < {name}2')
  x1, y1, x2, y2 = values
  return y1, x1, y2, x2


class _Videos:
  """The videos of a folder by id: whole ones, and parts that begin at some second of the video."""

  _PART = re.compile(r'(.+)_(\d+(?:\.\d+)?)_(\d+(?:\.\d+)?)')

  def __init__(self, root: str | os.PathLike[str]):
    self._root = root
    self._whole: dict[str, str] = {}
    self._parts: dict[str, list[tuple[Decimal, Decimal, str]]] = {}
    for path in annotations.find_videos(root):
      stem = PurePosixPath(path).stem
      self._whole.setdefault(stem, path)
      if part := self._PART.fullmatch(stem):
        span = Decimal(part[2]), Decimal(part[3])
        self._parts.setdefault(part[1], []).append((*span, path))

  def find(self, video: str, seconds: Decimal) -> tuple[str, float]:
    """Path of the video that shows a time, and the second of the video that it begins at."""
    if video in self._whole:
      return self._whole[video], 0.0
    parts = self._parts.get(video, [])
    if not parts:
      raise _Mistake(f'no video named {video!r} or {video}_START_END under {self._root}')
    for start, end, path in parts:
      if start <= seconds <= end:
        return path, float(start)
    raise _Mistake(f'the keyframe at {seconds} s is beyond {[path for *_, path in parts[:3]]}')


def _rows(
  annotated: _Annotated,
  boxes: Mapping[_Key, Mapping[_Box, float]],
  videos: _Videos,
  clip_seconds: float,
) -> tuple[list[Row], dict[_Key, Rejected]]:
  """The keyframes as rows, and those that cannot be used."""
  rows, unusable = [], {}
  for key, keyframe in annotated.keyframes.items():
    proposals = boxes.get(key, {})
    try:
      if not keyframe.boxes and not proposals:
        raise _Mistake('a keyframe without any box, annotated or detected')
      path, start = videos.find(*key)
    except _Mistake as mistake:
      reason = f'{mistake} ({keyframe.name!r}, rows: {keyframe.rows}).'
      unusable[key] = Rejected(keyframe.line, annotated.name, reason)
      continue
    names = annotated.names
    found = KeyframeBoxes(
      seconds=float(key[1]),
      clip_seconds=clip_seconds,
      file_start=start,
      regions=tuple(Region(box, label, names[label]) for box, label in keyframe.boxes),
      proposals=tuple(Region(box, score=score) for box, score in proposals.items()),
    )
    rows.append(Row(keyframe.line, path, {}, keyframe.name, boxes=found))
  return rows, unusable
