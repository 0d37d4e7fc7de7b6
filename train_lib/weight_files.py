"""Weight files of any kind, read to flat numpy arrays by name."""

import argparse
import importlib
import io
import pickle
import re
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
from etils import epath
from flax import serialization

from errors import CheckpointMismatchError

Arrays = dict[str, np.ndarray]

TORCH_SUFFIXES = ('.pt', '.pth', '.pyth', '.bin')
_SAFETENSORS_DTYPES: dict[str, Any] = {
  'F64': np.float64,
  'F32': np.float32,
  'F16': np.float16,
  'BF16': jnp.bfloat16,
  'I64': np.int64,
  'I32': np.int32,
  'I16': np.int16,
  'I8': np.int8,
  'U8': np.uint8,
  'BOOL': np.bool_,
}
_UNREADABLE = (
  ValueError,
  KeyError,
  AttributeError,
  zipfile.BadZipFile,
  zlib.error,
  safetensors.SafetensorError,
)
_CONVERT = """\
  import torch
  from safetensors.torch import save_file
  arrays = {load}
  keys = ('model', 'model_state', 'state_dict', 'teacher')
  arrays = next((arrays[k] for k in keys if k in arrays), arrays)
  arrays = {{k: v.detach().clone().contiguous() for k, v in arrays.items() if torch.is_tensor(v)}}
  save_file(arrays, 'weights.safetensors')"""


def flatten(tree: Mapping[str, Any], prefix: str = '') -> Arrays:
  """Nested or already '/'-joined mappings to one flat dict of arrays; bfloat16 views restored."""
  flat: Arrays = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      flat.update(flatten(value, f'{prefix}{key}/'))
    elif value is not None:
      array = np.asanyarray(value)  # Rows of a head may be masked.
      if array.dtype.kind == 'V' and array.dtype.itemsize == 2:  # numpy forgets bfloat16 in files
        array = array.view(jnp.bfloat16)
      flat[f'{prefix}{key}'] = array
  return flat


def read_arrays(path: str, given: str = 'init_from.path') -> Arrays:
  """Reads a file from any filesystem.

  Args:
    path: `.npz`, `.safetensors`, a PyTorch checkpoint (`.pt`, `.pth`, `.pyth`, `.bin`; needs torch,
      which the extra `torch` installs, and runs no code of the file), or a Flax msgpack checkpoint
      (any other suffix).
    given: What the user named it by, a setting or a flag, for messages.

  Returns:
    Name -> array; containers inside the file are joined to the names with `/`.

  Raises:
    CheckpointMismatchError: The file is missing or cannot be read, or not as its suffix says, torch is
      needed and not installed, or the file holds more than tensors.
  """
  where = f'{given}={path!r}'
  file = epath.Path(path)
  if not path or not file.is_file():
    raise CheckpointMismatchError(
      f'{where}: there is no such file; download the checkpoint or correct the path.'
    )
  try:
    data = file.read_bytes()
  except OSError as error:
    raise CheckpointMismatchError(f'{where} cannot be read ({error.strerror}).') from error
  try:
    if file.suffix in TORCH_SUFFIXES:
      return _read_torch(data, path, where)
    if file.suffix == '.npz':
      # np.load would take what is no archive for another kind of file.
      if not zipfile.is_zipfile(io.BytesIO(data)):
        raise ValueError('it is no archive')
      with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return flatten({key: archive[key] for key in archive.files if not key.startswith('__')})
    if file.suffix == '.safetensors':
      return _parse_safetensors(data)
    return flatten(serialization.msgpack_restore(data))
  except _UNREADABLE as error:
    raise CheckpointMismatchError(
      f'{where} cannot be read ({error}); expected .npz, .safetensors, {", ".join(TORCH_SUFFIXES)} or '
      'a Flax msgpack checkpoint, whole.'
    ) from error


def _parse_safetensors(data: bytes) -> Arrays:
  """The arrays of a file; `safetensors.numpy.load` has no bfloat16."""
  return {
    name: np.frombuffer(entry['data'], _SAFETENSORS_DTYPES[entry['dtype']]).reshape(entry['shape'])
    for name, entry in safetensors.deserialize(data)
  }


def _read_torch(data: bytes, path: str, where: str) -> Arrays:
  """Tensors of a pickled checkpoint; nothing but tensors and plain containers is unpickled."""
  if _is_torchscript(data):
    load = f"torch.jit.load({path!r}, map_location='cpu').state_dict()"
    raise CheckpointMismatchError(
      f'{where} is a TorchScript archive (as OpenAI publishes CLIP): it holds a '
      'program, which is not run here. Convert it, where torch and safetensors are installed:\n'
      + _CONVERT.format(load=load)
    )
  load = f"torch.load({path!r}, map_location='cpu', weights_only=True)"
  try:
    torch = importlib.import_module('torch')
  except ImportError as error:
    raise CheckpointMismatchError(
      f'{where} is a PyTorch checkpoint, and torch is not installed. Install it '
      "(`pip install 'tubelet[torch]'`), or convert the file where it is:\n"
      + _CONVERT.format(load=load)
    ) from error
  try:
    # The settings that training scripts store beside the weights; plain values.
    with torch.serialization.safe_globals([argparse.Namespace]):
      loaded = torch.load(io.BytesIO(data), map_location='cpu', weights_only=True)
  except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
    raise CheckpointMismatchError(
      f'{where} cannot be read with `weights_only=True`: {_reason(error)}. It is cut '
      'short, or holds more than tensors, which could be any code. If it is whole and you trust it, '
      'convert it with `weights_only=False`:\n'
      + _CONVERT.format(load=load.replace('True', 'False'))
    ) from error
  if not isinstance(loaded, Mapping):
    raise CheckpointMismatchError(
      f'{where} holds a {type(loaded).__name__}; expected a state dict.'
    )
  return flatten(_tensors_only(torch, loaded))


def _reason(error: Exception) -> str:
  """Of torch's advice the one line that says what is wrong."""
  found = re.search(r'Unsupported (?:global|operand)[^\n]*', str(error))
  return (found[0] if found else str(error).split('\n')[0]).split('. ')[0].rstrip(' .')


def _is_torchscript(data: bytes) -> bool:
  if not zipfile.is_zipfile(io.BytesIO(data)):
    return False
  with zipfile.ZipFile(io.BytesIO(data)) as archive:
    return any('/code/' in name or name.endswith('/constants.pkl') for name in archive.namelist())


def _tensors_only(torch: Any, tree: Mapping[str, Any]) -> dict[str, Any]:
  """The tensors of a checkpoint as numpy arrays, without epochs, settings and the like."""
  kept: dict[str, Any] = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      kept[str(key)] = _tensors_only(torch, value)
    elif torch.is_tensor(value):  # numpy has no bfloat16 of its own.
      value = value.detach()
      kept[str(key)] = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
  return kept
