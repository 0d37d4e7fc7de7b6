"""A run's parameters in one file, which `init_from.path` reads like any other weights."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from errors import ConfigError
from train_lib.state import STATISTICS, model_params
from train_lib.weight_files import flatten

# Names with two underscores are not arrays of the model: `weight_files.read_arrays` skips them.
_META = '__meta__'
# In the metadata of safetensors, which hold text by name.
_TUBELET = 'tubelet'
SUFFIXES = ('.npz', '.safetensors')


def write(path: Path, params: Mapping[str, Any], meta: Mapping[str, Any]) -> int:
  """Writes the model's parameters to an `.npz` or `.safetensors` that appears when it is complete.

  Args:
    path: The file; replaced if it exists.
    params: Nested arrays in Scenic's naming, as `checkpoint.load_params` gives them; statistics stay
      under `batch_stats`, the objective's own are left out.
    meta: JSON-serialisable: what `checkpoint.describe` kept beside them.

  Returns:
    The number of parameters written.

  Raises:
    ConfigError: The name ends in neither of `SUFFIXES`, or the file cannot be written.
  """
  arrays = flatten(model_params(params))
  write_arrays(path, arrays, meta)
  return sum(array.size for name, array in arrays.items() if not name.startswith(f'{STATISTICS}/'))


def write_arrays(
  path: Path, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any] | None = None
) -> None:
  """Writes arrays by name to a file that appears when it is complete; arguments as of `write`.

  Raises:
    ConfigError: As `write`.
  """
  if path.suffix not in SUFFIXES:
    known = ' or '.join(SUFFIXES)
    raise ConfigError(f'--out={path}: expected a name that ends in {known}, got {path.suffix!r}.')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
      part = Path(folder) / path.name
      if path.suffix == '.npz':
        stored = {} if meta is None else {_META: np.asarray(json.dumps(meta))}
        np.savez(part, **arrays, **stored)  # type: ignore[arg-type]
      else:
        write_safetensors(part, arrays, {} if meta is None else {_TUBELET: json.dumps(meta)})
      with part.open('rb') as file:
        os.fsync(file.fileno())
      part.replace(path)
  except OSError as error:
    raise ConfigError(f'--out={path} cannot be written: {error.strerror}.') from error


def write_safetensors(
  path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
  """Writes safetensors; raises OSError if that is not possible."""
  # Of an array that is not contiguous the library writes other numbers, in silence.
  plain = {name: np.require(array, requirements='C') for name, array in arrays.items()}
  path.write_bytes(save(plain, dict(metadata)))


def read_meta(path: str) -> dict[str, Any] | None:
  """What was kept beside the arrays: all of a run's, the `class_names` of imported weights; or None."""
  if path.endswith('.safetensors'):
    with safe_open(path, 'numpy') as file:
      stored = file.metadata() or {}
    return json.loads(stored[_TUBELET]) if _TUBELET in stored else None
  if not path.endswith('.npz'):
    return None
  with np.load(path, allow_pickle=False) as archive:
    return json.loads(str(archive[_META])) if _META in archive.files else None
