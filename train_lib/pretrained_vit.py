"""Checkpoint files of image and video ViTs, brought to one canonical tree of numpy arrays.

The canonical tree is Scenic's: `cls`, `embedding/{kernel,bias}`,
`Transformer/posembed_input/pos_embedding` with the class token's row first,
`Transformer/encoderblock_i/{LayerNorm_0,MultiHeadDotProductAttention_0,LayerNorm_1,MlpBlock_0}`,
`Transformer/encoder_norm`, and for the head `pre_logits`, `output_projection`, `MAPHead_0`.
Also here: the two array operations that fit an image model to a video model.
"""

import dataclasses
import io
import json
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import serialization

from errors import CheckpointMismatchError, ConfigError
from models.interpolation import axis_weights

Arrays = dict[str, np.ndarray]

POSITIONS = 'Transformer/posembed_input/pos_embedding'
# Where checkpoints keep the parameters, among optimiser state, step counters and the like.
_CONTAINERS = ('opt/target/', 'optimizer/target/', 'target/', 'state_dict/', 'params/')
_SAFETENSORS_DTYPES: dict[str, Any] = {
  'F64': np.float64,
  'F32': np.float32,
  'F16': np.float16,
  'BF16': jnp.bfloat16,
  'I64': np.int64,
  'I32': np.int32,
}
INFLATION_METHODS = ('central_frame', 'average', 'average_arp')


@dataclasses.dataclass(frozen=True)
class Source:
  """A checkpoint in the canonical tree.

  Attributes:
    name: file name, for messages.
    layout: which of the known layouts it had.
    arrays: canonical path -> array; keys the layout does not know are kept as they were.
    is_video: the checkpoint is a ViViT (its tubelet kernel has a time axis), not an image ViT.
  """

  name: str
  layout: str
  arrays: Arrays
  is_video: bool


def flatten(tree: Mapping[str, Any], prefix: str = '') -> Arrays:
  """Nested or already '/'-joined mappings to one flat dict of arrays; bfloat16 views restored."""
  flat: Arrays = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      flat.update(flatten(value, f'{prefix}{key}/'))
    elif value is not None:
      array = np.asarray(value)
      if array.dtype.kind == 'V' and array.dtype.itemsize == 2:  # numpy forgets bfloat16 in files
        array = array.view(jnp.bfloat16)
      flat[f'{prefix}{key}'] = array
  return flat


def read_arrays(path: str) -> Arrays:
  """Reads `.npz`, `.safetensors` or a Flax msgpack checkpoint (any other suffix), any filesystem.

  Raises:
    CheckpointMismatchError: the file is missing or cannot be read as its suffix says.
  """
  file = epath.Path(path)
  if not path or not file.is_file():
    raise CheckpointMismatchError(
      f'init_from.path={path!r}: there is no such file; download the checkpoint or correct the path.'
    )
  data = file.read_bytes()
  try:
    if file.suffix == '.npz':
      with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return flatten({key: archive[key] for key in archive.files if not key.startswith('__')})
    if file.suffix == '.safetensors':
      return _parse_safetensors(data)
    return flatten(serialization.msgpack_restore(data))
  except (ValueError, KeyError, AttributeError, zipfile.BadZipFile) as error:
    raise CheckpointMismatchError(
      f'init_from.path={path!r} cannot be read ({error}); expected .npz, .safetensors or a Flax '
      'msgpack checkpoint, whole.'
    ) from error


def _parse_safetensors(data: bytes) -> Arrays:
  """8 bytes header length, JSON header {name: dtype, shape, data_offsets}, then raw data."""
  start = 8 + int.from_bytes(data[:8], 'little')
  arrays: Arrays = {}
  for key, entry in json.loads(data[8:start]).items():
    if key != '__metadata__':
      begin, end = (start + offset for offset in entry['data_offsets'])
      flat = np.frombuffer(data[begin:end], _SAFETENSORS_DTYPES[entry['dtype']])
      arrays[key] = flat.reshape(entry['shape'])
  return arrays


def canonicalise(arrays: Arrays, num_heads: int, name: str = 'arrays') -> Source:
  """Finds out the layout by its keys and converts to the canonical tree.

  Args:
    arrays: flat mapping, as `read_arrays` returns it.
    num_heads: of the model to fill; PyTorch layouts do not store it.
    name: for messages.

  Raises:
    CheckpointMismatchError: no known layout has these keys.
  """
  arrays = _unwrap(arrays)
  for layout, is_layout, convert in _LAYOUTS:
    if is_layout(set(arrays)):
      canonical = convert(arrays, num_heads)
      is_video = any(
        'SpatialTransformer/' in key or (key.endswith('kernel') and array.ndim == 5)
        for key, array in canonical.items()
      )
      return Source(name, layout, canonical, is_video)
  known = ', '.join(layout for layout, _, _ in _LAYOUTS)
  raise CheckpointMismatchError(
    f'{name}: unknown layout; it has {len(arrays)} keys, e.g. {sorted(arrays)[:8]}. Known layouts: '
    f'{known}. Convert the file to one of them.'
  )


def _unwrap(arrays: Arrays) -> Arrays:
  """Drops everything around the parameters, and the prefix that leads to them."""
  for container in _CONTAINERS:
    inside = {
      key.removeprefix(container): array
      for key, array in arrays.items()
      if key.startswith(container)
    }
    if inside:
      return _unwrap(inside)
  return arrays


def _rename(arrays: Arrays, renames: Sequence[tuple[str, str]]) -> Arrays:
  renamed: Arrays = {}
  for key, array in arrays.items():
    for pattern, replacement in renames:
      key = re.sub(pattern, replacement, key)
    renamed[key] = array
  return renamed


def _from_scenic(arrays: Arrays, num_heads: int) -> Arrays:
  del num_heads
  return dict(arrays)


def _from_vision_transformer(arrays: Arrays, num_heads: int) -> Arrays:
  """augreg and older files: one counter numbers all children of a block."""
  del num_heads
  renames = (
    (r'MultiHeadDotProductAttention_1/', 'MultiHeadDotProductAttention_0/'),
    (r'MlpBlock_3/', 'MlpBlock_0/'),
    (r'LayerNorm_2/', 'LayerNorm_1/'),
    (r'^head/', 'output_projection/'),
  )
  return _rename(arrays, renames)


def _from_big_vision(arrays: Arrays, num_heads: int) -> Arrays:
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
  canonical = _rename(
    unstacked, ((r'^head/', 'output_projection/'), (r'^pos_embedding$', POSITIONS))
  )
  if 'cls' in canonical:
    canonical[POSITIONS] = _with_zero_row(canonical[POSITIONS])
  return canonical


def _with_zero_row(table: np.ndarray) -> np.ndarray:
  return np.concatenate([np.zeros_like(table[:, :1]), table], axis=1)  # [1, 1 + N, C]


_BLOCK = r'Transformer/encoderblock_\1/'
_TIMM_STEMS = (
  (r'cls_token', 'cls'),
  (r'pos_embed', POSITIONS),
  (r'patch_embed\.proj', 'embedding'),
  (r'blocks\.(\d+)\.norm1', _BLOCK + 'LayerNorm_0'),
  (r'blocks\.(\d+)\.norm2', _BLOCK + 'LayerNorm_1'),
  (r'blocks\.(\d+)\.attn\.(query|key|value)', _BLOCK + r'MultiHeadDotProductAttention_0/\2'),
  (r'blocks\.(\d+)\.attn\.proj', _BLOCK + 'MultiHeadDotProductAttention_0/out'),
  (r'blocks\.(\d+)\.mlp\.fc1', _BLOCK + 'MlpBlock_0/Dense_0'),
  (r'blocks\.(\d+)\.mlp\.fc2', _BLOCK + 'MlpBlock_0/Dense_1'),
  (r'norm', 'Transformer/encoder_norm'),
  (r'fc_norm', 'fc_norm'),
  (r'head', 'output_projection'),
)
_HF_LAYER = r'(?:encoder\.layer|layers)\.(\d+)\.'
_HF_STEMS = (
  (r'embeddings\.cls_token', 'cls'),
  (r'embeddings\.position_embeddings', POSITIONS),
  (r'embeddings\.patch_embeddings\.projection', 'embedding'),
  (_HF_LAYER + 'layernorm_before', _BLOCK + 'LayerNorm_0'),
  (_HF_LAYER + 'layernorm_after', _BLOCK + 'LayerNorm_1'),
  *(
    (
      _HF_LAYER + rf'attention\.(?:attention\.{name}|{name[0]}_proj)',
      _BLOCK + f'MultiHeadDotProductAttention_0/{name}',
    )
    for name in ('query', 'key', 'value')
  ),
  (
    _HF_LAYER + r'attention\.(?:output\.dense|o_proj)',
    _BLOCK + 'MultiHeadDotProductAttention_0/out',
  ),
  (_HF_LAYER + r'(?:intermediate\.dense|mlp\.fc1)', _BLOCK + 'MlpBlock_0/Dense_0'),
  (_HF_LAYER + r'(?:output\.dense|mlp\.fc2)', _BLOCK + 'MlpBlock_0/Dense_1'),
  (r'layernorm', 'Transformer/encoder_norm'),
  (r'pooler\.dense', 'pre_logits'),
  (r'classifier', 'output_projection'),
)


def _from_timm(arrays: Arrays, num_heads: int) -> Arrays:
  """timm VisionTransformer; qkv is split, and positions without a class row get a zero one."""
  split: Arrays = {}
  for key, array in arrays.items():
    if '.attn.qkv.' in key:
      for name, part in zip(('query', 'key', 'value'), np.split(array, 3)):
        split[key.replace('qkv', name)] = part
    else:
      split[key] = array
  canonical = from_torch(split, num_heads, _TIMM_STEMS)
  rows = canonical[POSITIONS].shape[1]
  if 'cls' in canonical and square_side(rows) is not None:
    canonical[POSITIONS] = _with_zero_row(canonical[POSITIONS])
  return canonical


def _from_hugging_face(arrays: Arrays, num_heads: int) -> Arrays:
  """Hugging Face ViT and ViViT, with the names on the hub or those of current versions."""
  return from_torch(_rename(arrays, ((r'^(vit|vivit)\.', ''),)), num_heads, _HF_STEMS)


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


_LAYOUTS: tuple[tuple[str, Callable[[set[str]], bool], Callable[[Arrays, int], Arrays]], ...] = (
  (
    'big_vision',
    lambda keys: {'embedding/kernel', 'pos_embedding'} <= keys,
    _from_big_vision,
  ),
  (
    'vision_transformer (augreg)',
    lambda keys: (
      {'embedding/kernel', POSITIONS} <= keys
      and any('MultiHeadDotProductAttention_1/' in key for key in keys)
    ),
    _from_vision_transformer,
  ),
  (
    'scenic',
    lambda keys: 'embedding/kernel' in keys and any(key.endswith(POSITIONS) for key in keys),
    _from_scenic,
  ),
  (
    'timm',
    lambda keys: {'patch_embed.proj.weight', 'pos_embed', 'blocks.0.attn.qkv.weight'} <= keys,
    _from_timm,
  ),
  (
    'hugging_face',
    lambda keys: any(key.endswith('embeddings.patch_embeddings.projection.weight') for key in keys),
    _from_hugging_face,
  ),
  # Any other trunk of this project, in its own names.
  (
    'tubelet',
    lambda keys: 'embedding/kernel' in keys or any('encoderblock_0/' in key for key in keys),
    _from_scenic,
  ),
)


def square_side(count: int) -> int | None:
  """The side of a square of `count` cells, or None."""
  side = round(count**0.5)
  return side if side * side == count else None


def inflate_kernel(kernel: np.ndarray, num_frames: int, method: str) -> np.ndarray:
  """(h, w, 3, C) -> (num_frames, h, w, 3, C) for a tubelet embedding (ViViT sec. 3.4).

  Args:
    kernel: the image model's patch kernel.
    num_frames: the tubelet's t.
    method: 'central_frame' (Eq. 9), 'average' (Eq. 8), or 'average_arp': Eq. 8 weighted with the
      approximate rank pooling coefficients of dynamic image networks.

  Raises:
    ConfigError: unknown method.
  """
  if method == 'central_frame':
    weights = np.zeros(num_frames)
    weights[num_frames // 2] = 1.0
  elif method == 'average':
    weights = np.full(num_frames, 1.0 / num_frames)
  elif method == 'average_arp':
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, num_frames + 1))])
    ticks = np.arange(1, num_frames + 1)
    weights = 2.0 * (num_frames - ticks + 1) - (num_frames + 1) * (harmonic[-1] - harmonic[:-1])
    weights = weights / num_frames
  else:
    raise ConfigError(f'init_from.kernel_inflation={method!r}: one of {INFLATION_METHODS}.')
  return weights.astype(kernel.dtype).reshape(-1, 1, 1, 1, 1) * kernel[None]


def fit_kernel(array: np.ndarray, shape: Sequence[int], inflation: str) -> tuple[np.ndarray, str]:
  """An image model's patch kernel, or its bias, for a kernel over pixels of any shape.

  A constant image or clip gets the same value from the result as from the image model's kernel:
  over the height and width the sum of the kernel is kept (`axis_weights` with `keep_sum`), and
  'central_frame' and 'average' keep it over time. 'average_arp' changes it. If the trunk interpolates
  the result again, to a larger tube or from one kernel that tubes share, that stays so where its
  `interpolation` keeps sums; with 'trilinear' tokens then scale with the ratio of the volumes. A
  result with fewer channels has the first ones: tokens of several parts side by side begin as the
  same channels of neighbouring places.

  Args:
    array: (h, w, 3, C), or (C,).
    shape: (t, h', w', 3, C') or (C',). What cannot be had, more channels, is left as it is.
    inflation: as `inflate_kernel`'s method; not used for t = 1.

  Returns:
    The array, and what was done to it; '' if it has the same numbers.
  """
  how = []
  if shape[-1] < array.shape[-1]:
    how.append(f'first {shape[-1]} of {array.shape[-1]} channels')
    array = array[..., : shape[-1]]
  if len(shape) != 5:
    return array, ', '.join(how)
  frames, *sizes = shape[:3]
  if tuple(sizes) != array.shape[:2]:
    how.append(f'{by(array.shape[:2])} to {by(sizes)} px, sum kept')
    array = resize_table(array, sizes, 'bilinear_antialias', keep_sum=True)
  if frames == 1:
    return array[None], ', '.join(how)
  return inflate_kernel(array, frames, inflation), ', '.join([*how, inflation])


def by(sizes: Sequence[int]) -> str:
  """Sizes as people write them: 16x16."""
  return 'x'.join(map(str, sizes))


def resize_table(
  table: np.ndarray, sizes: Sequence[int], method: str, keep_sum: bool = False
) -> np.ndarray:
  """Resamples a table [n_1, ..., n_k, ...] to [*sizes, ...], axis by axis.

  Args:
    table: position embeddings on their grid, or a kernel.
    sizes: one per axis.
    method, keep_sum: see `interpolation.axis_weights`.
  """
  resized = table.astype(np.float64)
  for axis, size in enumerate(sizes):
    weights = axis_weights(table.shape[axis], size, method, keep_sum)
    resized = np.moveaxis(np.tensordot(weights, resized, axes=(1, axis)), 0, axis)
  return resized.astype(table.dtype)
