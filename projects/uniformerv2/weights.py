"""The official PyTorch names of UniFormerV2's parameters and statistics, and ours."""

import re
from collections.abc import Iterable, Mapping

import numpy as np

from errors import CheckpointMismatchError, ConfigError
from train_lib.pretrained_vit import from_torch, join_packed, split_packed, to_torch
from train_lib.weight_files import Arrays

# In front of the names of released and of trained checkpoints.
_CONTAINERS = ('model_state/', 'state_dict/', 'model/')
_PREFIXES = ('module.', 'backbone.')

_ATTENTION = 'MultiHeadDotProductAttention_0/'
_BLOCK = r'transformer\.resblocks\.(\d+)\.'
_GLOBAL = r'transformer\.dec\.(\d+)\.'
_LOCAL = _BLOCK + r'local_([01])\.'


def _block_stems(official: str, ours: str) -> tuple[tuple[str, str], ...]:
  """What the blocks of the ViT and the global ones call alike."""
  return (
    (official + 'ln_1', ours + 'LayerNorm_0'),
    (official + 'ln_2', ours + 'LayerNorm_1'),
    (official + r'attn\.(query|key|value)', ours + _ATTENTION + r'\2'),
    (official + r'attn\.out_proj', ours + _ATTENTION + 'out'),
    (official + r'mlp\.c_fc', ours + 'MlpBlock_0/Dense_0'),
    (official + r'mlp\.c_proj', ours + 'MlpBlock_0/Dense_1'),
  )


_ENCODER_BLOCK = r'SpatialTransformer/encoderblock_\1/'
_STEMS = (
  ('class_embedding', 'cls'),
  ('positional_embedding', 'SpatialTransformer/posembed_input/pos_embedding'),
  ('conv1', 'embedding'),
  ('ln_pre', 'pre_norm'),
  (r'transformer\.temporal_cls_token', 'query'),
  (r'transformer\.balance', 'fusion_balance'),
  *_block_stems(_BLOCK, _ENCODER_BLOCK),
  (_LOCAL + '0', _ENCODER_BLOCK + r'local_\2/norm'),
  (_LOCAL + r'0\.running_(mean|var)', f'batch_stats/trunk/{_ENCODER_BLOCK}' + r'local_\2/norm/\3'),
  (_LOCAL + '1', _ENCODER_BLOCK + r'local_\2/Dense_0'),
  (_LOCAL + '2', _ENCODER_BLOCK + r'local_\2/convolution'),
  (_LOCAL + '3', _ENCODER_BLOCK + r'local_\2/Dense_1'),
  *_block_stems(_GLOBAL, r'global_\1/'),
  (_GLOBAL + 'ln_3', r'global_\1/LayerNorm_context'),
  (r'transformer\.dpe\.(\d+)', r'global_\1/dpe'),
  (r'transformer\.proj\.0', 'fusion_norm'),
  (r'transformer\.proj\.2', 'output_projection'),
)

_TRUNK = (
  'class_embedding',
  'positional_embedding',
  'conv1.weight',
  'transformer.temporal_cls_token',
)
_TRUNK_STEMS = ('ln_pre', 'transformer.proj.0')
_BLOCK_LEAVES = (
  *('ln_1.weight', 'ln_1.bias', 'ln_2.weight', 'ln_2.bias'),
  *('attn.in_proj_weight', 'attn.in_proj_bias', 'attn.out_proj.weight', 'attn.out_proj.bias'),
  *('mlp.c_fc.weight', 'mlp.c_fc.bias', 'mlp.c_proj.weight', 'mlp.c_proj.bias'),
)
_LOCAL_LEAVES = (
  *(f'pos_embed.{i}.{leaf}' for i in range(4) for leaf in ('weight', 'bias')),
  *('pos_embed.0.running_mean', 'pos_embed.0.running_var'),
)


def from_official(
  arrays: Mapping[str, np.ndarray],
  num_heads: int | None = None,
  global_num_heads: int | None = None,
) -> Arrays:
  """Renames and lays out a state dict of the released code, or a checkpoint that holds one.

  Args:
    arrays: PyTorch's name -> array, also behind `model_state/` or after `module.` and `backbone.`.
    num_heads: of the ViT, which no file tells; None: one for each 64 channels, as all released models.
    global_num_heads: of the global blocks; None: as the ViT's.

  Returns:
    '/'-joined path -> array, as `init_from.path` reads it; running statistics of BatchNorm under
    `batch_stats/trunk/`, the classifier as `output_projection`.

  Raises:
    CheckpointMismatchError: names that the released model has not, or too few, or other shapes. The
      classifier may be missing.
    ConfigError: a number of heads does not divide the width.
  """
  state = {
    name: array
    for name, array in _unwrapped(arrays).items()
    if not name.endswith('.num_batches_tracked')
  }
  _check_names(set(state))
  _check_shapes(state)
  heads = num_heads or max(state['class_embedding'].size // 64, 1)
  apart = _apart(state)
  of_global = {name for name in apart if name.startswith('transformer.dec.')}
  ours: Arrays = {}
  for names, count in (
    (apart.keys() - of_global, heads),
    (of_global, global_num_heads or heads),
  ):
    if len(state['class_embedding']) % count:
      raise ConfigError(
        f'{count} heads do not divide the width {len(state["class_embedding"])}: see --num_heads.'
      )
    ours |= from_torch({name: apart[name] for name in names}, count, _STEMS)
  return {name: _laid_out(name, array) for name, array in sorted(ours.items())}


def _unwrapped(arrays: Mapping[str, np.ndarray]) -> Arrays:
  """The model's arrays, without what stands before their names."""
  for container in _CONTAINERS:
    inside = {k.removeprefix(container): v for k, v in arrays.items() if k.startswith(container)}
    arrays = inside or arrays
  for prefix in _PREFIXES:
    if all(name.startswith(prefix) for name in arrays):
      arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
  return dict(arrays)


def _check_names(names: set[str]) -> None:
  """Raises CheckpointMismatchError for names that the released model has not or that are missing."""
  blocks, globals_ = (
    _count(names, part) for part in (_BLOCK, r'transformer\.(?:dec|dpe)\.(\d+)\.')
  )
  needed = {*_TRUNK, *_with_leaves(_TRUNK_STEMS)}
  needed |= {f'transformer.resblocks.{i}.{leaf}' for i in range(blocks) for leaf in _BLOCK_LEAVES}
  for local in ('lmhra1', 'lmhra2'):
    if any(f'.{local}.' in name for name in names):
      stems = [f'transformer.resblocks.{i}.{local}' for i in range(blocks)]
      needed |= {f'{stem}.{leaf}' for stem in stems for leaf in _LOCAL_LEAVES}
  for j in range(globals_):
    needed |= {f'transformer.dec.{j}.{leaf}' for leaf in _BLOCK_LEAVES}
    needed |= _with_leaves([f'transformer.dec.{j}.ln_3', f'transformer.dpe.{j}'])
  optional = {'transformer.balance', *_with_leaves(['transformer.proj.2'])}
  if unknown := sorted(names - needed - optional):
    raise CheckpointMismatchError(
      f'This is no state dict of the released UniFormerV2, which has no {unknown}. Expected the names of '
      'its class VisionTransformer, with or without `backbone.` in front.'
    )
  if missing := sorted(needed - names):
    raise CheckpointMismatchError(
      f'This is no whole state dict of the released UniFormerV2: {missing} are missing. Save the state '
      'dict of its model, all of it.'
    )


def _count(names: Iterable[str], pattern: str) -> int:
  """One more than the largest number in the names; at least 1, so that none at all are missing."""
  return 1 + max((int(found[1]) for n in names if (found := re.match(pattern, n))), default=0)


def _with_leaves(stems: Iterable[str]) -> set[str]:
  return {f'{stem}.{leaf}' for stem in stems for leaf in ('weight', 'bias')}


def _check_shapes(state: Arrays) -> None:
  """Raises CheckpointMismatchError for arrays that cannot be laid out."""
  width = state['class_embedding'].size
  axes = {'class_embedding': 1, 'positional_embedding': 2, 'conv1.weight': 5}
  for name, array in state.items():
    local = re.search(r'\.pos_embed\.[123]\.weight$', name)
    expected = 5 if local or re.search(r'\.dpe\.\d+\.weight$', name) else axes.get(name, array.ndim)
    packed = name.endswith(('.in_proj_weight', '.in_proj_bias'))
    if array.ndim != expected or (packed and array.shape[0] != 3 * width):
      what = f'{3 * width} rows: queries, keys, values' if packed else f'{expected} axes'
      raise CheckpointMismatchError(
        f'{name}: expected {what}, got the shape {array.shape}. The released model, '
        f'{width} wide, has no such array: see where the checkpoint was made or changed.'
      )


def _apart(state: Arrays) -> Arrays:
  """Queries, keys and values apart, pointwise kernels of two axes, local MHRAs numbered as ours."""
  apart: Arrays = {}
  for name, array in split_packed(state).items():
    if re.search(r'\.pos_embed\.[13]\.weight$', name):
      array = array[:, :, 0, 0, 0]
    found = re.fullmatch(r'(.*)\.lmhra([12])\.pos_embed\.(.*)', name)
    apart[f'{found[1]}.local_{int(found[2]) - 1}.{found[3]}' if found else name] = array
  return apart


def _laid_out(name: str, array: np.ndarray) -> np.ndarray:
  """Axes that `from_torch` does not know of."""
  if name.endswith(('/convolution/kernel', '/dpe/kernel')):
    return array.swapaxes(0, 2)  # From (w, h, t, 1, C), as it reverses all axes.
  if name == 'cls':
    return array.reshape(1, 1, -1)
  return array[None] if name.endswith('/pos_embedding') else array


def to_official(ours: Mapping[str, np.ndarray]) -> Arrays:
  """What `from_official` reads as `ours`: the state dict as released, `backbone.` in front.

  BatchNorm's `num_batches_tracked` are left out: PyTorch sets those that are missing to 0, and nothing reads
  them.

  Args:
    ours: path -> array, statistics under `batch_stats/trunk/`, the classifier as `output_projection`.

  Raises:
    CheckpointMismatchError: the released model has no place for an array, or needs one that is not there.
  """
  apart = to_torch({name: _laid_back(name, array) for name, array in ours.items()}, _STEMS)
  state = join_packed({_released(name): _with_axes(name, x) for name, x in apart.items()})
  _check_names(set(state))
  return {f'backbone.{name}': array for name, array in state.items()}


def _laid_back(name: str, array: np.ndarray) -> np.ndarray:
  """The inverse of `_laid_out`."""
  if name.endswith(('/convolution/kernel', '/dpe/kernel')):
    return array.swapaxes(0, 2)
  if name == 'cls':
    return array.reshape(-1)
  return array[0] if name.endswith('/pos_embedding') else array


def _released(name: str) -> str:
  """The name that `_apart` numbered as ours."""
  found = re.fullmatch(r'(.*)\.local_([01])\.(.*)', name)
  return f'{found[1]}.lmhra{int(found[2]) + 1}.pos_embed.{found[3]}' if found else name


def _with_axes(name: str, array: np.ndarray) -> np.ndarray:
  """Pointwise kernels of local MHRAs with the three axes that `_apart` removed."""
  pointwise = re.search(r'\.local_[01]\.[13]\.weight$', name)
  return array[:, :, None, None, None] if pointwise else array
