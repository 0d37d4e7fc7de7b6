"""TFRecord shards of SequenceExamples with DMVR / MediaSequence names: writing and parsing.

Read are also images as `tf.train.Example`s with the names that ImageNet's TFRecords have: on the wire
such is a SequenceExample without feature lists, whose `image/encoded` lies in the context.

Writing uses TensorFlow, imported lazily; reading is a small protobuf wire-format walker, so that no
input worker needs TensorFlow.
"""

import dataclasses
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from datasets.crc32c import masked_crc32c
from datasets.manifest import Shard, Split, temporary_path
from datasets.region_records import Region, feature_lists
from errors import DataError

FRAMES = 'image/encoded'
TIMESTAMP = 'image/timestamp'
LABEL_INDEX = 'clip/label/index'
LABEL_TEXT = 'clip/label/text'
KEY = 'clip/key'
KEY_FALLBACKS = ('video/filename', 'image/filename')
IMAGE_LABEL = 'image/class/label'
IMAGE_LABEL_TEXT = 'image/class/text'
START = 'clip/start/timestamp'
END = 'clip/end/timestamp'
FORMAT = 'image/format'
WIDTH = 'image/width'
HEIGHT = 'image/height'
FRAME_RATE = 'image/frame_rate'

Span = tuple[int, int]
"""Byte offset and length of a value inside a record's payload."""


def _tensorflow() -> Any:
  """TensorFlow, imported when first needed (seconds) and without its greetings."""
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  import tensorflow

  return tensorflow


def encode_example(
  frames: Sequence[bytes],
  labels: Sequence[int],
  key: str,
  *,
  height: int,
  width: int,
  frame_rate: float,
  label_texts: Sequence[str] = (),
  start_microseconds: int = 0,
  end_microseconds: int | None = None,
  image_format: str = 'jpeg',
  frame_microseconds: Sequence[int] = (),
  keyframe_microseconds: int | None = None,
  regions: Sequence[Region] = (),
  proposals: Sequence[Region] = (),
) -> bytes:
  """Serialises one clip as a `tf.train.SequenceExample`.

  Args:
    frames: encoded frames (JPEG unless `image_format` says otherwise), in time order.
    labels: global class indices, all label groups together.
    key: name of the clip, unique in its split.
    height: frame height in pixels.
    width: frame width in pixels.
    frame_rate: frames per second; 0: it has none, as an image.
    label_texts: class names in the order of `labels`.
    start_microseconds: where the clip starts in its video.
    end_microseconds: where it ends; default: the start plus the frames' duration, 0 without a rate.
    image_format: value of `image/format`.
    frame_microseconds: where each frame stands in its video; () leaves `image/timestamp` out.
    keyframe_microseconds: where the annotated keyframe stands in the video; None: boxes have no place.
    regions: its annotated boxes, one for each label of each box, labels counting through all groups.
    proposals: its detected boxes.

  Returns:
    The same bytes for the same clip.

  Raises:
    DataError: no frames, or boxes without a keyframe.
  """
  if not frames:
    raise DataError(f'clip {key!r}: no frames to encode.')
  if keyframe_microseconds is None and (regions or proposals):
    raise DataError(f'clip {key!r}: has boxes, but no keyframe that they are of.')
  if end_microseconds is None:
    duration = round(len(frames) * 1e6 / frame_rate) if frame_rate else 0
    end_microseconds = start_microseconds + duration
  context: dict[str, list[Any]] = {KEY: [key.encode()], **_label_values(labels, label_texts)}
  context |= {FORMAT: [image_format.encode()], HEIGHT: [height], WIDTH: [width]}
  context |= {START: [start_microseconds], END: [end_microseconds], FRAME_RATE: [float(frame_rate)]}
  lists: dict[str, list[list[Any]]] = {FRAMES: [[frame] for frame in frames]}
  if frame_microseconds:
    lists[TIMESTAMP] = [[timestamp] for timestamp in frame_microseconds]
  if keyframe_microseconds is not None:
    of_keyframe = feature_lists(keyframe_microseconds, regions, proposals)
    lists |= {name: [values] for name, values in of_keyframe.items()}
  return _serialised(context, lists)


def _label_values(labels: Sequence[int], texts: Sequence[str]) -> dict[str, list[Any]]:
  values: dict[str, list[Any]] = {LABEL_INDEX: [int(label) for label in labels]}
  return values | ({LABEL_TEXT: [text.encode() for text in texts]} if texts else {})


def _serialised(context: Mapping[str, list[Any]], lists: Mapping[str, list[list[Any]]]) -> bytes:
  """A `tf.train.SequenceExample` of named values and of named lists of steps of values."""
  example = _tensorflow().train.SequenceExample()
  for name, values in context.items():
    _set_values(example.context.feature[name], values)
  for name, steps in lists.items():
    for values in steps:
      _set_values(example.feature_lists.feature_list[name].feature.add(), values)
  serialised: bytes = example.SerializeToString(deterministic=True)
  return serialised


def _set_values(feature: Any, values: Sequence[Any]) -> None:
  """Fills a `tf.train.Feature` with bytes, floats or integers; empty values leave it unset."""
  if values and isinstance(values[0], bytes):
    feature.bytes_list.value.extend(values)
  elif values and isinstance(values[0], float):
    feature.float_list.value.extend(values)
  else:
    feature.int64_list.value.extend(values)


class RecordWriter:
  """Writes a split's shards to temporary names, records dealt in turn, and renames them at the end.

  Use as a context manager: leaving it without `close` removes the temporary files. `close` returns
  the `Split` for the manifest.
  """

  def __init__(self, directory: str | os.PathLike[str], split: str, num_shards: int):
    """Opens `num_shards` temporary files in `directory`, created when missing."""
    tf = _tensorflow()

    if num_shards < 1:
      raise DataError(f'split {split!r}: num_shards must be at least 1, got {num_shards}.')
    self._directory = Path(directory)
    self._directory.mkdir(parents=True, exist_ok=True)
    self._split = split
    self._names = [f'{split}-{i:05d}-of-{num_shards:05d}.tfrecord' for i in range(num_shards)]
    self._temporary = [temporary_path(self._directory / name) for name in self._names]
    self._writers = [tf.io.TFRecordWriter(str(path)) for path in self._temporary]
    self._counts = [0] * num_shards
    self._next = 0

  def write(self, record: bytes) -> None:
    """Appends one serialised example."""
    self._writers[self._next].write(record)
    self._counts[self._next] += 1
    self._next = (self._next + 1) % len(self._writers)

  def close(self) -> Split:
    """Renames the shards to their final names and returns their description.

    Raises:
      DataError: fewer examples than shards; nothing is left behind.
    """
    self._close_files()
    if not all(self._counts):
      self.abort()
      raise DataError(
        f'split {self._split!r} in {self._directory}: {sum(self._counts)} examples cannot fill '
        f'{len(self._counts)} shards. Lower num_shards, or check the examples.'
      )
    sizes = [path.stat().st_size for path in self._temporary]
    for path, name in zip(self._temporary, self._names, strict=True):
      os.replace(path, self._directory / name)
    described = zip(self._names, sizes, self._counts, strict=True)
    return Split(self._split, tuple(Shard(*fields) for fields in described))

  def abort(self) -> None:
    """Removes the temporary files."""
    self._close_files()
    for path in self._temporary:
      path.unlink(missing_ok=True)

  def _close_files(self) -> None:
    for writer in self._writers:
      writer.close()
    self._writers = []

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    self.abort()


def write_shard(path: str | os.PathLike[str], examples: Iterable[bytes]) -> None:
  """Writes serialised examples as one TFRecord file, under its own name from the beginning.

  Raises:
    DataError: the file cannot be written, for example because the disk is full.
  """
  tf = _tensorflow()
  try:
    with tf.io.TFRecordWriter(str(path)) as writer:
      for example in examples:
        writer.write(example)
  except tf.errors.OpError as error:
    raise DataError(f'{path}: cannot be written: {error.message}') from error


def write_split(
  directory: str | os.PathLike[str], split: str, examples: Iterable[bytes], num_shards: int
) -> Split:
  """Writes serialised examples as the shards of one split; on an error nothing is left behind."""
  with RecordWriter(directory, split, num_shards) as writer:
    for example in examples:
      writer.write(example)
    return writer.close()


# TFRecord framing: length (uint64), masked crc32c of the length, payload, masked crc32c of it.
_HEADER = struct.Struct('<QI')
_FOOTER = struct.Struct('<I')
FOOTER_BYTES = _FOOTER.size


def read_records(path: str | os.PathLike[str]) -> Iterator[tuple[int, bytes]]:
  """Yields (byte offset of the payload in the file, payload) of each record of a TFRecord file.

  The length's checksum is verified. The payload's is not: the index keeps its own crc per frame.

  Raises:
    DataError: missing file, gzip compression, foreign framing or a truncated record.
  """
  for offset, payload, _ in read_framed(path):
    yield offset, payload


def read_framed(path: str | os.PathLike[str]) -> Iterator[tuple[int, bytes, int]]:
  """As `read_records`, with the checksum stored behind each payload: `masked_crc32c` of it."""
  if not os.path.isfile(path):
    raise DataError(f'{path}: shard is missing. Copy or write it again.')
  with open(path, 'rb') as file:
    size = os.fstat(file.fileno()).st_size
    offset = 0
    while offset < size:
      length = _record_length(file.read(_HEADER.size), path, offset)
      start = offset + _HEADER.size
      offset = start + length + FOOTER_BYTES
      if offset > size:
        raise DataError(
          f'{path}: truncated: the record at byte {start - _HEADER.size} needs {offset} bytes of '
          f'file, there are {size}. Copy or write the shard again.'
        )
      payload = file.read(length)
      yield start, payload, _FOOTER.unpack(file.read(FOOTER_BYTES))[0]


def _record_length(header: bytes, path: str | os.PathLike[str], offset: int) -> int:
  if offset == 0 and header[:2] == b'\x1f\x8b':
    raise DataError(
      f'{path}: gzip-compressed at byte 0: frames cannot be read by offset. '
      'Decompress the shard (or write it uncompressed).'
    )
  if len(header) < _HEADER.size:
    raise DataError(
      f'{path}: truncated: {len(header)} bytes left at byte {offset}, a record header needs '
      f'{_HEADER.size}. Copy or write the shard again.'
    )
  length, checksum = _HEADER.unpack(header)
  if masked_crc32c(header[:8]) != checksum:
    raise DataError(
      f'{path}: no TFRecord header at byte {offset} (length checksum differs). The file is '
      'damaged or in another format; expected uncompressed TFRecord.'
    )
  return length


@dataclasses.dataclass(frozen=True)
class ParsedExample:
  """A SequenceExample's context values and where its frames lie.

  `context` maps a name to its values (ints, floats or bytes); `frames` holds offset and length of
  each value of the frame list inside the payload, or of the one in the context, None when both are
  absent; `lists` says where each feature list begins and ends.
  """

  context: Mapping[str, list[Any]]
  frames: tuple[Span, ...] | None
  lists: Mapping[str, Span]
  payload: bytes = dataclasses.field(repr=False)

  @property
  def key(self) -> str | None:
    """`clip/key`, else `video/filename` or `image/filename`, else None."""
    for name in (KEY, *KEY_FALLBACKS):
      values = self.context.get(name)
      if values and isinstance(values[0], bytes):
        return values[0].decode(errors='replace')
    return None

  @property
  def is_image(self) -> bool:
    """Whether it is meant as one frame: in the context, or of no frame rate."""
    in_context = FRAMES in self.context and FRAMES not in self.lists
    return in_context or self.context.get(FRAME_RATE) == [0.0]

  @property
  def label_name(self) -> str:
    """Which values of the context are labels: `clip/label/index`, of others' images `image/class/label`."""
    return IMAGE_LABEL if LABEL_INDEX not in self.context and self.is_image else LABEL_INDEX

  @property
  def labels(self) -> list[Any] | None:
    """The labels as stored, None where there are none."""
    return self.context.get(self.label_name)

  @property
  def label_texts(self) -> list[Any]:
    """Class names in the order of `labels`, where the record has them."""
    name = LABEL_TEXT if self.label_name == LABEL_INDEX else IMAGE_LABEL_TEXT
    return self.context.get(name, [])

  def list_values(self, name: str) -> list[list[Any]]:
    """Values (ints, floats or bytes) of each step of a feature list that is there.

    Raises:
      DataError: the bytes are no such list.
    """
    steps = _messages(self.payload, *self.lists[name], 1)
    return [_feature_values(self.payload, *step) for step in steps]


def parse_sequence_example(payload: bytes, frames_name: str = FRAMES) -> ParsedExample:
  """Parses a serialised `tf.train.SequenceExample` or `Example` without protobuf or TensorFlow.

  Unknown fields are skipped; in a repeated map key the last entry counts, as protobuf has it.

  Raises:
    DataError: the bytes are no such message, or a frame does not hold exactly one bytes value; the
      offset given counts from the payload's start.
  """
  context: dict[str, list[Any]] = {}
  lists: dict[str, Span] = {}
  image: Span | None = None
  for number, wire, start, stop in _fields(payload, 0, len(payload)):
    if wire != 2 or number not in (1, 2):
      continue
    for entry in _messages(payload, start, stop, 1):
      name, value = _map_entry(payload, *entry)
      if number == 1:
        context[name] = _feature_values(payload, *value)
        image = value if name == frames_name else image
      else:
        lists[name] = value
  frames = None
  if frames_name in lists:
    frames = tuple(
      _single_bytes(payload, *feature) for feature in _messages(payload, *lists[frames_name], 1)
    )
  elif image is not None:
    frames = (_single_bytes(payload, *image),)
  return ParsedExample(context, frames, lists, payload)


def _fields(buffer: bytes, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
  """Yields (field number, wire type, start, stop) of the values of one message."""
  while position < end:
    tag, start = _varint(buffer, position, end)
    wire = tag & 7
    if wire == 2:
      length, start = _varint(buffer, start, end)
      stop = start + length
    elif wire == 0:
      stop = _varint(buffer, start, end)[1]
    elif wire in (1, 5):
      stop = start + (8 if wire == 1 else 4)
    else:
      raise DataError(f'byte {position}: wire type {wire} is not of this format')
    if stop > end:
      raise DataError(f'byte {position}: a value of {stop - start} bytes passes the message end')
    yield tag >> 3, wire, start, stop
    position = stop


def _varint(buffer: bytes, position: int, end: int) -> tuple[int, int]:
  value = 0
  for shift in range(0, 70, 7):
    if position >= end:
      break
    byte = buffer[position]
    position += 1
    value |= (byte & 0x7F) << shift
    if byte < 0x80:
      return value & 0xFFFFFFFFFFFFFFFF, position
  raise DataError(f'byte {position}: broken varint')


def _messages(buffer: bytes, start: int, stop: int, wanted: int) -> Iterator[Span]:
  """Yields (start, stop) of each length-delimited value of field `wanted`."""
  for number, wire, value_start, value_stop in _fields(buffer, start, stop):
    if number == wanted and wire == 2:
      yield value_start, value_stop


def _map_entry(buffer: bytes, start: int, stop: int) -> tuple[str, Span]:
  name, value = '', (stop, stop)
  for number, wire, value_start, value_stop in _fields(buffer, start, stop):
    if wire == 2 and number == 1:
      name = buffer[value_start:value_stop].decode(errors='replace')
    elif wire == 2 and number == 2:
      value = (value_start, value_stop)
  return name, value


def _feature_values(buffer: bytes, start: int, stop: int) -> list[Any]:
  """Values of a Feature: bytes, floats or int64s by which list is set."""
  values: list[Any] = []
  kind = 0
  for number, wire, list_start, list_stop in _fields(buffer, start, stop):
    if wire != 2 or number not in (1, 2, 3):
      continue
    if number != kind:
      values, kind = [], number
    for field, value_wire, *span in _fields(buffer, list_start, list_stop):
      if field == 1:
        values.extend(_scalars(buffer, kind, value_wire, *span))
  return values


def _scalars(buffer: bytes, kind: int, wire: int, start: int, stop: int) -> list[Any]:
  """One bytes value, or the packed or single numbers of a float (2) or int64 (3) list."""
  if kind == 1:
    return [buffer[start:stop]]
  if kind == 2:
    count, rest = divmod(stop - start, 4)
    if rest:
      raise DataError(f'byte {start}: {stop - start} bytes are no whole number of floats')
    return list(struct.unpack_from(f'<{count}f', buffer, start))
  integers = []
  end = stop if wire == 2 else len(buffer)
  while start < stop:
    value, start = _varint(buffer, start, end)
    integers.append(value - (1 << 64) if value >> 63 else value)
  return integers


def _single_bytes(buffer: bytes, start: int, stop: int) -> Span:
  """Offset and length of the only bytes value of a Feature."""
  spans = [
    span
    for bytes_list in _messages(buffer, start, stop, 1)
    for span in _messages(buffer, *bytes_list, 1)
  ]
  if len(spans) != 1:
    raise DataError(f'byte {start}: a frame must be one bytes value, found {len(spans)}')
  return spans[0][0], spans[0][1] - spans[0][0]
