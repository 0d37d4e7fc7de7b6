"""TFRecord shards of SequenceExamples with DMVR / MediaSequence names: writing and parsing.

Read are also images as `tf.train.Example`s with the names that ImageNet's TFRecords have: on the
wire such is a SequenceExample without feature lists, whose `image/encoded` lies in the context.

Writing uses TensorFlow, imported lazily; reading is a small protobuf wire-format walker, so that no
input worker needs TensorFlow.
"""

import dataclasses
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from datasets import wire
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
  with _opened(path) as file:
    for start, length in _spans(file, path):
      file.seek(start)
      payload = file.read(length)
      yield start, payload, _FOOTER.unpack(file.read(FOOTER_BYTES))[0]


def record_offsets(path: str | os.PathLike[str]) -> Iterator[int]:
  """Yields where each record of a TFRecord file begins, for `read_record`; only headers are read.

  Raises:
    DataError: as `read_records`.
  """
  with _opened(path, buffering=0) as file:
    for start, _ in _spans(file, path):
      yield start - _HEADER.size


def read_record(path: str | os.PathLike[str], offset: int) -> bytes:
  """The payload of the record that begins at a byte offset.

  The length's checksum is verified. The payload's is not: that costs as much as decoding an image.

  Raises:
    DataError: missing file, no record there, or a truncated one.
  """
  with _opened(path) as file:
    _, length = _span(file, path, offset)
    return file.read(length)


def _opened(path: str | os.PathLike[str], buffering: int = -1) -> BinaryIO:
  try:
    return open(path, 'rb', buffering)  # type: ignore[return-value]
  except FileNotFoundError as error:
    raise DataError(f'{path}: shard is missing. Copy or write it again.') from error


def _spans(file: BinaryIO, path: str | os.PathLike[str]) -> Iterator[wire.Span]:
  """Offset and length of each payload."""
  size = os.fstat(file.fileno()).st_size
  offset = 0
  while offset < size:
    start, length = _span(file, path, offset)
    yield start, length
    offset = start + length + FOOTER_BYTES


def _span(file: BinaryIO, path: str | os.PathLike[str], offset: int) -> wire.Span:
  """Offset and length of the payload of the record at `offset`; `file` is left at the payload."""
  size = os.fstat(file.fileno()).st_size
  file.seek(offset)
  length = _record_length(file.read(_HEADER.size), path, offset)
  start = offset + _HEADER.size
  end = start + length + FOOTER_BYTES
  if end > size:
    raise DataError(
      f'{path}: truncated: the record at byte {offset} needs {end} bytes of file, there are '
      f'{size}. Copy or write the shard again.'
    )
  return start, length


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
  frames: tuple[wire.Span, ...] | None
  lists: Mapping[str, wire.Span]
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
    """Which values of the context are labels; those of others' images are `image/class/label`."""
    return IMAGE_LABEL if LABEL_INDEX not in self.context and self.is_image else LABEL_INDEX

  @property
  def labels(self) -> list[Any] | None:
    """The labels as stored, None where there are none."""
    return self.context.get(self.label_name)

  @property
  def label_texts(self) -> list[Any]:
    """Class names in the order of `labels`, where the record has them."""
    return self.context.get(self.label_text_name, [])

  @property
  def label_text_name(self) -> str:
    """Which values of the context are class names: those beside `label_name`."""
    return LABEL_TEXT if self.label_name == LABEL_INDEX else IMAGE_LABEL_TEXT

  def list_values(self, name: str) -> list[list[Any]]:
    """Values (ints, floats or bytes) of each step of a feature list that is there.

    Raises:
      DataError: the bytes are no such list.
    """
    steps = wire.messages(self.payload, *self.lists[name], 1)
    return [wire.feature_values(self.payload, *step) for step in steps]


def parse_sequence_example(payload: bytes, frames_name: str = FRAMES) -> ParsedExample:
  """Parses a serialised `tf.train.SequenceExample` or `Example` without protobuf or TensorFlow.

  Unknown fields are skipped; in a repeated map key the last entry counts, as protobuf has it.

  Raises:
    DataError: the bytes are no such message, or a frame does not hold exactly one bytes value; the
      offset given counts from the payload's start.
  """
  context: dict[str, list[Any]] = {}
  lists: dict[str, wire.Span] = {}
  image: wire.Span | None = None
  for number, kind, start, stop in wire.fields(payload, 0, len(payload)):
    if kind != 2 or number not in (1, 2):
      continue
    for entry in wire.messages(payload, start, stop, 1):
      name, value = wire.map_entry(payload, *entry)
      if number == 1:
        context[name] = wire.feature_values(payload, *value)
        image = value if name == frames_name else image
      else:
        lists[name] = value
  frames = None
  if frames_name in lists:
    frames = tuple(
      wire.single_bytes(payload, *feature)
      for feature in wire.messages(payload, *lists[frames_name], 1)
    )
  elif image is not None:
    frames = (wire.single_bytes(payload, *image),)
  return ParsedExample(context, frames, lists, payload)
