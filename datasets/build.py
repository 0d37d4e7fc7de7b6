"""Rows -> shards, index and manifest of a split. Interrupted at any time, the same call goes on.

A split is planned as a list of shards. Each is one task, done by one worker: it writes the shard
under a temporary name, renames it, and notes its facts in `.building-SPLIT/`. A task whose note is
there is done. The last step writes `rejected-SPLIT.csv`, the index and the manifest, and removes the notes.
"""

import contextlib
import csv
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets import index, manifest, records
from datasets.annotations import LabelGroup, Rejected, Row
from datasets.convert import Settings, convert_row
from errors import DataError

GENERATOR = 'tools.build_records'
ROWS_A_SHARD = 128
"""About 400 MB of ten-second clips by default; an interruption costs each worker one shard."""

_VERSION = 1
_SHUFFLE_SEED = 0
_PLAN = 'plan.json'


@dataclasses.dataclass(frozen=True)
class ShardTask:
  """What a worker needs to make one shard: where to, the rows in order, and how.

  Attributes:
    directory: of the dataset.
    folder: of the notes, inside the directory.
    name: file name of the shard.
    rows: what to convert.
    settings: how.
  """

  directory: str
  folder: str
  name: str
  rows: tuple[Row, ...]
  settings: Settings

  @property
  def note(self) -> Path:
    """Where the facts of the finished shard are written."""
    return Path(self.folder) / f'{self.name}.json'

  @property
  def current(self) -> Path:
    """Holds the path of the video that is being converted."""
    return Path(self.folder) / f'{self.name}.current'

  def facts(self) -> dict[str, Any] | None:
    """What `build_shard` noted, or None if the shard is not there whole."""
    try:
      facts: dict[str, Any] = json.loads(self.note.read_text(encoding='utf-8'))
      if facts['examples'] and (Path(self.directory) / self.name).stat().st_size != facts['bytes']:
        return None
    except (FileNotFoundError, ValueError):
      return None
    return facts


@dataclasses.dataclass(frozen=True)
class Plan:
  """A split to be built.

  Attributes:
    directory: of the dataset.
    split: name of the split.
    settings: how rows become records.
    tasks: one for each shard.
    rejected: rows that the annotation reader rejected.
    identity: JSON object that tells this plan from others: settings, hashes of rows and classes.
    annotations: what the rows were read from, for the manifest's `source`.
  """

  directory: Path
  split: str
  settings: Settings
  tasks: tuple[ShardTask, ...]
  rejected: tuple[Rejected, ...]
  identity: Mapping[str, Any]
  annotations: Mapping[str, Any]

  @property
  def folder(self) -> Path:
    """Where the notes of finished shards lie."""
    return self.directory / f'.building-{self.split}'

  @property
  def rejected_csv(self) -> Path:
    """Where the rejected rows are listed."""
    return self.directory / f'rejected-{self.split}.csv'

  @property
  def num_rows(self) -> int:
    """Rows of all tasks."""
    return sum(len(task.rows) for task in self.tasks)


@dataclasses.dataclass(frozen=True)
class Built:
  """How building a split ended.

  Attributes:
    examples: records written.
    rejected: rows rejected, by the annotation reader or by the converter.
    already: whether it was all there before.
  """

  examples: int
  rejected: tuple[Rejected, ...]
  already: bool


def make_plan(
  directory: str | os.PathLike[str],
  split: str,
  rows: Sequence[Row],
  settings: Settings,
  *,
  rejected: Sequence[Rejected] = (),
  annotations: Mapping[str, Any] | None = None,
  shards: int | None = None,
) -> Plan:
  """Deals the rows, shuffled, to shards; the same arguments give the same plan.

  Args:
    directory: of the dataset.
    split: name of the split.
    rows: what to convert.
    settings: how.
    rejected: rows that were rejected before, to be reported with the others.
    annotations: what the rows were read from, for the manifest.
    shards: number of shards; None: one for each 128 rows, and up to 16 for fewer rows than that.

  Raises:
    DataError: no rows, a split name that is no file name, or more shards than rows.
  """
  if not rows:
    raise DataError(f'split {split!r}: there are no rows to convert.')
  if not split or os.path.basename(split) != split or split.startswith('.'):
    raise DataError(f'split {split!r}: expected a plain name, such as train.')
  number = _default_shards(len(rows)) if shards is None else shards
  if not 1 <= number <= len(rows):
    raise DataError(f'split {split!r}: expected 1 to {len(rows)} (rows) shards, got {number}.')
  order = np.random.default_rng(_SHUFFLE_SEED).permutation(len(rows))
  folder = Path(directory) / f'.building-{split}'
  tasks = tuple(
    ShardTask(
      directory=os.fspath(directory),
      folder=str(folder),
      name=f'{split}-{shard:05d}-of-{number:05d}.tfrecord',
      rows=tuple(rows[i] for i in order[shard::number]),
      settings=settings,
    )
    for shard in range(number)
  )
  identity = {
    'version': _VERSION,
    'size': settings.size,
    'quality': settings.quality,
    'fps': settings.fps,
    'shards': number,
    'rows': len(rows),
    'rows_sha256': _sha256([_content(row, row.boxes is None) for row in rows]),
    'classes_sha256': _sha256(
      [[n, _content(g, not g.regions)] for n, g in settings.groups.items()]
    ),
  }
  source = dict(annotations or {})
  return Plan(Path(directory), split, settings, tasks, tuple(rejected), identity, source)


def _content(value: Row | LabelGroup, of_clips: bool) -> list[Any]:
  """Its fields, without those of boxes where there are none: what was built before stays known."""
  unused = ('boxes', 'regions', 'class_ids') if of_clips else ()
  return [content for name, content in vars(value).items() if name not in unused]


def _default_shards(rows: int) -> int:
  return max(-(-rows // ROWS_A_SHARD), min(16, -(-rows // 8)))


def _sha256(content: Any) -> str:
  return hashlib.sha256(json.dumps(content, default=vars).encode()).hexdigest()


def build(plan: Plan, run: Callable[[Plan, Sequence[ShardTask]], None]) -> Built:
  """Builds a split, or what is missing of it.

  Args:
    plan: the split.
    run: calls `build_shard` for each of the tasks, in whatever process.

  Raises:
    DataError: the directory holds another dataset, or this split of other rows or settings; every
      row was rejected; or the same split is being built elsewhere.
  """
  found = _existing(plan)
  if found is not None and plan.split in found.splits:
    return _already(plan, found)
  with _notes(plan):
    pending = [task for task in plan.tasks if task.facts() is None]
    if pending:
      run(plan, pending)
    result = _finish(plan, found)
  shutil.rmtree(plan.folder)
  return result


def build_shard(task: ShardTask, report: Callable[[bool], None] = lambda written: None) -> None:
  """Converts the rows of a shard and writes it; nothing torn ever gets the shard's name.

  Args:
    task: the shard.
    report: called after each row with whether it was written; may raise to stop.

  Raises:
    DataError: the shard cannot be written.
  """
  rejected: list[Rejected] = []
  facts: dict[str, Any] = {'examples': 0, 'bytes': 0, 'frames': 0}
  facts |= {'seconds': [], 'frame_rates': [], 'psnr': []}

  def examples() -> Iterator[bytes]:
    for row in task.rows:
      task.current.write_text(row.path, encoding='utf-8')
      result = convert_row(row, task.settings)
      if isinstance(result, Rejected):
        rejected.append(result)
      else:
        yield result.example
        facts['examples'] += 1
        facts['frames'] += result.frames
        facts['seconds'].append(round(result.seconds, 3))
        facts['frame_rates'].append(round(result.frame_rate, 3))
        facts['psnr'] += [round(value, 2) for value in result.psnr]
      report(not isinstance(result, Rejected))

  temporary = manifest.temporary_path(Path(task.folder) / task.name)
  try:
    records.write_shard(temporary, examples())
    facts['bytes'] = temporary.stat().st_size
    facts['rejected'] = [dataclasses.astuple(row) for row in rejected]
    if facts['examples']:
      os.replace(temporary, Path(task.directory) / task.name)
    _write_json(task.note, facts)
  finally:
    temporary.unlink(missing_ok=True)
    task.current.unlink(missing_ok=True)


def _write_json(path: Path, content: Any) -> None:
  temporary = manifest.temporary_path(path)
  temporary.write_text(json.dumps(content), encoding='utf-8')
  os.replace(temporary, path)


def _existing(plan: Plan) -> manifest.Manifest | None:
  """The dataset that is there, if it can hold the split."""
  if not (plan.directory / manifest.FILE_NAME).exists():
    return None
  found = manifest.load(plan.directory)
  if found.source.get('generator') != GENERATOR:
    raise DataError(
      f'{plan.directory}: holds a dataset made by '
      f'{found.source.get("generator", "another program")}. Choose another directory.'
    )
  for name in {**found.tasks, **plan.settings.groups}:
    there, here = found.tasks.get(name), plan.settings.groups.get(name)
    if there is None or here is None:
      raise DataError(
        f'{plan.directory}: has the label groups {list(found.tasks)}, split {plan.split!r} has '
        f'{list(plan.settings.groups)}. Splits of a dataset share them.'
      )
    if there.classes != here.classes:
      raise DataError(
        f'{plan.directory}: the classes of {name!r} differ: '
        f'{_difference(there.classes, here.classes)}. Splits of a dataset share them: give the same '
        'class list, or another directory.'
      )
    kinds = [(group.multi_label, group.regions, group.class_ids) for group in (there, here)]
    if kinds[0] != kinds[1]:
      raise DataError(
        f'{plan.directory}: the label group {name!r} is (several labels, of boxes, ids) {kinds[0]} '
        f'there and {kinds[1]} here. Splits of a dataset share them: choose another directory.'
      )
  return found


def _difference(there: Sequence[str], here: Sequence[str]) -> str:
  only_there = [name for name in there if name not in here][:3]
  only_here = [name for name in here if name not in there][:3]
  return (
    f'{len(there)} are there, {len(here)} given (only there: {only_there}, only given: {only_here})'
  )


def _already(plan: Plan, found: manifest.Manifest) -> Built:
  source = found.source['splits'][plan.split]
  _check_identity(plan, source['plan'], f'choose another directory or delete {plan.directory}')
  rejected: list[Rejected] = []
  if plan.rejected_csv.exists():
    with open(plan.rejected_csv, encoding='utf-8', newline='') as file:
      rejected = [Rejected(int(n), path, reason) for n, path, reason in list(csv.reader(file))[1:]]
  return Built(found.splits[plan.split].examples, tuple(rejected), True)


def _check_identity(plan: Plan, other: Mapping[str, Any], advice: str) -> None:
  differences = [
    f'{name} {other.get(name)!r} there, {value!r} now'
    for name, value in plan.identity.items()
    if other.get(name) != value
  ]
  if differences:
    raise DataError(
      f'{plan.directory}: split {plan.split!r} was begun with other rows or settings: '
      f'{"; ".join(differences)}. To build this instead, {advice}.'
    )


@contextlib.contextmanager
def _notes(plan: Plan) -> Iterator[None]:
  """The folder of notes, locked, holding this plan and nothing torn."""
  plan.folder.mkdir(parents=True, exist_ok=True)
  with open(plan.folder / 'lock', 'w') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise DataError(f'{plan.folder}: another process is building this split. Wait.') from error
    path = plan.folder / _PLAN
    if path.exists():
      other = json.loads(path.read_text(encoding='utf-8'))
      _check_identity(plan, other, f'delete {plan.folder} and the shards of this split')
    else:
      _write_json(path, plan.identity)
    for leftover in [*plan.folder.glob('.*.tmp'), *plan.folder.glob('*.current')]:
      leftover.unlink()
    yield


def _finish(plan: Plan, found: manifest.Manifest | None) -> Built:
  """Writes the rejected rows, indexes and the manifest from what the shards noted."""
  facts = [_finished(task) for task in plan.tasks]
  rejected = [*plan.rejected, *(Rejected(*row) for f in facts for row in f['rejected'])]
  rejected.sort(key=lambda row: row.number)
  _write_rejected(plan.rejected_csv, rejected)
  shards = tuple(
    manifest.Shard(task.name, f['bytes'], f['examples'])
    for task, f in zip(plan.tasks, facts, strict=True)
    if f['examples']
  )
  if not shards:
    shutil.rmtree(plan.folder)  # Or the next try would find every row done.
    raise DataError(
      f'split {plan.split!r}: none of the {len(rejected)} rows gave a record. The first: row '
      f'{rejected[0].number}, {rejected[0].path}: {rejected[0].reason} All are in '
      f'{plan.rejected_csv}.'
    )
  split = manifest.Split(plan.split, shards)
  made = _merged(plan, found, split, _source(plan, facts, len(rejected)))
  indexes = {plan.split: index.build(plan.directory, made, plan.split)}
  if found is not None:  # Their stamps change with the manifest, their content does not.
    indexes |= {name: index.open_index(plan.directory, found, name) for name in found.splits}
  for name, built in indexes.items():
    index.save(plan.directory, made, name, built)
  manifest.write(plan.directory, made)
  return Built(split.examples, tuple(rejected), False)


def _finished(task: ShardTask) -> dict[str, Any]:
  facts = task.facts()
  if facts is None:
    raise DataError(f'{task.directory}: {task.name} is gone since it was written. Build it again.')
  return facts


def _write_rejected(path: Path, rejected: Iterable[Rejected]) -> None:
  """Writes `row,path,reason`, or removes an older file when there is nothing to tell."""
  lines = [dataclasses.astuple(row) for row in rejected]
  if not lines:
    path.unlink(missing_ok=True)
    return
  temporary = manifest.temporary_path(path)
  with open(temporary, 'w', encoding='utf-8', newline='') as file:
    csv.writer(file).writerows([('row', 'path', 'reason'), *lines])
  os.replace(temporary, path)


def _merged(
  plan: Plan, found: manifest.Manifest | None, split: manifest.Split, source: Mapping[str, Any]
) -> manifest.Manifest:
  """The manifest with the new split beside those it had."""
  splits = [*(found.splits.values() if found else ()), split]
  sources = {**(found.source['splits'] if found else {}), plan.split: source}
  groups = {
    name: manifest.Group(g.classes, g.multi_label, g.regions, g.class_ids)
    for name, g in plan.settings.groups.items()
  }
  return manifest.create(splits, groups, {'generator': GENERATOR, 'splits': sources})


def _source(plan: Plan, facts: Sequence[Mapping[str, Any]], rejected: int) -> dict[str, Any]:
  """What the manifest says about how a split was made and what is in it."""

  def gather(name: str) -> list[float]:
    return [value for f in facts for value in f[name]]

  psnr = gather('psnr')
  return {
    'plan': dict(plan.identity),
    'annotations': dict(plan.annotations),
    'rejected': rejected,
    'frames': sum(f['frames'] for f in facts),
    'seconds_histogram': _histogram(gather('seconds')),
    'frame_rate_histogram': _histogram(gather('frame_rates')),
    'jpeg_psnr_db': {
      'median': round(float(np.median(psnr)), 2),
      'min': min(psnr),
      'frames': len(psnr),
    },
  }


def _histogram(values: Iterable[float]) -> dict[str, int]:
  """How often each whole number is the nearest one."""
  return {str(value): count for value, count in sorted(Counter(map(round, values)).items())}


def hold_out(rows: Sequence[Row], fraction: float) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
  """Rows to train and to test on: of each class about `fraction` of the videos are held out.

  A video goes to one side with all its clips, so that none of it is seen in training. Which videos
  are held out depends on the hash of their paths alone. A class of one video stays in training.

  Raises:
    DataError: the fraction is not between 0 and 1, or leaves one side empty.
  """
  if not 0 < fraction < 1:
    raise DataError(f'holdout: expected a fraction between 0 and 1, got {fraction}.')
  videos: dict[str, dict[str, None]] = defaultdict(dict)  # class -> its videos
  seen: set[str] = set()
  for row in rows:
    if row.path not in seen:
      seen.add(row.path)
      videos[json.dumps(list(row.labels.values()))][row.path] = None
  held: set[str] = set()
  for paths in videos.values():
    ordered = sorted(paths, key=lambda path: hashlib.sha256(path.encode()).digest())
    held.update(ordered[: min(round(fraction * len(ordered)), len(ordered) - 1)])
  train = tuple(row for row in rows if row.path not in held)
  test = tuple(row for row in rows if row.path in held)
  if not test:
    raise DataError(
      f'holdout {fraction} of {len(seen)} videos in {len(videos)} classes leaves nothing to test '
      'on. Hold out more, or name a split for each row in the csv.'
    )
  return train, test
