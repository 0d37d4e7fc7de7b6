"""Image ViTs of JAX projects, and the parts of PyTorch's, in one canonical tree of numpy arrays.

The canonical tree is Scenic's: `cls`, `embedding/{kernel,bias}`, `pre_norm` if there is a norm before
the blocks, `Transformer/posembed_input/pos_embedding` with the class token's row first,
`Transformer/encoderblock_i/{LayerNorm_0,MultiHeadDotProductAttention_0,LayerNorm_1,MlpBlock_0}`,
`Transformer/encoder_norm`, and for the head `pre_logits`, `output_projection`, `MAPHead_0`. What a
file has besides, of which no trunk can use anything, is `unused/WHAT/...`.
"""

import itertools
import re
from collections.abc import Sequence

import numpy as np

from errors import CheckpointMismatchError
from train_lib.weight_files import Arrays

POSITIONS = 'Transformer/posembed_input/pos_embedding'
UNUSED = 'unused'
# Of a block: LayerScale of its attention and of its MLP.
GAMMAS = ('LayerScale_0', 'LayerScale_1')
_PACKED = ('query', 'key', 'value')
_TORCH_LEAVES = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias'}


def rename(arrays: Arrays, renames: Sequence[tuple[str, str]]) -> Arrays:
  """Replaces patterns in the names, one after the other."""
  renamed: Arrays = {}
  for key, array in arrays.items():
    for pattern, replacement in renames:
      key = re.sub(pattern, replacement, key)
    renamed[key] = array
  return renamed


def from_scenic(arrays: Arrays, num_heads: int) -> Arrays:
  """Scenic's files, and ours of image ViTs and of all trunks: the canonical names already."""
  del num_heads
  return dict(arrays)


def from_vision_transformer(arrays: Arrays, num_heads: int) -> Arrays:
  """augreg and older files: one counter numbers all children of a block."""
  del num_heads
  renames = (
    (r'MultiHeadDotProductAttention_1/', 'MultiHeadDotProductAttention_0/'),
    (r'MlpBlock_3/', 'MlpBlock_0/'),
    (r'LayerNorm_2/', 'LayerNorm_1/'),
    (r'^head/', 'output_projection/'),
  )
  return rename(arrays, renames)


def from_big_vision(arrays: Arrays, num_heads: int) -> Arrays:
  """Positions are added before the class token, whose row is therefore zeros; layers may be stacked."""
  del num_heads
  unstacked: Arrays = {}
  for key, array in arrays.items():
    stacked = re.fullmatch(r'Transformer/encoderblock/(.*)', key)
    if stacked:
      for i, layer in enumerate(array):
        unstacked[f'Transformer/encoderblock_{i}/{stacked[1]}'] = layer
    else:
      unstacked[key] = array
  canonical = rename(
    unstacked, ((r'^head/', 'output_projection/'), (r'^pos_embedding$', POSITIONS))
  )
  if 'cls' in canonical:
    canonical[POSITIONS] = with_zero_row(canonical[POSITIONS])
  return canonical


def with_zero_row(table: np.ndarray) -> np.ndarray:
  """Positions [1, N, C] with a class token's, which has none."""
  return np.concatenate([np.zeros_like(table[:, :1]), table], axis=1)  # [1, 1 + N, C]


def split_packed(arrays: Arrays) -> Arrays:
  """PyTorch's `in_proj_weight` and `in_proj_bias`, rows of queries, keys and values, as three arrays each."""
  apart: Arrays = {}
  for name, array in arrays.items():
    if '.in_proj_' in name:
      for part, rows in zip(_PACKED, np.array_split(array, 3)):
        apart[name.replace('in_proj_', f'{part}.')] = rows
    else:
      apart[name] = array
  return apart


def join_packed(arrays: Arrays) -> Arrays:
  """Queries, keys and values as PyTorch packs them: what `split_packed` splits."""
  packed: Arrays = {}
  for name, array in arrays.items():
    part = next((part for part in _PACKED if f'.{part}.' in name), '')
    if part == 'query':
      rows = [arrays[name.replace('.query.', f'.{other}.')] for other in _PACKED]
      packed[name.replace('.query.', '.in_proj_')] = np.concatenate(rows)
    elif not part:
      packed[name] = array
  return packed


def from_torch(arrays: Arrays, num_heads: int, stems: Sequence[tuple[str, str]]) -> Arrays:
  """Renames and lays out the arrays of a PyTorch state dict.

  Args:
    arrays: PyTorch's name -> array; queries, keys and values apart.
    num_heads: that the width of projections is divided into, if it divides it.
    stems: pairs of a pattern of a name without its `.weight` or `.bias`, and our path.

  Returns:
    Our path -> array; those without a stem keep their name, as they are.
  """
  canonical: Arrays = {}
  for key, array in arrays.items():
    stem, _, leaf = key.rpartition('.') if key.endswith(('.weight', '.bias')) else (key, '', '')
    name = next(
      (m.expand(to) for of, to in stems if (m := re.fullmatch(of, stem)) is not None), None
    )
    if name is None:
      canonical[key] = array
      continue
    if leaf == 'weight':
      leaf = 'scale' if 'norm' in name.lower().rsplit('/', 1)[-1] else 'kernel'
    path = f'{name}/{leaf}' if leaf else name
    canonical[path] = _torch_to_flax(path, array, num_heads)
  return canonical


def _torch_to_flax(path: str, array: np.ndarray, num_heads: int) -> np.ndarray:
  """(out, in) to (in, out), heads apart, channels last."""
  if path == 'embedding/kernel':  # (C, 3, [t,] h, w) -> ([t,] h, w, 3, C)
    return np.moveaxis(array, (1, 0), (-2, -1))
  if path.endswith('/kernel'):
    array = array.T
  if re.search(r'/(query|key|value)/', path) and array.shape[-1] % num_heads == 0:
    return array.reshape(*array.shape[:-1], num_heads, -1)
  if path.endswith('/out/kernel') and array.shape[0] % num_heads == 0:
    return array.reshape(num_heads, -1, array.shape[-1])
  return array


def to_torch(arrays: Arrays, stems: Sequence[tuple[str, str]]) -> Arrays:
  """What `from_torch` makes `arrays` of: the same table, read from right to left.

  Args:
    arrays: our path -> array.
    stems: as of `from_torch`. Of a pattern with several spellings, `(?:a|b)`, the first is written.

  Returns:
    PyTorch's name -> array, queries, keys and values apart.

  Raises:
    CheckpointMismatchError: arrays that the table does not name.
  """
  table = [_backwards(of, to) for of, to in stems]
  official: Arrays = {}
  unknown = []
  for path, array in arrays.items():
    stem, _, leaf = path.rpartition('/')
    if leaf not in _TORCH_LEAVES:
      stem, leaf = path, ''
    name = next(
      (m.expand(to) for of, to in table if (m := re.fullmatch(of, stem)) is not None), None
    )
    if name is None:
      unknown.append(path)
    else:
      official[f'{name}.{_TORCH_LEAVES[leaf]}' if leaf else name] = _flax_to_torch(path, array)
  if unknown:
    raise CheckpointMismatchError(
      f'The layout has no place for {len(unknown)} arrays of the model: {", ".join(sorted(unknown)[:8])}.'
    )
  return official


def _backwards(pattern: str, template: str) -> tuple[str, str]:
  """A pair of `from_torch` as a pattern of our path and a template of PyTorch's name."""
  group = r'\((?!\?)[^()]*\)'
  groups = re.findall(group, pattern)
  pieces = re.split(r'\\(\d)', template)  # Literals, and between them the numbers of groups.
  ours = [groups[int(x) - 1] if i % 2 else re.escape(x) for i, x in enumerate(pieces)]
  places = {number: place for place, number in enumerate(pieces[1::2], 1)}
  first_spelling = re.sub(r'\(\?:([^|()]*)(?:\|[^()]*)?\)', r'\1', pattern)
  counter = itertools.count(1)
  name = re.sub(group, lambda _: f'\\{places[str(next(counter))]}', first_spelling)
  return ''.join(ours), name.replace(r'\.', '.')


def _flax_to_torch(path: str, array: np.ndarray) -> np.ndarray:
  """The inverse of `_torch_to_flax`."""
  if path == 'embedding/kernel':
    return np.moveaxis(array, (-2, -1), (1, 0))
  if re.search(r'/(query|key|value)/', path):
    array = array.reshape(*array.shape[:-2], -1)
  elif path.endswith('/out/kernel'):
    array = array.reshape(-1, array.shape[-1])
  return array.T if path.endswith('/kernel') else array
