"""A dataset of indexed TFRecords: only the sampled frames' bytes are read, checked and decoded."""

import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg

from datasets import index as index_lib
from datasets import manifest as manifest_lib
from datasets.dataset import VideoDataset
from datasets.keyframes import BoxTable, Keyframe
from errors import DataError

_Array = np.ndarray[Any, np.dtype[Any]]

_AS_STORED = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION  # OpenCV 5 turns PNG and WebP too.


class RecordDataset(VideoDataset):
  """A split of a directory of shards with a manifest.

  Attributes:
    directory: where the shards lie.
    manifest: what the directory holds.
  """

  def __init__(
    self, directory: str | os.PathLike[str], split: str, tasks: Mapping[str, str]
  ) -> None:
    """Opens manifest and index (building the index the first time).

    Args:
      directory: holds the shards and `manifest.json`.
      split: a split of the manifest.
      tasks: task name (a key of a batch's `label`) -> label group of the manifest.

    Raises:
      DataError: the dataset is missing or damaged, or the split or a group does not exist.
    """
    self.directory = Path(directory)
    self.where = str(directory)
    self.split = split
    self.manifest = manifest_lib.load(directory)
    super().__init__(self.manifest.tasks, tasks)
    self.split_sizes = {name: s.examples for name, s in self.manifest.splits.items()}
    self.fingerprint = self.manifest.sha256
    self._index = index_lib.open_index(directory, self.manifest, split)
    self._paths = [self.directory / shard.name for shard in self.manifest.splits[split].shards]
    self.num_frames = self._index.num_frames
    self.frame_rate = self._index.frame_rate
    self.defects = self._index.defects
    self._arguments = (directory, split, tasks)

  def __reduce__(self) -> tuple[Any, ...]:
    # Worker processes open the index themselves, whose pages they then share.
    return RecordDataset, self._arguments

  def key(self, row: int) -> str:
    """Name of a record."""
    return self._index.key(row)

  def _content(self, row: int, key: str) -> tuple[str, ...]:
    return key, f'{self._index.frames_crc(row):08x}'

  def stored_labels(self, row: int) -> _Array:
    """Labels of a record as indices over all groups, int32 [labels]."""
    return self._index.labels(row)

  def keyframe(self, row: int) -> Keyframe:
    """The annotated keyframe of a record, see the base class."""
    return self._index.keyframe_of(row) or super().keyframe(row)

  def box_table(self) -> BoxTable:
    """The boxes of all keyframes, see the base class."""
    found = self._index
    return BoxTable(
      start=found.box_start,
      boxes=found.box,
      scores=found.box_score,
      annotated=found.box_annotated,
      labels=found.box_label,
    )

  def frames(self, row: int, indices: _Array) -> Iterator[_Array]:
    """Reads and decodes frames, see the base class.

    Raises:
      DataError: as `encoded_frames`, or a frame cannot be decoded.
    """
    chosen = np.asarray(indices, np.int64)
    return decode_frames(
      self.encoded_frames(row, chosen), lambda i: self._place(row, int(chosen[i]))
    )

  def encoded_frames(self, row: int, indices: _Array) -> Iterator[memoryview]:
    """Yields the stored bytes of the given distinct, ascending frames of a record.

    Only the bytes from the first to the last frame are read (with large gaps left out).

    Raises:
      DataError: bytes differ from the index; the message names file, offset, frame and key.
    """
    offsets, lengths, crcs = (array[indices] for array in self._index.frames(row))
    path = self._paths[self._index.shard[row]]
    for i, data in enumerate(index_lib.read_spans(path, offsets, lengths)):
      found = zlib.crc32(data)
      if found != crcs[i]:
        raise DataError(self._differs(self._place(row, int(indices[i])), found, crcs[i]))
      yield data

  def _place(self, row: int, frame: int) -> str:
    """Where a frame lies, for messages."""
    path, offset = self._paths[self._index.shard[row]], self._index.frames(row)[0][frame]
    return f'{path}: byte {offset}, frame {frame} of {self.key(row)!r} (row {row})'

  def _differs(self, where: str, found: int, expected: int) -> str:
    beside = index_lib.index_paths(self.directory, self.manifest, self.split)
    return (
      f'{where}: the bytes differ from when the index was built (crc32 {found:08x}, expected '
      f'{expected:08x}): the file is damaged. Copy the shard again; if it was rewritten on purpose, '
      f'delete the index ({" or ".join(map(str, beside))}).'
    )


def decode_frames(
  encoded: Iterable[bytes | memoryview], where: Callable[[int], str] = str
) -> Iterator[_Array]:
  """Decodes frames to RGB uint8 [H, W, 3], all of one shape; each is overwritten by the next.

  JPEG by simplejpeg with the fast DCT, which agrees bit for bit with `tf.io.decode_jpeg`'s default;
  anything else by OpenCV. EXIF orientation is not applied.

  Raises:
    DataError: a frame cannot be decoded or differs in shape from the first; `where(i)` names it.
  """
  frame: _Array | None = None
  for i, data in enumerate(encoded):
    try:
      decoded = _decode(data, frame)
    except (ValueError, cv2.error) as error:
      raise DataError(
        f'{where(i)}: cannot be decoded ({str(error).strip()}). Write the record again.'
      ) from error
    if frame is not None and decoded.shape != frame.shape:
      raise DataError(
        f"{where(i)}: is {decoded.shape[0]}x{decoded.shape[1]} px, the clip's first frame "
        f'{frame.shape[0]}x{frame.shape[1]}. Write the record with one frame size.'
      )
    frame = decoded
    yield frame


def _decode(data: bytes | memoryview, buffer: _Array | None) -> _Array:
  """The frame, in `buffer` if it fits and is a JPEG."""
  if data[:2] == b'\xff\xd8':
    if buffer is not None:
      try:
        return simplejpeg.decode_jpeg(data, colorspace='RGB', fastdct=True, buffer=buffer)
      except ValueError:
        # Broken, or larger than the buffer: below, the one raises again and the other does not.
        pass
    return simplejpeg.decode_jpeg(data, colorspace='RGB', fastdct=True)
  image = cv2.imdecode(np.frombuffer(data, np.uint8), _AS_STORED)
  if image is None:
    raise ValueError(f'starts with {bytes(data[:8])!r}, neither JPEG nor an image OpenCV knows')
  return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
