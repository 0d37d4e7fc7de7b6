"""Random access to the records of TFRecord files, whose offsets are found once and kept."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets import array_file, records
from datasets.progress import with_progress
from errors import DataError

_Array = np.ndarray[Any, np.dtype[Any]]
_FORMAT_VERSION = 1


class FramedRecords:
  """The records of a split, in the order of its files; safe for threads.

  Files are scanned when they are first opened, of which only the records' headers are read, and
  again when names or sizes have changed. The offsets are kept as the index of other records is.
  """

  def __init__(
    self, directory: str | os.PathLike[str], split: str, files: Sequence[str], counts: Sequence[int]
  ) -> None:
    """Finds the records.

    Args:
      directory: of the files.
      split: its name.
      files: their names in order.
      counts: how many records each must hold.

    Raises:
      DataError: a file is missing, truncated or no TFRecord, or holds another number of records.
    """
    self._paths = [Path(directory) / name for name in files]
    sizes = [_size(path) for path in self._paths]
    stamp = json.dumps([_FORMAT_VERSION, split, list(zip(files, sizes, counts, strict=True))])
    places = array_file.places(directory, split, hashlib.sha256(stamp.encode()).hexdigest())
    arrays = array_file.load(places, stamp, ['shard', 'offset'])
    if arrays is None:
      title = f'finding records of {split} in {directory}'
      scan = with_progress(self._scan(counts), sum(counts), title)
      found = np.fromiter(scan, np.dtype((np.int64, 2)))
      arrays = {'shard': found[:, 0].astype(np.int32), 'offset': np.ascontiguousarray(found[:, 1])}
      array_file.save(places, stamp, arrays)
    self._shard, self._offset = arrays['shard'], arrays['offset']

  def __len__(self) -> int:
    return len(self._offset)

  def __getitem__(self, row: int) -> bytes:
    """A record. Raises a DataError if it is no longer there."""
    return records.read_record(self._paths[self._shard[row]], int(self._offset[row]))

  def _scan(self, counts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yields file and offset of each record."""
    for number, (path, wanted) in enumerate(zip(self._paths, counts, strict=True)):
      count = 0
      for offset in records.record_offsets(path):
        yield number, offset
        count += 1
      if count != wanted:
        raise DataError(
          f'{path}: holds {count} records, expected {wanted}. Copy or prepare the file again.'
        )


def _size(path: Path) -> int:
  try:
    return path.stat().st_size
  except FileNotFoundError as error:
    raise DataError(f'{path}: is missing. Copy or prepare the file again.') from error
