"""A run's parameters in one file, which `init_from.path` reads like any other weights."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from errors import ConfigError
from train_lib.state import STATISTICS, model_params
from train_lib.weight_files import flatten

# Names with two underscores are not arrays of the model: `weight_files.read_arrays` skips them.
_META = '__meta__'


def write(path: Path, params: Mapping[str, Any], meta: Mapping[str, Any]) -> int:
  """Writes the model's parameters to an `.npz` that appears when it is complete.

  Args:
    path: The file; replaced if it exists.
    params: Nested arrays in Scenic's naming, as `checkpoint.load_params` gives them; statistics stay
      under `batch_stats`, the objective's own are left out.
    meta: JSON-serialisable: what `checkpoint.describe` kept beside them.

  Returns:
    The number of parameters written.

  Raises:
    ConfigError: The name does not end in `.npz`, or the file cannot be written.
  """
  arrays = flatten(model_params(params))
  write_arrays(path, arrays, meta)
  return sum(array.size for name, array in arrays.items() if not name.startswith(f'{STATISTICS}/'))


def write_arrays(
  path: Path, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any] | None = None
) -> None:
  """Writes arrays by name to an `.npz` that appears when it is complete; arguments as of `write`.

  Raises:
    ConfigError: As `write`.
  """
  if path.suffix != '.npz':
    raise ConfigError(f'--out={path}: expected a name that ends in .npz, got {path.suffix!r}.')
  if meta is not None:
    arrays = {**arrays, _META: np.asarray(json.dumps(meta))}
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
      part = Path(folder) / path.name
      with part.open('wb') as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
      part.replace(path)
  except OSError as error:
    raise ConfigError(f'--out={path} cannot be written: {error.strerror}.') from error


def read_meta(path: str) -> dict[str, Any] | None:
  """What was kept beside the arrays: all of a run's, the `class_names` of imported weights; or None."""
  if not path.endswith('.npz'):
    return None
  with np.load(path, allow_pickle=False) as archive:
    return json.loads(str(archive[_META])) if _META in archive.files else None
