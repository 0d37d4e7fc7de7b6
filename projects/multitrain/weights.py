"""The official PyTorch names of MultiTrain's parameters (class MViT of the released code), and ours.

`blocks.0.attn.qkv.weight` and the like become the arrays that `init_from.path` reads: the trunk's at the
top, heads as `heads_TASK`, and what belongs to the objective under `objective`.
"""

import re
from collections.abc import Callable, Mapping

import numpy as np

from errors import CheckpointMismatchError
from train_lib.state import OBJECTIVE

Arrays = dict[str, np.ndarray]
Convert = Callable[[np.ndarray], np.ndarray]


def _same(array: np.ndarray) -> np.ndarray:
  return array


def _linear(array: np.ndarray) -> np.ndarray:
  return array.T


def _convolution(array: np.ndarray) -> np.ndarray:
  """[O, I, t, h, w] -> [t, h, w, I, O]."""
  return np.moveaxis(array, (1, 0), (-2, -1))


_BLOCK = r'encoderblock_\1/'
_NORM = (('weight', 'scale', _same), ('bias', 'bias', _same))
_DENSE = (('weight', 'kernel', _linear), ('bias', 'bias', _same))
_CONV = (('weight', 'kernel', _convolution), ('bias', 'bias', _same))

# Official stem -> our stem, and how each leaf is called and laid out. `qkv` and `attn.proj`, which
# hold all heads side by side, are taken apart in `_apart` and `_heads`.
_STEMS = (
  (r'patch_embed\.proj', 'embedding', _CONV),
  (r'blocks\.(\d+)\.norm1', _BLOCK + 'LayerNorm_0', _NORM),
  (r'blocks\.(\d+)\.norm2', _BLOCK + 'LayerNorm_1', _NORM),
  (r'blocks\.(\d+)\.attn\.(query|key|value)', _BLOCK + r'attention/\2', _DENSE),
  (r'blocks\.(\d+)\.attn\.proj', _BLOCK + 'attention/out', _DENSE),
  *(
    row
    for name in ('query', 'key', 'value')
    for row in (
      (
        rf'blocks\.(\d+)\.attn\.pool_{name[0]}',
        _BLOCK + f'attention/{name}',
        (('weight', 'pool_kernel', _convolution),),
      ),
      (rf'blocks\.(\d+)\.attn\.norm_{name[0]}', _BLOCK + f'attention/{name}/norm', _NORM),
    )
  ),
  (r'blocks\.(\d+)\.proj_max_pool', _BLOCK + 'skip', _DENSE),
  (r'blocks\.(\d+)\.mlp\.fc1', _BLOCK + 'MlpBlock_0/Dense_0', _DENSE),
  (r'blocks\.(\d+)\.mlp\.fc2', _BLOCK + 'MlpBlock_0/Dense_1', _DENSE),
  (r'norm', 'encoder_norm', _NORM),
  (r'head\.projection', 'output_projection', _DENSE),
  (r'head\.heads\.([^.]+)\.fc1', r'heads_\1/hidden', _DENSE),
  (r'head\.heads\.([^.]+)\.fc2', r'heads_\1/output_projection', _DENSE),
  (
    r'head\.cross_dataset_heads\.([^._]+)_([^._]+)',
    OBJECTIVE + r'/from_\1',
    (('weight', r'to_\2', _linear),),
  ),
  (r'expander\.fc1', f'{OBJECTIVE}/expander/Dense_0', _DENSE),
  (r'expander\.fc2', f'{OBJECTIVE}/expander/Dense_1', _DENSE),
)
_RULES: tuple[tuple[str, str, Convert], ...] = (
  (r'pos_embed_spatial', 'posembed_space/pos_embedding', _same),
  (r'pos_embed_temporal', 'posembed_time/pos_embedding', _same),
  (r'blocks\.(\d+)\.attn\.(rel_pos_[thw])', _BLOCK + r'attention/\2', _same),
  *(
    (rf'{official}\.{leaf}', f'{ours}/{own}', convert)
    for official, ours, leaves in _STEMS
    for leaf, own, convert in leaves
  ),
)


def from_official(arrays: Mapping[str, np.ndarray], tasks: Mapping[str, str]) -> Arrays:
  """Renames and lays out a state dict of the released code.

  Args:
    arrays: official name -> array, of a model with one dataset or several.
    tasks: official dataset -> task, where they differ. The one head of a model with one dataset has
      no name, and loads into a model with one head whatever its name.

  Returns:
    '/'-joined path -> array, as `params_file.write` takes them.

  Raises:
    CheckpointMismatchError: names that the released model has not, or shapes that cannot be taken apart;
      attention without its norms, whose width is that of a head; or `tasks` names a dataset that has
      no head, or gives two datasets one task. Other arrays that are missing, and other shapes, are
      noticed by `init_from`.
  """
  apart = _apart(arrays)
  found = {name: _ours(name) for name in apart}
  if unknown := sorted(name for name, own in found.items() if own is None):
    raise CheckpointMismatchError(
      f'This is no state dict of the released MultiTrain, which has no {unknown}. Expected the names of '
      'its class MViT without a class token, of the model alone and without a prefix such as `module.`.'
    )
  ours = {own[0]: _converted(name, apart[name], own[1]) for name, own in found.items() if own}
  return _with_heads(_renamed(ours, tasks))


def _ours(name: str) -> tuple[str, Convert] | None:
  for pattern, path, convert in _RULES:
    if match := re.fullmatch(pattern, name):
      return match.expand(path), convert
  return None


def _converted(name: str, array: np.ndarray, convert: Convert) -> np.ndarray:
  if convert is _convolution:
    _expect(array.ndim == 5, name, array, 'five axes')
  return convert(array)


def _expect(fits: bool, name: str, array: np.ndarray, expected: str) -> None:
  """Raises CheckpointMismatchError unless the array fits."""
  if not fits:
    raise CheckpointMismatchError(
      f'{name}: expected {expected}, got the shape {array.shape}. The released model has no such array: '
      'see where the checkpoint was made or changed.'
    )


def _apart(arrays: Mapping[str, np.ndarray]) -> Arrays:
  """Splits `qkv`, whose rows are queries, keys and values, into three arrays."""
  apart: Arrays = {}
  for name, array in arrays.items():
    if '.attn.qkv.' in name:
      fits = array.ndim > 0 and len(array) % 3 == 0
      _expect(fits, name, array, 'a multiple of 3 rows: queries, keys, values')
      for part, rows in zip(('query', 'key', 'value'), np.split(array, 3)):
        apart[name.replace('qkv', part)] = rows
    else:
      apart[name] = array
  return apart


def _with_heads(arrays: Arrays) -> Arrays:
  """Gives projections their axis of heads, whose width their norms have."""
  result = dict(arrays)
  for name, array in arrays.items():
    if match := re.fullmatch(r'(.*/attention)/((query|key|value)/(kernel|bias)|out/kernel)', name):
      norm = arrays.get(f'{match[1]}/query/norm/scale')
      if norm is None:
        raise CheckpointMismatchError(f'{match[1]}: there is no attn.norm_q.weight of this block.')
      _expect(norm.ndim == 1 and norm.size > 0, f'{match[1]}/query/norm/scale', norm, 'one axis')
      axis = array.ndim - 1 if match[3] else 0
      fits = array.ndim == (1 if match[4] == 'bias' else 2) and array.shape[axis] % norm.size == 0
      _expect(fits, name, array, f'heads of {norm.size} channels, the width of their norm')
      heads = (array.shape[axis] // norm.size, norm.size)
      result[name] = array.reshape(*array.shape[:axis], *heads, *array.shape[axis + 1 :])
  return result


def _renamed(arrays: Arrays, tasks: Mapping[str, str]) -> Arrays:
  """Datasets in the names of heads and projections become tasks."""
  heads = {name.split('/')[0] for name in arrays if name.startswith('heads_')}
  datasets = {head.removeprefix('heads_') for head in heads}
  if missing := sorted(set(tasks) - datasets):
    raise CheckpointMismatchError(
      f'There are no heads of {missing}: the checkpoint has those of {sorted(datasets)}.'
    )
  named = {dataset: tasks.get(dataset, dataset) for dataset in sorted(datasets)}
  if shared := {d: task for d, task in named.items() if list(named.values()).count(task) > 1}:
    raise CheckpointMismatchError(
      f'Several datasets of the checkpoint would become one task: {shared}. Expected a task of its own '
      'for each; a dataset that is not renamed keeps its name.'
    )

  def renamed(match: re.Match[str]) -> str:
    return match[1] + tasks.get(match[2], match[2])

  pattern = re.compile(r'(?<![^/])(heads_|from_|to_)([^/]+)')
  return {
    pattern.sub(renamed, name) if name.startswith(('heads_', OBJECTIVE)) else name: array
    for name, array in arrays.items()
  }
