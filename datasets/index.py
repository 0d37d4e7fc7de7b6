"""Where every frame of a split lies: built once by scanning the shards, kept beside them as one npz."""

import dataclasses
import itertools
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets import array_file, keyframes, layout, records
from datasets import manifest as manifest_lib
from datasets.keyframes import Keyframe
from datasets.progress import with_progress
from errors import DataError

FORMAT_VERSION = 3

# Frames further apart than this in a file are read by separate calls.
_MERGE_GAP_BYTES = 256 * 1024

_Array = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
  """Arrays over the R records, F frames, L labels and B boxes of a split.

  Records that cannot be used are left out and described in `defect`. Records' frames, labels, keys,
  times and boxes are concatenated; `*_start` [R+1] int64 says where each record's begin. A frame's
  byte offset in its shard is `record_offset + frame_offset`. Only records with a keyframe have times
  and boxes.
  """

  shard: _Array  # [R] int32, position in the manifest's shard list
  record_offset: _Array  # [R] int64, of the payload in the shard
  frame_start: _Array  # [R+1] int64
  frame_offset: _Array  # [F] uint32, inside the payload
  frame_length: _Array  # [F] uint32
  frame_crc: _Array  # [F] uint32, zlib.crc32 of the encoded frame
  label_start: _Array  # [R+1] int64
  label: _Array  # [L] int32, global class index
  key_start: _Array  # [R+1] int64
  key_bytes: _Array  # [...] uint8, UTF-8
  frame_rate: _Array  # [R] float32, frames per second; 0 where the record does not say
  keyframe: _Array  # [R] int64, microseconds in the video; -1: no keyframe
  time_start: _Array  # [R+1] int64
  time: _Array  # [...] int64, microseconds in the video, of the frames
  box_start: _Array  # [R+1] int64
  box: _Array  # [B, 4] float32, ymin, xmin, ymax, xmax in [0, 1]
  box_score: _Array  # [B] float32
  box_annotated: _Array  # [B] bool
  box_label_start: _Array  # [B+1] int64
  box_label: _Array  # [...] int32, global class index
  defect: _Array  # [D] str, what is wrong with each record that was left out

  def __len__(self) -> int:
    return len(self.shard)

  @property
  def defects(self) -> tuple[str, ...]:
    """What is wrong with each record of the split that is not in the index."""
    return tuple(str(defect) for defect in self.defect)

  @property
  def num_frames(self) -> _Array:
    """Frames of each record, int64 [R]."""
    return np.diff(self.frame_start)

  def frames(self, row: int) -> tuple[_Array, _Array, _Array]:
    """File offsets (int64), lengths and crc32s (uint32) of a record's frames, each [frames]."""
    span = slice(self.frame_start[row], self.frame_start[row + 1])
    offsets = self.record_offset[row] + self.frame_offset[span].astype(np.int64)
    return offsets, self.frame_length[span], self.frame_crc[span]

  def frames_crc(self, row: int) -> int:
    """The crc32 of the crc32s of a record's frames."""
    starts, crcs = (
      np.asarray(self.frame_start),
      np.asarray(self.frame_crc),
    )  # Faster than mapped ones.
    return zlib.crc32(crcs[starts[row] : starts[row + 1]].tobytes())

  def labels(self, row: int) -> _Array:
    """Global class indices of a record, int32 [labels]."""
    return self.label[self.label_start[row] : self.label_start[row + 1]]

  def keyframe_of(self, row: int) -> Keyframe | None:
    """The keyframe of a record with its boxes, None if it has none."""
    if self.keyframe[row] < 0:
      return None
    begin, end = (int(at) for at in self.box_start[row : row + 2])
    starts = self.box_label_start[begin : end + 1].tolist()
    labels = self.box_label[starts[0] : starts[-1]].tolist()
    return Keyframe(
      microseconds=int(self.keyframe[row]),
      times=self.time[self.time_start[row] : self.time_start[row + 1]],
      boxes=self.box[begin:end],
      labels=tuple(
        tuple(labels[a - starts[0] : b - starts[0]]) for a, b in itertools.pairwise(starts)
      ),
      scores=self.box_score[begin:end],
      annotated=self.box_annotated[begin:end],
    )

  def key(self, row: int) -> str:
    """Name of a record."""
    return self.key_bytes[self.key_start[row] : self.key_start[row + 1]].tobytes().decode()


def read_spans(path: str | os.PathLike[str], offsets: _Array, lengths: _Array) -> list[memoryview]:
  """Bytes of a file at ascending offsets, by one `pread` for each run without a large gap.

  A file that ends too early gives short values, for the caller's crc check to find.

  Raises:
    DataError: the file is missing.
  """
  try:
    file = os.open(path, os.O_RDONLY)
  except FileNotFoundError as error:
    raise DataError(f'{path}: shard is missing. Copy or write it again.') from error
  try:
    result: list[memoryview] = []
    ends = offsets + lengths
    breaks = np.flatnonzero(offsets[1:] - ends[:-1] > _MERGE_GAP_BYTES) + 1
    for run in np.split(np.arange(len(offsets)), breaks):
      start = int(offsets[run[0]])
      span = memoryview(_pread(file, int(ends[run[-1]]) - start, start))
      result.extend(span[offsets[i] - start : ends[i] - start] for i in run)
    return result
  finally:
    os.close(file)


def _pread(file: int, length: int, offset: int) -> bytes:
  data = os.pread(file, length, offset)
  while len(data) < length:
    more = os.pread(file, length - len(data), offset + len(data))
    if not more:
      break
    data += more
  return data


def open_index(
  directory: str | os.PathLike[str], manifest: manifest_lib.Manifest, split: str
) -> Index:
  """Loads the split's index, or builds and saves it when there is none that fits the manifest.

  Raises:
    DataError: the split does not exist, or a shard or record cannot be used (see `build`).
  """
  if split not in manifest.splits:
    raise DataError(f'{directory}: no split {split!r}; the manifest has {sorted(manifest.splits)}.')
  index = stored_index(directory, manifest, split)
  if index is None:
    index = build(directory, manifest, split)
    save(directory, manifest, split, index)
  return index


def stored_index(
  directory: str | os.PathLike[str], manifest: manifest_lib.Manifest, split: str
) -> Index | None:
  """The index of a split that was saved for this manifest, or None."""
  names = [field.name for field in dataclasses.fields(Index)]
  paths = index_paths(directory, manifest, split)
  arrays = array_file.load(paths, _stamp(manifest, split), names)
  return None if arrays is None else Index(**arrays)


def index_paths(
  directory: str | os.PathLike[str], manifest: manifest_lib.Manifest, split: str
) -> tuple[Path, Path]:
  """Where the index may lie: beside the shards, and in the cache for read-only directories."""
  return array_file.places(directory, split, manifest.sha256)


def build(directory: str | os.PathLike[str], manifest: manifest_lib.Manifest, split: str) -> Index:
  """Scans a split's shards, with a progress bar when that takes more than two seconds.

  A record is left out, and described in the index, when it is no SequenceExample, lacks frames,
  labels or a key, has a label out of range or not exactly one in a single-label group, or where
  labels belong to boxes lacks a keyframe among its frames, or has boxes that are none.

  Raises:
    DataError: gzip, truncation or foreign framing; a record count that differs from the manifest;
      a first record of another layout, or no record that can be used. The message names file, byte
      offset and key.
  """
  shards = manifest.splits[split].shards
  builder = _Builder(manifest)
  scan = _scan(Path(directory), shards, builder)
  total = manifest.splits[split].examples
  for _ in with_progress(scan, total, f'indexing {Path(directory).name}/{split}'):
    pass
  return builder.finish()


def save(
  directory: str | os.PathLike[str], manifest: manifest_lib.Manifest, split: str, index: Index
) -> Path | None:
  """Writes the index atomically beside the shards, else into the cache; None if neither works."""
  arrays = {field.name: getattr(index, field.name) for field in dataclasses.fields(index)}
  return array_file.save(index_paths(directory, manifest, split), _stamp(manifest, split), arrays)


def _stamp(manifest: manifest_lib.Manifest, split: str) -> str:
  return f'{FORMAT_VERSION} {split} {manifest.sha256}'


class _LayoutError(DataError):
  """A record lacks what the layout wants."""


class _Builder:
  """Collects records into the arrays of an Index, checking each."""

  def __init__(self, manifest: manifest_lib.Manifest):
    self._tasks, self._first_label = manifest.tasks, manifest.first_label
    self._records: list[tuple[int, int]] = []  # shard, offset
    self._frames: list[_Array] = []  # per record [frames, 3]: offset, length, crc
    self._labels: list[list[int]] = []
    self._keys: list[bytes] = []
    self._frame_rates: list[float] = []
    self._keyframes: list[Keyframe | None] = []
    self._defects: list[str] = []

  def add(self, shard: int, offset: int, payload: bytes, where: str) -> None:
    """Adds a record, or what is wrong with it; raises when the very first has another layout."""
    try:
      self._add(shard, offset, payload, where)
    except _LayoutError as error:
      if not self._records and not self._defects:
        raise  # One error, not one for each record.
      self._defects.append(str(error))
    except DataError as error:
      self._defects.append(str(error))

  def _add(self, shard: int, offset: int, payload: bytes, where: str) -> None:
    try:
      example = records.parse_sequence_example(payload)
    except DataError as error:
      raise _LayoutError(
        f'{where}: not a SequenceExample: {error} of the record. Expected the DMVR / MediaSequence '
        'layout; write the shard again.'
      ) from error
    key = example.key
    problem = next(layout.problems(example, self._tasks, self._first_label), None)
    if problem:
      kind = _LayoutError if problem.kind == 'layout' else DataError
      raise kind(f'{where}{"" if key is None else f", key {key!r}"}: {problem.text}')
    frames = [(at, n, zlib.crc32(payload[at : at + n])) for at, n in example.frames or ()]
    self._records.append((shard, offset))
    self._frames.append(np.array(frames, np.uint32))
    self._labels.append([label - self._first_label for label in example.labels or ()])
    self._keys.append((key or '').encode())
    rate = example.context.get(records.FRAME_RATE) or [0.0]
    self._frame_rates.append(float(rate[0]) if isinstance(rate[0], float | int) else 0.0)

    has_keyframe = any(task.regions for task in self._tasks.values())
    self._keyframes.append(keyframes.read(example) if has_keyframe else None)

  def finish(self) -> Index:
    if not self._records:
      raise DataError(
        f'no record can be used; the first of {len(self._defects)}: {self._defects[0]}'
      )
    shard_offset = np.array(self._records, np.int64)
    frames = np.concatenate(self._frames)
    return Index(
      shard=shard_offset[:, 0].astype(np.int32),
      record_offset=shard_offset[:, 1],
      frame_start=_starts(self._frames),
      frame_offset=np.ascontiguousarray(frames[:, 0]),
      frame_length=np.ascontiguousarray(frames[:, 1]),
      frame_crc=np.ascontiguousarray(frames[:, 2]),
      label_start=_starts(self._labels),
      label=np.array([x for labels in self._labels for x in labels], np.int32),
      key_start=_starts(self._keys),
      key_bytes=np.frombuffer(b''.join(self._keys), np.uint8),
      frame_rate=np.array(self._frame_rates, np.float32),
      **_keyframe_arrays(self._keyframes),
      defect=np.array(self._defects, np.str_),
    )


def _keyframe_arrays(found: Sequence[Keyframe | None]) -> dict[str, _Array]:
  """The arrays of an Index about keyframes, by name."""
  there = [keyframe for keyframe in found if keyframe is not None]
  labels = [of_box for keyframe in there for of_box in keyframe.labels]

  def joined(parts: Iterable[_Array], empty: _Array) -> _Array:
    return np.concatenate([empty, *parts])

  return {
    'keyframe': np.array([-1 if k is None else k.microseconds for k in found], np.int64),
    'time_start': _starts([() if k is None else k.times for k in found]),
    'time': joined((k.times for k in there), np.empty(0, np.int64)),
    'box_start': _starts([() if k is None else k.boxes for k in found]),
    'box': joined((k.boxes for k in there), np.empty((0, 4), np.float32)),
    'box_score': joined((k.scores for k in there), np.empty(0, np.float32)),
    'box_annotated': joined((k.annotated for k in there), np.empty(0, bool)),
    'box_label_start': _starts(labels),
    'box_label': np.array([x for of_box in labels for x in of_box], np.int32),
  }


def _starts(items: Iterable[Any]) -> _Array:
  return np.cumsum([0, *(len(item) for item in items)], dtype=np.int64)


def _scan(
  directory: Path, shards: tuple[manifest_lib.Shard, ...], builder: _Builder
) -> Iterator[None]:
  for number, shard in enumerate(shards):
    path = directory / shard.name
    count = 0
    for offset, payload in records.read_records(path):
      builder.add(number, offset, payload, f'{path}, record {count} at byte {offset}')
      count += 1
      yield
    if count != shard.examples:
      raise DataError(
        f'{path}: holds {count} records, {manifest_lib.FILE_NAME} says {shard.examples}. '
        'Write the manifest again.'
      )
