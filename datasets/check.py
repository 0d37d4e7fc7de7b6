"""Reads every record of a dataset once and reports every defect."""

import collections
import concurrent.futures
import csv
import dataclasses
import functools
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets import index as index_lib
from datasets import layout, records, sources, tfds_dataset
from datasets import manifest as manifest_lib
from datasets.crc32c import masked_crc32c
from datasets.dataset import VideoDataset
from datasets.index import Index
from datasets.manifest import Manifest, Shard
from datasets.record_dataset import decode_frames
from datasets.records import ParsedExample
from errors import DataError

COLUMNS = ('file', 'record', 'byte', 'key', 'problem')
"""Columns of the table that `write_csv` writes."""

SHARD = -1
"""Record number of a defect that is the shard's."""

_MAGIC = {b'\xff\xd8': 'jpeg', b'\x89P': 'png', b'RI': 'webp', b'BM': 'bmp', b'GI': 'gif'}


@dataclasses.dataclass(frozen=True)
class Defect:
  """One thing that is wrong.

  Attributes:
    file: name of the shard; of a folder of videos, the split.
    record: number in the shard (or row of the split), or `SHARD` when the defect is the shard's.
    byte: offset in the file, of the payload or of the frame.
    key: name of the record, '' if there is none.
    kind: 'shard' (its presence, size or count), 'framing', 'checksum' (of the payload), 'layout',
      'labels', 'frames' (their number), 'decode', 'size', 'format', 'index' (bytes differ from
      when the index was built), 'key' (one that repeats in its split) or 'rejected' (a video or a
      row that cannot be used).
    text: what is wrong, in words.
  """

  file: str
  record: int
  byte: int
  key: str
  kind: str
  text: str


@dataclasses.dataclass(frozen=True)
class Report:
  """What a check found.

  Attributes:
    defects: in the order of splits, shards and records.
    records: how many were read.
    frames: how many they hold.
    without_index: splits that have no index yet, so there was nothing to compare frames with.
  """

  defects: tuple[Defect, ...]
  records: int
  frames: int
  without_index: tuple[str, ...]

  @property
  def kinds(self) -> dict[str, int]:
    """Kind -> number of defects, most first."""
    return dict(collections.Counter(defect.kind for defect in self.defects).most_common())


@dataclasses.dataclass(frozen=True)
class _Record:
  """A record as it was read; `row` is its place in the index, None if it has none there."""

  file: str
  number: int
  offset: int
  payload: bytes
  checksum: int
  row: int | None

  def defect(self, kind: str, text: str, key: str | None = None, at: int = 0) -> Defect:
    """A defect at a byte of the payload."""
    return Defect(self.file, self.number, self.offset + at, key or '', kind, text)


@dataclasses.dataclass(frozen=True)
class _Checked:
  """What became of a record."""

  file: str
  number: int
  offset: int
  key: str | None
  num_frames: int
  defects: Sequence[Defect]


def check(
  directory: str | os.PathLike[str],
  splits: Sequence[str] = (),
  *,
  num_threads: int = 8,
  on_record: Callable[[int], None] = lambda total: None,
) -> Report:
  """Reads every record once: framing, checksums, layout, labels, keys, and every frame, decoded.

  A shard that is damaged is read as far as it goes, and the others are read. In a folder of videos,
  and of what TFDS prepared, every frame of every clip is decoded.

  Args:
    directory: holds the shards and `manifest.json`, or videos; or `tfds:NAME`.
    splits: which to read; () all.
    num_threads: threads that check records.
    on_record: called after each record with the number of all there should be.

  Raises:
    DataError: there is no usable manifest, or no such split.
  """
  has_manifest = not (sources.of_videos(directory) or tfds_dataset.is_tfds(directory))
  manifest = manifest_lib.read(directory) if has_manifest else None
  sizes = (
    {name: split.examples for name, split in manifest.splits.items()}
    if manifest
    else sources.contents(directory).split_sizes
  )
  unknown = [split for split in splits if split not in sizes]
  if unknown:
    raise DataError(f'{directory}: no split {unknown[0]!r}; it has {sorted(sizes)}.')
  chosen = splits or list(sizes)
  done = functools.partial(on_record, sum(sizes[split] for split in chosen))
  with concurrent.futures.ThreadPoolExecutor(num_threads, 'check') as pool:
    parts = [
      _check_split(Path(directory), manifest, split, pool, 2 * num_threads, done)
      if manifest
      else _check_videos(_with_all_labels(directory, split), pool, done)
      for split in chosen
    ]
  return Report(
    defects=tuple(defect for part in parts for defect in part.defects),
    records=sum(part.records for part in parts),
    frames=sum(part.frames for part in parts),
    without_index=tuple(split for part in parts for split in part.without_index),
  )


def write_csv(path: str | os.PathLike[str], defects: Iterable[Defect]) -> None:
  """Writes defects as a table, atomically; a shard's own have no record number."""
  temporary = manifest_lib.temporary_path(Path(path))
  try:
    with open(temporary, 'w', newline='', encoding='utf-8') as file:
      writer = csv.writer(file)
      writer.writerow(COLUMNS)
      for d in defects:
        number = '' if d.record == SHARD else d.record
        writer.writerow((d.file, number, d.byte, d.key, f'{d.kind}: {d.text}'))
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def _check_split(
  directory: Path,
  manifest: Manifest,
  split: str,
  pool: concurrent.futures.Executor,
  ahead: int,
  on_record: Callable[[], None],
) -> Report:
  index = index_lib.stored_index(directory, manifest, split)
  shards = manifest.splits[split].shards
  defects: list[Defect] = []
  keys: dict[str, _Checked] = {}
  count = frames = 0
  walk = _walk(directory, shards, _rows(index), defects.append)
  check_one = functools.partial(_check_record, manifest=manifest, index=index)
  for checked in _in_order(pool, check_one, walk, ahead):
    count += 1
    frames += checked.num_frames
    defects += checked.defects
    first = keys.setdefault(checked.key, checked) if checked.key else checked
    if first is not checked:
      text = f'repeats: record {first.number} of {first.file} has it too.'
      place = (checked.file, checked.number, checked.offset)
      defects.append(Defect(*place, checked.key or '', 'key', text))
    on_record()
  # The walk is ahead of the checks.
  order = {shard.name: i for i, shard in enumerate(shards)}
  defects.sort(key=lambda defect: (order[defect.file], defect.record))
  return Report(tuple(defects), count, frames, (split,) if index is None else ())


def _with_all_labels(directory: str | os.PathLike[str], split: str) -> VideoDataset:
  groups = sources.contents(directory).groups
  return sources.open_dataset(directory, split, {name: name for name in groups})


def _check_videos(
  dataset: VideoDataset, pool: concurrent.futures.Executor, on_record: Callable[[], None]
) -> Report:
  """Decodes every frame of every clip, and reads its labels."""

  def decode(row: int) -> Defect | None:
    try:
      for _ in dataset.frames(row, np.arange(dataset.num_frames[row])):
        pass
      dataset.labels(row)
    except DataError as error:
      return Defect(dataset.split, row, 0, dataset.key(row), 'decode', str(error))
    return None

  defects = [Defect(dataset.split, SHARD, 0, '', 'rejected', text) for text in dataset.defects]
  for defect in pool.map(decode, range(len(dataset))):
    defects += [defect] if defect else []
    on_record()
  return Report(tuple(defects), len(dataset), int(dataset.num_frames.sum()), ())


def _rows(index: Index | None) -> dict[tuple[int, int], int]:
  """(shard, offset of the payload) -> row."""
  if index is None:
    return {}
  places = zip(index.shard.tolist(), index.record_offset.tolist(), strict=True)
  return {place: row for row, place in enumerate(places)}


def _in_order(
  pool: concurrent.futures.Executor,
  function: Callable[[_Record], _Checked],
  items: Iterable[_Record],
  ahead: int,
) -> Iterator[_Checked]:
  """`map`, with at most `ahead` items under way."""
  futures: collections.deque[concurrent.futures.Future[_Checked]] = collections.deque()
  for item in items:
    futures.append(pool.submit(function, item))
    if len(futures) >= ahead:
      yield futures.popleft().result()
  while futures:
    yield futures.popleft().result()


def _walk(
  directory: Path,
  shards: Sequence[Shard],
  rows: Mapping[tuple[int, int], int],
  report: Callable[[Defect], None],
) -> Iterator[_Record]:
  """Yields every record that can be read; reports what is wrong with shards."""
  for position, shard in enumerate(shards):
    path = directory / shard.name
    number = end = 0

    def damaged(kind: str, error: Exception, at: int, path: Path = path) -> None:
      text = str(error).removeprefix(f'{path}: ')
      report(Defect(path.name, SHARD, at, '', kind, text))

    try:
      manifest_lib.check_shard(directory, shard)
    except DataError as error:
      damaged('shard', error, 0)
      if not path.is_file():
        continue
    try:
      for offset, payload, checksum in records.read_framed(path):
        row = rows.get((position, offset))
        yield _Record(shard.name, number, offset, payload, checksum, row)
        number += 1
        end = offset + len(payload) + records.FOOTER_BYTES
    except (DataError, OSError) as error:
      damaged('framing', error, end)
    if number != shard.examples:
      text = f'{number} records can be read, {manifest_lib.FILE_NAME} says {shard.examples}.'
      damaged('shard', DataError(text), end)


def _check_record(record: _Record, *, manifest: Manifest, index: Index | None) -> _Checked:
  found: list[Defect] = []
  key, num_frames = None, 0
  if masked_crc32c(record.payload) != record.checksum:
    text = "the payload's checksum differs: its bytes are damaged. Copy or write the shard again."
    found.append(record.defect('checksum', text))
  try:
    example = records.parse_sequence_example(record.payload)
  except DataError as error:
    text = f'not a SequenceExample: {error} of the record. Write the shard again.'
    found.append(record.defect('layout', text))
  else:
    key, num_frames = example.key, len(example.frames or ())
    wrong = layout.problems(example, manifest.tasks, manifest.first_label)
    problems = [record.defect(*problem, key) for problem in wrong]
    found += problems
    if index is not None:
      found += _index_defects(record, example, index, bool(problems))
    found += _frame_defects(record, example)
  return _Checked(record.file, record.number, record.offset, key, num_frames, found)


def _index_defects(
  record: _Record, example: ParsedExample, index: Index, unusable: bool
) -> Iterator[Defect]:
  """Where a record differs from what the index says of it."""
  if record.row is None:
    if not unusable:  # Else the index leaves it out on purpose.
      text = 'the index has no such record: the shard was rewritten. Delete the index.'
      yield record.defect('index', text, example.key)
    return
  spans = example.frames or ()
  offsets, lengths, crcs = (array.tolist() for array in index.frames(record.row))
  if [(record.offset + at, length) for at, length in spans] != list(zip(offsets, lengths)):
    text = 'frames lie elsewhere than the index says: the shard was rewritten. Delete the index.'
    yield record.defect('index', text, example.key)
    return
  for i, (at, length) in enumerate(spans):
    crc = zlib.crc32(memoryview(record.payload)[at : at + length])
    if crc != crcs[i]:
      text = (
        f'frame {i}: bytes differ from when the index was built (crc32 {crc:08x}, expected '
        f'{crcs[i]:08x}). Copy the shard again.'
      )
      yield record.defect('index', text, example.key, at)


def _frame_defects(record: _Record, example: ParsedExample) -> Iterator[Defect]:
  """Frames that do not decode, or are not of the number, size or format they should be."""
  sizes: dict[tuple[int, int], int] = collections.Counter()
  formats: dict[str, int] = collections.Counter()
  for i, (at, length) in enumerate(example.frames or ()):
    data = memoryview(record.payload)[at : at + length]
    if not length:
      continue  # Reported with the layout.
    formats[_format_of(data)] += 1
    try:
      height, width = _decoded_size(data, f'frame {i}')
      sizes[height, width] += 1
    except DataError as error:
      yield record.defect('decode', str(error), example.key, at)
  if len(example.frames or ()) == 1 and not example.is_image:
    yield record.defect('frames', 'a single frame is no video.', example.key)
  for kind, text in (
    ('size', _size_problem(sizes, example)),
    ('format', _format_problem(formats, example)),
  ):
    if text:
      yield record.defect(kind, text, example.key)


def _decoded_size(data: memoryview, name: str) -> tuple[int, int]:
  """Height and width; raises a DataError that names the frame."""
  frame = next(decode_frames([data], lambda _: name))
  return frame.shape[0], frame.shape[1]


def _size_problem(sizes: Mapping[tuple[int, int], int], example: ParsedExample) -> str:
  """What is wrong with frames of these (height, width), '' for nothing."""
  listed = ', '.join(f'{width}x{height} ({count})' for (height, width), count in sizes.items())
  if len(sizes) > 1:
    return f'frames of several sizes: {listed}. Write the record with one frame size.'
  for height, width in sizes:
    stated = [example.context.get(name) or [] for name in (records.HEIGHT, records.WIDTH)]
    if any(value and value[0] != side for value, side in zip(stated, (height, width))):
      return (
        f'frames are {width}x{height}, but {records.HEIGHT} is {stated[0]} and {records.WIDTH} '
        f'{stated[1]}. Write the record again.'
      )
  return ''


def _format_problem(formats: Mapping[str, int], example: ParsedExample) -> str:
  """What is wrong with frames of these formats, '' for nothing."""
  stated = [v for v in example.context.get(records.FORMAT) or [] if v and isinstance(v, bytes)]
  if not stated:
    return ''
  name = stated[0].decode(errors='replace').lower()
  wanted = 'jpeg' if name == 'jpg' else name
  other = ', '.join(f'{found} ({count})' for found, count in formats.items() if found != wanted)
  if not other:
    return ''
  return f'{records.FORMAT} is {name!r}, but frames are {other}. Write the record again.'


def _format_of(data: memoryview) -> str:
  return _MAGIC.get(bytes(data[:2]), 'unknown')
