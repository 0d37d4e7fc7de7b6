"""The config that a trained model keeps beside its weights, read without them.

Configs import neither NumPy nor what reads weights (`train_lib.params_file`), and need no array of them.
"""

import contextlib
import json
import zipfile
from pathlib import Path
from typing import Any

# What a config of this version has at least.
_KEYS = frozenset({'compute_dtype', 'datasets', 'pixels', 'tasks', 'trunk'})


def stored_config(path: str) -> dict[str, Any]:
  """The resolved config of a trained model; what were tuples are lists.

  Args:
    path: The folder of a run, or a file that `tools.checkpoint --out` or `tools.export` made of one.

  Raises:
    ValueError: It is none of these, is damaged, or is of another version of this code.
  """
  config = None
  with contextlib.suppress(OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
    config = _read(Path(path))
  if not isinstance(config, dict):
    found = 'found one damaged, or weights alone' if Path(path).exists() else 'there is nothing'
    raise ValueError(
      f'from={path}: expected the folder of a run, with config.json, or a file that `tools.checkpoint '
      f'--out` or `tools.export` made of one; {found}. For weights alone choose `trunk=` and set '
      '`--config.init_from.path`.'
    )
  if missing := sorted(_KEYS - config.keys()):
    raise ValueError(
      f'from={path}: its config has no {missing}, so it is of another version of this code. Choose '
      '`trunk=` and set `--config.init_from.path`.'
    )
  return config


def _read(path: Path) -> Any:
  if path.is_dir():
    return json.loads((path / 'config.json').read_text(encoding='utf-8'))
  if path.suffix == '.safetensors':
    with path.open('rb') as file:  # The size of the header in eight bytes, then the header as JSON.
      size = int.from_bytes(file.read(8), 'little')
      header = json.loads(file.read(min(size, path.stat().st_size)))
    return json.loads(header['__metadata__']['tubelet'])['config']
  with zipfile.ZipFile(path) as archive:
    # NumPy's format: a header with its size in two bytes from the ninth, then the text.
    data = archive.read('__meta__.npy')
  return json.loads(data[10 + int.from_bytes(data[8:10], 'little') :].decode('utf-32-le'))['config']
