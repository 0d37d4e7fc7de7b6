"""Protobuf's wire format, as far as `tf.train.Example` and `SequenceExample` need it.

All functions raise a DataError, with the offset in the buffer, for bytes that are no such message.
"""

import struct
from collections.abc import Iterator
from typing import Any

from errors import DataError

Span = tuple[int, int]
"""Byte offset and length of a value inside a record's payload."""


def fields(buffer: bytes, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
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


def messages(buffer: bytes, start: int, stop: int, wanted: int) -> Iterator[Span]:
  """Yields (start, stop) of each length-delimited value of field `wanted`."""
  for number, wire, value_start, value_stop in fields(buffer, start, stop):
    if number == wanted and wire == 2:
      yield value_start, value_stop


def map_entry(buffer: bytes, start: int, stop: int) -> tuple[str, Span]:
  """Key, and (start, stop) of the value, of an entry of a map."""
  name, value = '', (stop, stop)
  for number, wire, value_start, value_stop in fields(buffer, start, stop):
    if wire == 2 and number == 1:
      name = buffer[value_start:value_stop].decode(errors='replace')
    elif wire == 2 and number == 2:
      value = (value_start, value_stop)
  return name, value


def feature_values(buffer: bytes, start: int, stop: int) -> list[Any]:
  """Values of a Feature: bytes, floats or int64s by which list is set."""
  values: list[Any] = []
  kind = 0
  for number, wire, list_start, list_stop in fields(buffer, start, stop):
    if wire != 2 or number not in (1, 2, 3):
      continue
    if number != kind:
      values, kind = [], number
    for field, value_wire, *span in fields(buffer, list_start, list_stop):
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


def single_bytes(buffer: bytes, start: int, stop: int) -> Span:
  """Offset and length of the only bytes value of a Feature."""
  spans = [
    span
    for bytes_list in messages(buffer, start, stop, 1)
    for span in messages(buffer, *bytes_list, 1)
  ]
  if len(spans) != 1:
    raise DataError(f'byte {start}: a frame must be one bytes value, found {len(spans)}')
  return spans[0][0], spans[0][1] - spans[0][0]
