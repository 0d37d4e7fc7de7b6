"""Arrays kept in one npz beside the data they tell of, or in the cache: written once, mapped."""

import hashlib
import logging
import math
import os
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.manifest import temporary_path

_Array = np.ndarray[Any, np.dtype[Any]]


def places(directory: str | os.PathLike[str], split: str, identity: str) -> tuple[Path, Path]:
  """Where the index of a split may lie: beside its data, and in the cache for those read-only.

  Args:
    directory: of the data.
    split: its name.
    identity: hexadecimal hash of what the data is.
  """
  cache = Path(os.environ.get('TUBELET_CACHE') or Path.home() / '.cache' / 'tubelet')
  place = hashlib.sha256(str(Path(directory).resolve()).encode()).hexdigest()[:8]
  cached = f'{split}-{place}-{identity[:16]}.index.npz'
  return Path(directory) / f'{split}.index.npz', cache / cached


def save(paths: Sequence[Path], stamp: str, arrays: Mapping[str, _Array]) -> Path | None:
  """Writes arrays atomically to the first place that can be written; None if none can."""
  for path in paths:
    try:
      _write(path, stamp, arrays)
    except OSError as error:
      logging.getLogger(__name__).warning('index not written to %s: %s', path, error)
      continue
    return path
  return None


def load(paths: Sequence[Path], stamp: str, names: Sequence[str]) -> dict[str, _Array] | None:
  """The arrays that were saved with this stamp, mapped, or None where there are none."""
  found = (_load(path, stamp, names) for path in paths)
  return next((arrays for arrays in found if arrays is not None), None)


def _write(path: Path, stamp: str, arrays: Mapping[str, _Array]) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = temporary_path(path)
  try:
    with open(temporary, 'wb') as file:
      np.savez(file, stamp=np.array(stamp), **arrays)  # type: ignore[arg-type]
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def _load(path: Path, stamp: str, names: Sequence[str]) -> dict[str, _Array] | None:
  """The stored arrays, or None when the file is absent, unreadable or of other content."""
  if not path.exists():
    return None
  try:
    stored = _map_arrays(path)
    if str(stored['stamp']) != stamp:
      return None
    return {name: stored[name] for name in names}
  except (OSError, KeyError, ValueError, EOFError, struct.error, zipfile.BadZipFile) as error:
    logging.getLogger(__name__).warning('index %s is unreadable, building it: %s', path, error)
    return None


def _map_arrays(path: Path) -> dict[str, _Array]:
  """The arrays of an uncompressed npz, mapped: processes share their pages, opening reads none."""
  arrays = {}
  with zipfile.ZipFile(path) as archive, open(path, 'rb') as file:
    for member in archive.infolist():
      with archive.open(member) as entry:
        version = np.lib.format.read_magic(entry)
        read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        shape, _, dtype = read[version[0]](entry)
        header = entry.tell()
      if member.compress_type != zipfile.ZIP_STORED or dtype.hasobject:
        raise ValueError(f'{member.filename} is not a plain array')
      # The local header of a zip entry: 30 bytes, then a name and extra fields of stated lengths.
      file.seek(member.header_offset)
      name, extra = struct.unpack('<HH', file.read(30)[26:30])
      start = member.header_offset + 30 + name + extra + header
      if start + math.prod(shape) * dtype.itemsize > os.path.getsize(path):
        raise ValueError(f'{member.filename} passes the end of the file')
      mapped = (
        np.memmap(path, dtype, 'r', start, shape) if math.prod(shape) else np.empty(shape, dtype)
      )
      arrays[member.filename.removesuffix('.npy')] = mapped
  return arrays
