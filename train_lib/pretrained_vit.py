"""Image ViTs of JAX projects, and the parts of PyTorch's, in one canonical tree of numpy arrays.

The canonical tree is Scenic's: `cls`, `embedding/{kernel,bias}`, `pre_norm` if there is a norm before
the blocks, `Transformer/posembed_input/pos_embedding` with the class token's row first,
`Transformer/encoderblock_i/{LayerNorm_0,MultiHeadDotProductAttention_0,LayerNorm_1,MlpBlock_0}`,
`Transformer/encoder_norm`, and for the head `pre_logits`, `output_projection`, `MAPHead_0`. What a
file has besides, of which no trunk can use anything, is `unused/WHAT/...`.
"""

import re
from collections.abc import Sequence

import numpy as np

from train_lib.weight_files import Arrays

POSITIONS = 'Transformer/posembed_input/pos_embedding'
UNUSED = 'unused'
# Of a block: LayerScale of its attention and of its MLP.
GAMMAS = ('LayerScale_0', 'LayerScale_1')


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
      for part, rows in zip(('query', 'key', 'value'), np.array_split(array, 3)):
        apart[name.replace('in_proj_', f'{part}.')] = rows
    else:
      apart[name] = array
  return apart


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
