"""What a merge of Kinetics writes and prints."""

import csv
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from datasets.progress import with_progress
from errors import ConfigError, DataError
from projects.uniformerv2 import label_table
from projects.uniformerv2.kinetics_lists import COLUMNS, Clip
from projects.uniformerv2.merging import Merged

_CHANGES = ('change', 'set', 'split', 'file', 'row', 'youtube_id', 'label', 'because')


def check_free(out: Path) -> None:
  """Raises ConfigError where something is at `out` already."""
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise ConfigError(f'--out={out} is there already: name another folder, or delete it.')


def write(out: Path, merged: Merged) -> dict[str, int]:
  """Writes the lists, all or none of them, and reads them back.

  Returns:
    Training list -> number of its videos that are in a validation or test list that was read, or in
    the validation list written: 0 of each.

  Raises:
    DataError: the folder cannot be written, nothing is left to train on, or a training list has a
      video that is evaluated on.
  """
  if not merged.splits['train']:
    raise DataError(
      'Nothing is left to train on: every training video is in a validation or test list too. Are '
      'the splits in the files right?'
    )
  try:
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f'{out.name}.part-') as folder:
      part = Path(folder) / 'lists'
      part.mkdir()
      training = _write_lists(part, merged)
      overlap = _overlap(part, training, merged)
      if any(overlap.values()):
        raise DataError(
          f'The training lists have videos that are evaluated on: {overlap}. Nothing was written; '
          'this is a mistake of the merge, please report it.'
        )
      os.rename(part, out)
      return overlap
  except OSError as error:
    raise DataError(f'{out} cannot be written: {error.strerror}.') from error


def _write_lists(folder: Path, merged: Merged) -> list[str]:
  """Writes every file; returns the names of the training lists."""
  table = label_table.load()
  own = {f'{name}_train.csv': clips for name, clips in merged.own_train.items()}
  lists = {f'{split}.csv': clips for split, clips in merged.splits.items()}
  for file, clips in (own | lists).items():
    rows = (_row(clip, clip.name if file in own else clip.label) for clip in clips)
    _write_csv(folder / file, (*COLUMNS, 'set'), with_progress(rows, len(clips), f'writing {file}'))
  (folder / 'classes.txt').write_text('\n'.join(table.labels) + '\n', encoding='utf-8')
  shutil.copyfile(label_table.SYNONYMS, folder / label_table.SYNONYMS.name)
  _write_csv(folder / 'changes.csv', _CHANGES, _changes(merged))
  return ['train.csv', *own]


def _row(clip: Clip, label: str) -> tuple[str, ...]:
  return label, clip.youtube_id, *clip.times, clip.split, clip.set_name


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
  with path.open('w', newline='', encoding='utf-8') as file:
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(header)
    writer.writerows(rows)


def _changes(merged: Merged) -> Iterator[tuple[object, ...]]:
  """The rows of changes.csv."""
  for (set_name, name, label), count in _renamed(merged).items():
    yield 'renamed', set_name, '', '', '', '', label, f'{count} clips called {name}'
  for clip, reason, kept in merged.dropped:
    why = f'{kept.set_name} {kept.split} {kept.file} row {kept.row}'
    yield (
      reason, clip.set_name, clip.split, clip.file, clip.row, clip.youtube_id, clip.label,
      f'{why}: {kept.label} {"-".join(kept.times)}',
    )  # fmt: skip


def _renamed(merged: Merged) -> Counter[tuple[str, str, str]]:
  """(set, its name, label) -> clips, of names that are not the label."""
  return Counter((c.set_name, c.name, c.label) for c in merged.clips if c.name != c.label)


def _overlap(folder: Path, training: Sequence[str], merged: Merged) -> dict[str, int]:
  # Not by what the merge left out, which is to be checked.
  evaluated = {clip.youtube_id for clip in merged.clips if clip.split != 'train'}
  evaluated |= _ids(folder / 'validation.csv')
  return {file: len(_ids(folder / file) & evaluated) for file in training}


def _ids(path: Path) -> set[str]:
  with path.open(newline='', encoding='utf-8') as file:
    return {row['youtube_id'] for row in csv.DictReader(file)}


def report(out: Path, merged: Merged, overlap: dict[str, int]) -> str:
  """What was read, renamed, merged and dropped, for people."""
  table = label_table.load()
  lines = [_read_line(table, merged, name) for name in label_table.SETS]
  occurring = {clip.label for clip in merged.splits['train']}
  absent = [label for label in table.labels if label not in occurring]
  lines.append(
    f'classes: {len(table.labels)}; in the training list {len(occurring)}'
    + (f', not {", ".join(absent[:3])}{" ..." * (len(absent) > 3)}' if absent else '')
  )
  renamed = _renamed(merged)
  lines.append(f'renamed: {len(renamed)} class names, {renamed.total():,} clips')
  lines += [f'  {s} {name!r} -> {label!r}: {n:,}' for (s, name, label), n in renamed.items()]
  sizes = {split: len(clips) for split, clips in merged.splits.items()}
  lines.append('merged: ' + ', '.join(f'{split} {n:,}' for split, n in sizes.items()) + ' videos')
  reasons = Counter(f'{d.clip.split} clips {d.reason}' for d in merged.dropped)
  lines.append(f'dropped: {len(merged.dropped):,} clips')
  lines += [f'  {n:,} {reason}' for reason, n in sorted(reasons.items())]
  counted = ', '.join(f'{file} {n}' for file, n in overlap.items())
  lines += [
    f'train/eval overlap: {sum(overlap.values())} videos, recounted in what was written ({counted})',
    f'lists: {out}; every change: {out / "changes.csv"}',
    f'Next: python -m tools.build_records --layout=kinetics --csv={out / "train.csv"} '
    f'--classes={out / "classes.txt"} --video_root=VIDEOS --out=data/kinetics710, and validation.csv',
  ]
  return '\n'.join(lines)


def _read_line(table: label_table.LabelTable, merged: Merged, name: str) -> str:
  clips = [clip for clip in merged.clips if clip.set_name == name]
  sizes = Counter(clip.split for clip in clips)
  found = len({clip.label for clip in clips if clip.label})
  counts = ', '.join(f'{split} {sizes[split]:,}' for split in ('train', 'validation', 'test'))
  untested = '' if sizes['test'] else ' (no test list: its videos may be in the training lists)'
  return f'{name}: {found} of {len(table.official[name])} classes, {counts}{untested}'
