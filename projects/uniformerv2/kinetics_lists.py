"""Annotation files of Kinetics-400, -600 and -700 -> clips with the classes of Kinetics-710."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets import annotations
from datasets.annotation_layouts import SPLITS
from datasets.class_names import nearest_in
from datasets.progress import with_progress
from errors import DataError
from projects.uniformerv2 import label_table

COLUMNS = ('label', 'youtube_id', 'time_start', 'time_end', 'split')

_ID = re.compile(r'([A-Za-z0-9_-]{11})(?:_\d{6}_\d{6})?')
_SHOWN = 10


class Clip(NamedTuple):
  """A row of an annotation file.

  Attributes:
    set_name: 'k400', 'k600' or 'k700'.
    split: 'train', 'validation' or 'test'.
    youtube_id: 11 characters.
    name: the class as the file spells it; '' where a test list has none.
    label: the same class in Kinetics-710.
    times: start and end in seconds, as the file has them; in a test list anything.
    file: name of the file.
    row: line in it, from 1.
  """

  set_name: str
  split: str
  youtube_id: str
  name: str
  label: str
  times: tuple[str, str]
  file: str
  row: int


def read(set_name: str, paths: Sequence[str]) -> list[Clip]:
  """Reads the annotation files of a set, csv with `COLUMNS` as published; test lists may lack `label`.

  Raises:
    DataError: a file is of another kind; rows without an id or with what is none, of an unknown split or
      class, or without times; two spellings of one class; no training or no validation rows.
  """
  mistakes: list[str] = []
  clips = [clip for path in paths for clip in _rows(set_name, path, mistakes)]
  mistakes += _unknown_classes(set_name, clips)
  if mistakes:
    more = f'\n... and {len(mistakes) - _SHOWN:,} more' if len(mistakes) > _SHOWN else ''
    raise DataError(
      f'{set_name}: {len(mistakes):,} mistakes in its annotation files. Correct them, as a video '
      'that is not recognised can be trained and evaluated on:\n  '
      + '\n  '.join(mistakes[:_SHOWN])
      + more
    )
  _check_spellings(set_name, clips)
  missing = {'train', 'validation'} - {clip.split for clip in clips}
  if missing:
    raise DataError(
      f'{set_name}: no rows of split {sorted(missing)} in {list(paths)}. Give all files of the set '
      f'(--{set_name}=FILE, again for each): what is evaluated on must be known to be left out.'
    )
  return clips


def _rows(set_name: str, path: str, mistakes: list[str]) -> Iterator[Clip]:
  """The clips of a file; what is wrong with a row goes to `mistakes`."""
  lines = annotations.read_table(path)
  header = next(lines, (0, []))[1]
  if missing := set(COLUMNS) - {'label'} - set(header):
    raise DataError(
      f'{path}: no annotation file of Kinetics: found the columns {header}, {sorted(missing)} '
      f'is missing of {list(COLUMNS)}.'
    )
  table, seen = label_table.load(), {}
  total = Path(path).read_bytes().count(b'\n')
  for number, cells in with_progress(lines, total, f'reading {path}'):
    row = dict.fromkeys(COLUMNS, '') | dict(zip(header, cells, strict=False))
    name, split = row['label'].strip('"'), SPLITS.get(row['split'].lower(), '')
    if name not in seen:
      seen[name] = table.label_of(set_name, name) or ''
    found = _ID.fullmatch(row['youtube_id'])
    times = (row['time_start'], row['time_end'])
    tested = split == 'test'
    if found is None or not split or not (tested or (name and _are_times(*times))):
      mistakes.append(f'{path}, row {number}: {_mistake(row)}')
      continue
    file = Path(path).name
    yield Clip(set_name, split, found[1], name, seen[name], times, file, number)


def _mistake(row: dict[str, str]) -> str:
  youtube_id = row['youtube_id']
  if not youtube_id:
    return 'has no youtube_id'
  if not _ID.fullmatch(youtube_id):
    hint = ' (a spreadsheet takes ids that begin with - or = for formulas)' * ('#' in youtube_id)
    return f'youtube_id is {youtube_id!r}, expected 11 letters, digits, - and _{hint}'
  if row['split'].lower() not in SPLITS:
    return f'split is {row["split"]!r}, expected one of {sorted(SPLITS)}'
  if not row['label'].strip('"'):
    return 'has no label'
  return (
    f'time_start is {row["time_start"]!r} and time_end {row["time_end"]!r}, expected seconds, the '
    'start before the end'
  )


def _are_times(start: str, end: str) -> bool:
  try:
    return 0 <= float(start) < float(end) < math.inf
  except ValueError:
    return False


def _unknown_classes(set_name: str, clips: Sequence[Clip]) -> list[str]:
  """A mistake for each name that is no class of the set."""
  unknown = Counter(clip.name for clip in clips if clip.name and not clip.label)
  first = {clip.name: clip for clip in reversed(clips) if clip.name in unknown}
  known = label_table.load().official[set_name].values()
  nearest = nearest_in(known)
  return [
    f'{first[name].file}, row {first[name].row} ({count:,} in all): {name!r} is not among the '
    f'{len(known)} classes of {set_name}{nearest(name)}'
    for name, count in unknown.items()
  ]


def _check_spellings(set_name: str, clips: Sequence[Clip]) -> None:
  """Raises where a set has two names for one class: which of its rows of the head would be meant?"""
  names: dict[str, dict[str, Clip]] = {}
  for clip in clips:
    names.setdefault(clip.label, {}).setdefault(clip.name, clip)
  names.pop('', None)
  double = [found.values() for found in names.values() if len(found) > 1]
  if double:
    lines = (
      ' and '.join(f'{clip.name!r} ({clip.file}, row {clip.row})' for clip in found)
      for found in double
    )
    raise DataError(
      f'{set_name}: {len(double)} classes are spelt in several ways, and would be two classes of its '
      'class list. Spell each in one way in all files:\n  ' + '\n  '.join(lines)
    )
