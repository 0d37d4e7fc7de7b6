"""The files the public datasets are annotated with -> rows. `LAYOUTS` names them.

Layouts as published by the datasets' authors: the Kinetics release files, the README files of Moments
in Time, EPIC-KITCHENS-100, HACS and Charades, activity-net.org, and the label files of
Something-Something v2. Videos are looked up on disk by their ids, in class folders or not.
"""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from datasets import annotations
from datasets.annotations import GROUP, Annotations, Classes, Entry, LabelGroup
from errors import DataError

SPLITS = {
  'train': 'train',
  'training': 'train',
  'val': 'validation',
  'validate': 'validation',
  'validation': 'validation',
  'test': 'test',
  'testing': 'test',
}
"""What annotation files call a split -> what the project calls it."""


@dataclasses.dataclass(frozen=True)
class Layout:
  """One way of annotating.

  Attributes:
    description: a line for people.
    entries: gives the entries of a file.
    columns: what the header of a csv file must hold, () for other files.
    groups: label groups that rows get, without classes where the file's own names are taken.
    key_is_identity: clips are told apart by the ids the file gives them.
  """

  description: str
  entries: Callable[['_Source'], Iterator[Entry]]
  columns: tuple[str, ...] = ()
  groups: Mapping[str, LabelGroup] = dataclasses.field(
    default_factory=lambda: {GROUP: LabelGroup(())}
  )
  key_is_identity: bool = False


@dataclasses.dataclass(frozen=True)
class _Source:
  """What a layout's reader works on."""

  path: str
  layout: str
  videos: '_Videos'
  groups: Mapping[str, LabelGroup]
  trimmed: bool

  def table(self) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields (line, {column: cell}) of a csv file with the layout's columns; short rows get ''."""
    wanted = LAYOUTS[self.layout].columns
    lines = self.lines(f'at least the columns {list(wanted)}')
    found = next(lines, (0, []))[1]
    if not set(wanted) <= set(found):
      hint = _hint(self.layout, set(found))
      raise self.foreign(f'the columns {found}', f'at least the columns {list(wanted)}', hint)
    for number, cells in lines:
      yield number, dict.fromkeys(found, '') | dict(zip(found, cells, strict=False))

  def lines(self, wanted: str) -> Iterator[tuple[int, list[str]]]:
    """Yields (line, cells) of a csv file."""
    if annotations.read_text(self.path).lstrip()[:1] in ('{', '['):
      raise self.foreign('JSON', f'csv with {wanted}')
    yield from annotations.read_table(self.path)

  def json(self) -> Any:
    """The content of a JSON file."""
    text = annotations.read_text(self.path)
    try:
      return json.loads(text)
    except json.JSONDecodeError as error:
      raise self.foreign(f'what is not JSON ({error})', 'JSON') from error

  def foreign(self, found: str, wanted: str, hint: str = '') -> DataError:
    """The error for a file of another layout."""
    return DataError(
      f'{self.path}: not of layout {self.layout!r}: found {found}, wanted {wanted}.{hint}'
    )


def _hint(layout: str, columns: set[str]) -> str:
  """What a csv file with these columns probably is."""
  missing = set(LAYOUTS[layout].columns) - columns
  if missing <= {'label', 'verb_class', 'noun_class', 'actions'}:
    return ' It has no labels, as published test sets have none.'
  others = [
    name for name, other in LAYOUTS.items() if other.columns and set(other.columns) <= columns
  ]
  return f' It looks like layout {others[0]!r}.' if others else ''


def read(
  path: str | os.PathLike[str],
  layout: str,
  *,
  video_root: str | os.PathLike[str],
  split: str = '',
  classes: Classes = None,
  trimmed: bool = False,
) -> Annotations:
  """Reads an annotation file of a public dataset.

  Args:
    path: the file.
    layout: a name in `LAYOUTS`.
    video_root: folder with the videos, at any depth; an entry without one is rejected.
    split: 'train', 'validation' or 'test' (or the file's word for it): the rows of that split, where
      the file holds several; a file of one split gives all its rows. '': every row.
    classes: class names, as `read_classes` gives them; None: those that occur, sorted (verbs and
      nouns of EPIC-KITCHENS and actions of Charades are numbered instead).
    trimmed: (kinetics) files named by id alone are clips already, so their times are not applied.

  Returns:
    Rows whose `split` is 'train', 'validation', 'test' or '' where the file names none.

  Raises:
    DataError: an unknown layout, a file of another one, no such split, or no row can be used.
  """
  if layout not in LAYOUTS:
    raise DataError(f'layout {layout!r} is unknown; known: {", ".join(LAYOUTS)}.')
  chosen = LAYOUTS[layout]
  groups = _groups(path, chosen, classes)
  source = _Source(str(path), layout, _Videos(video_root), groups, trimmed)
  entries = _of_split(source, chosen.entries(source), split)
  return annotations.collect(path, entries, groups, key_is_identity=chosen.key_is_identity)


def read_classes(path: str | os.PathLike[str], layout: str) -> tuple[str, ...]:
  """Class names in label order from the class file that belongs to a layout.

  Kinds: `{"name": "0"}` (ssv2), `id,key,...` (epic_kitchens), `c000 name` (charades), `name,0`
  (moments_in_time); of other layouts, one name a line.

  Raises:
    DataError: the file is of another kind, or its numbers are not 0, 1, 2, ...
  """
  if layout not in ('ssv2', 'epic_kitchens', 'charades', 'moments_in_time'):
    return annotations.read_classes(path)
  try:
    numbered = _numbered_classes(annotations.read_text(path), path, layout)
    by_number = {int(number): name.strip() for name, number in numbered}
  except (ValueError, TypeError, AttributeError, IndexError) as error:
    raise DataError(f'{path}: not the class file of layout {layout!r} ({error!r}).') from error
  if sorted(by_number) != list(range(len(numbered))):
    raise DataError(
      f'{path}: classes must be numbered 0 to {len(numbered) - 1}, each once; '
      f'found {sorted(by_number)[:5]}...'
    )
  return annotations.checked_classes(path, [by_number[i] for i in range(len(numbered))])


def _numbered_classes(
  text: str, path: str | os.PathLike[str], layout: str
) -> list[tuple[str, str]]:
  """(name, number) pairs of a class file; any of the errors `read_classes` catches."""
  lines = [line for line in text.splitlines() if line.strip()]
  if layout == 'ssv2':
    return list(json.loads(text).items())
  if layout == 'charades':
    pairs = [line.split(maxsplit=1) for line in lines]
    return [(name, code.removeprefix('c')) for code, name in pairs]
  if layout == 'moments_in_time':
    return [(name, number) for name, _, number in (line.rpartition(',') for line in lines)]
  table = annotations.read_table(path)
  columns = next(table, (0, []))[1]
  key, number = columns.index('key'), columns.index('id')
  return [(cells[key], cells[number]) for _, cells in table]


def _groups(
  path: str | os.PathLike[str], layout: Layout, classes: Classes
) -> dict[str, LabelGroup]:
  """The layout's label groups with the classes given, or else its own."""
  multi_label = [name for name, group in layout.groups.items() if group.multi_label]
  given = annotations.label_groups(path, layout.groups, classes, multi_label)
  return {name: given[name] if given[name].classes else layout.groups[name] for name in given}


def _of_split(source: _Source, entries: Iterator[Entry], split: str) -> Iterator[Entry]:
  """Entries of one split, their `split` in the project's words."""
  wanted = SPLITS.get(split.lower(), split)
  found: set[str] = set()
  matched = False
  for entry in entries:
    own = SPLITS.get(entry.split.lower(), entry.split)
    found.add(own)
    if not wanted or not own or own == wanted:
      matched = True
      yield dataclasses.replace(entry, split=own)
  if found and not matched:
    raise DataError(f'{source.path}: has no split {split!r}; it has {sorted(found)}.')


class _Videos:
  """The videos of a folder by their names without suffix."""

  def __init__(self, root: str | os.PathLike[str]):
    self._root = str(root)
    self._by_stem: dict[str, list[str]] = {}
    for path in annotations.find_videos(root):
      self._by_stem.setdefault(PurePosixPath(path).stem, []).append(path)
    if not self._by_stem:
      raise DataError(f'{root}: no videos. Looked for {sorted(annotations.VIDEO_SUFFIXES)}.')

  def entry(self, number: int, stems: list[str], folder: str = '', **fields: Any) -> Entry:
    """An Entry for the first of the names that is there, best in the folder of its class."""
    for stem in stems:
      paths = self._by_stem.get(stem, [])
      best = sorted(
        paths, key=lambda path: _plain(PurePosixPath(path).parent.name) != _plain(folder)
      )
      if best:
        return Entry(number, best[0], **fields)
    problem = f'no video named {" or ".join(map(repr, stems))} under {self._root}'
    return Entry(number, stems[0], split=fields.get('split', ''), problem=problem)


def _plain(name: str) -> str:
  return name.replace('_', ' ').lower()


def _kinetics(source: _Source) -> Iterator[Entry]:
  """Clips cut by the usual scripts carry their times in their names: ID_000010_000020."""
  for number, row in source.table():
    label, split = row['label'].strip('"'), row['split']
    try:
      start, end = (float(row[name]) for name in ('time_start', 'time_end'))
      clip = f'{row["youtube_id"]}_{int(start):06d}_{int(end):06d}'
    except (ValueError, OverflowError):
      yield Entry(number, row['youtube_id'], split=split, problem='time_start or time_end is wrong')
      continue
    names = [clip, row['youtube_id']]
    fields: dict[str, Any] = {'labels': {GROUP: (label,) if label else ()}}
    entry = source.videos.entry(number, names, label, **fields, key=clip, split=split)
    if PurePosixPath(entry.path).stem == row['youtube_id'] and not source.trimmed:
      entry = dataclasses.replace(entry, start=start, end=end)
    yield entry


def _moments_in_time(source: _Source) -> Iterator[Entry]:
  wanted = 'CLASS/NAME.mp4,CLASS[,votes]'
  for number, cells in source.lines(wanted):
    if len(cells) < 2 or '/' not in cells[0]:
      if number == 1:
        raise source.foreign(f'the first line {cells}', f'{wanted} in every line and no header')
      yield Entry(number, cells[0], problem=f'expected {wanted}')
      continue
    path = PurePosixPath(cells[0])
    labels = {GROUP: (cells[1],) if cells[1] else ()}
    yield source.videos.entry(number, [path.stem], path.parent.name, labels=labels)


def _ssv2(source: _Source) -> Iterator[Entry]:
  content = source.json()
  entries = content if isinstance(content, list) else []
  if not any(isinstance(entry, dict) and 'id' in entry for entry in entries):
    raise source.foreign(_kind(content), "a list of {'id', 'template', ...}")
  if not any(isinstance(entry, dict) and 'template' in entry for entry in entries):
    raise DataError(
      f"{source.path}: no entry has a 'template': this is the test set, whose labels are withheld. "
      'Use the files of the train and validation sets.'
    )
  for number, entry in enumerate(entries, start=1):
    name, template = (
      (str(entry.get('id', '')), entry.get('template')) if isinstance(entry, dict) else ('', None)
    )
    if not isinstance(template, str) or not name:
      yield Entry(number, name, problem="'id' or 'template' is missing")
      continue
    label = template.replace('[', '').replace(']', '')
    yield source.videos.entry(number, [name], labels={GROUP: (label,)})


def _epic_kitchens(source: _Source) -> Iterator[Entry]:
  for number, row in source.table():
    try:
      labels = {
        group: (_numbered(row[f'{group}_class'], group, source.groups),) for group in source.groups
      }
      yield source.videos.entry(
        number,
        [row['video_id']],
        labels=labels,
        start=row['start_timestamp'],
        end=row['stop_timestamp'],
        key=row['narration_id'],
      )
    except ValueError as error:
      yield Entry(number, row['video_id'], problem=str(error))


def _activitynet(source: _Source) -> Iterator[Entry]:
  content = source.json()
  if not isinstance(content, dict) or not isinstance(content.get('database'), dict):
    raise source.foreign(_kind(content), "an object with the key 'database'")
  for number, (name, video) in enumerate(content['database'].items(), start=1):
    facts = video if isinstance(video, dict) else {}
    split, segments = str(facts.get('subset', '')), facts.get('annotations')
    if not isinstance(segments, list) or not segments:
      problem = 'no annotated segment (the labels of the test set are withheld)'
      yield Entry(number, name, split=split, problem=problem)
      continue
    for segment in segments:
      yield _segment(source, number, name, segment, split)


def _segment(source: _Source, number: int, name: str, segment: Any, split: str) -> Entry:
  try:
    label, (start, end) = segment['label'], map(float, segment['segment'])
  except (KeyError, TypeError, ValueError):
    problem = f'expected a label and a segment [start, end], found {segment!r:.80}'
    return Entry(number, name, split=split, problem=problem)
  names = [f'v_{name}', name]
  labels = {GROUP: (str(label),)}
  return source.videos.entry(number, names, label, labels=labels, start=start, end=end, split=split)


def _hacs(source: _Source) -> Iterator[Entry]:
  """HACS Segments is annotated as ActivityNet is; of HACS Clips the positive rows are taken."""
  if annotations.read_text(source.path).lstrip()[:1] == '{':
    yield from _activitynet(source)
    return
  for number, row in source.table():
    if row.get('label') not in ('1', '-1'):
      problem = f'label is {row.get("label")!r}, expected 1 or -1'
      yield Entry(number, row['youtube_id'], split=row.get('subset', ''), problem=problem)
    elif row['label'] == '1':
      yield source.videos.entry(
        number,
        [f'v_{row["youtube_id"]}', row['youtube_id']],
        row['classname'],
        labels={GROUP: (row['classname'],)},
        start=row['start'],
        end=row['end'],
        split=row['subset'],
      )


def _charades(source: _Source) -> Iterator[Entry]:
  """The whole video with every action that occurs in it (the paper's classification task)."""
  for number, row in source.table():
    try:
      codes = [action.split()[0] for action in row['actions'].split(';') if action.strip()]
      wrong = [code for code in codes if not re.fullmatch(r'c\d{3}', code)]
      if wrong:
        raise ValueError(f'actions hold {wrong[:3]}, expected c000 START END;...')
      labels = {GROUP: [_numbered(code[1:], GROUP, source.groups) for code in codes]}
      yield source.videos.entry(number, [row['id']], labels=labels)
    except ValueError as error:
      yield Entry(number, row['id'], problem=str(error))


def _numbered(text: str, group: str, groups: Mapping[str, LabelGroup]) -> str:
  """The name of the class with a number; ValueError when there is none."""
  classes = groups[group].classes
  if not text.isdecimal() or int(text) >= len(classes):
    raise ValueError(f'{group} class is {text!r}, expected 0 to {len(classes) - 1}')
  return classes[int(text)]


def _kind(content: Any) -> str:
  if isinstance(content, dict):
    return f'an object with the keys {sorted(content)[:5]}'
  return f'a {type(content).__name__} of {len(content) if hasattr(content, "__len__") else 1}'


def _numbers(name: str, count: int, *, digits: int = 0, multi_label: bool = False) -> LabelGroup:
  return LabelGroup(tuple(f'{name}{i:0{digits}d}' for i in range(count)), multi_label)


LAYOUTS: Mapping[str, Layout] = {
  'kinetics': Layout(
    'Kinetics-400/600/700: csv label,youtube_id,time_start,time_end,split; ID_000010_000020.mp4',
    _kinetics,
    ('label', 'youtube_id', 'time_start', 'time_end', 'split'),
  ),
  'moments_in_time': Layout(
    'Moments in Time: csv CLASS/NAME.mp4,CLASS,votes without header; moments_categories.txt',
    _moments_in_time,
  ),
  'ssv2': Layout(
    'Something-Something v2: json list with id and template; ID.webm; labels.json', _ssv2
  ),
  'epic_kitchens': Layout(
    'EPIC-KITCHENS-100: csv with narration_id, verb_class, noun_class; PXX_YY.MP4; two groups',
    _epic_kitchens,
    (
      'narration_id',
      'video_id',
      'start_timestamp',
      'stop_timestamp',
      'verb_class',
      'noun_class',
    ),
    {'verb': _numbers('verb ', 97), 'noun': _numbers('noun ', 300)},
    key_is_identity=True,
  ),
  'activitynet': Layout(
    'ActivityNet: json database/subset/annotations, a clip per segment; v_ID.mp4', _activitynet
  ),
  'hacs': Layout(
    'HACS Clips (csv classname,youtube_id,subset,start,end,label) or Segments (json); v_ID.mp4',
    _hacs,
    ('classname', 'youtube_id', 'subset', 'start', 'end', 'label'),
  ),
  'charades': Layout(
    'Charades: csv id,...,actions,length, all actions of the whole video (multi-label); ID.mp4',
    _charades,
    ('id', 'actions', 'length'),
    {GROUP: _numbers('c', 157, digits=3, multi_label=True)},
  ),
}
"""By name, for `read`."""
