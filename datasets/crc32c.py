"""CRC-32C (Castagnoli, RFC 3720) and TFRecord's masked form of it, in numpy."""

import functools
from typing import Any

import numpy as np

_Array = np.ndarray[Any, np.dtype[Any]]

_POLYNOMIAL = np.uint32(0x82F63B78)  # Reflected.
_ONES = 0xFFFFFFFF
_SHORT = 256


def masked_crc32c(data: bytes | memoryview) -> int:
  """CRC-32C with TFRecord's rotation and offset."""
  crc = crc32c(data)
  return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & _ONES


def crc32c(data: bytes | memoryview) -> int:
  """CRC-32C of some bytes.

  The CRC is linear: that of two words is the first one's after as many zeros as the second is long,
  xor the second's. So neighbours are joined, all pairs at once, until one is left.
  """
  if len(data) <= _SHORT:
    return _crc32c_of_few(data)
  crcs = _words(data)
  length = 4
  while len(crcs) > 1:
    crcs = _append_zeros(crcs[::2], length) ^ crcs[1::2]
    length *= 2
  return int(_append_zeros(crcs, 4)[0]) ^ _ONES


def _crc32c_of_few(data: bytes | memoryview) -> int:
  """Byte after byte, as numpy needs some 80 us for any length."""
  table, crc = _byte_table(), _ONES
  for byte in data:
    crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
  return crc ^ _ONES


def _words(data: bytes | memoryview) -> _Array:
  """The bytes in words, behind zeros that make a power of two of them, uint32 [words].

  Beginning with a CRC of ones, as is defined, is the same as inverting the first four bytes and
  beginning with 0; and that the zeros in front do not change.
  """
  count = 1 << (-(-len(data) // 4) - 1).bit_length()
  padded = np.zeros(4 * count, np.uint8)
  start = len(padded) - len(data)
  padded[start:] = np.frombuffer(data, np.uint8)
  padded[start : start + 4] ^= 0xFF
  return padded.view('<u4')


def _append_zeros(crcs: _Array, count: int) -> _Array:
  """CRCs uint32 [...] as they are after `count` more zero bytes, a power of two."""
  tables = _zeros_tables(count)
  parts = np.ascontiguousarray(crcs, '<u4').view(np.uint8).reshape(*crcs.shape, 4)
  result = np.take(tables[0], parts[..., 0])
  for i in range(1, 4):
    result ^= np.take(tables[i], parts[..., i])
  return result


@functools.lru_cache(maxsize=64)
def _zeros_tables(count: int) -> _Array:
  """What each value of each byte of a CRC becomes after `count` zero bytes, uint32 [4, 256]."""
  values: _Array = np.arange(256, dtype=np.uint32) << (8 * np.arange(4, dtype=np.uint32)[:, None])
  if count > 1:
    return _append_zeros(_append_zeros(values, count // 2), count // 2)
  for _ in range(8):
    values = (values >> 1) ^ np.where(values & 1, _POLYNOMIAL, np.uint32(0))
  return values


@functools.cache
def _byte_table() -> tuple[int, ...]:
  return tuple(_zeros_tables(1)[0].tolist())
