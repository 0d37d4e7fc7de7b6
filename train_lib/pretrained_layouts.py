"""Checkpoints of image and video ViTs: which layout a file has, and its canonical tree."""

import dataclasses
import re
from collections.abc import Callable, Mapping

import numpy as np

from errors import CheckpointMismatchError
from train_lib.pretrained_torch import (
  from_clip,
  from_hugging_face,
  from_hugging_face_clip,
  from_timm,
)
from train_lib.pretrained_vit import (
  GAMMAS,
  POSITIONS,
  from_big_vision,
  from_scenic,
  from_vision_transformer,
)
from train_lib.state import STATISTICS
from train_lib.weight_files import Arrays

# Where checkpoints keep the parameters, among optimiser state, step counters and the like. Of DINO's
# two networks the teacher, an average of the student, is the one that its authors evaluate.
_CONTAINERS = (
  'opt/target/',
  'optimizer/target/',
  'target/',
  'state_dict/',
  'params/',
  'model/',
  'model_state/',
  'teacher/',
  'student/',
)
# What these trunks cannot compute, or not by these names, by the names that give it away.
_REFUSED = (
  (
    r'(^|\.)(rel_pos_bias|relative_position_bias)\.|relative_position_bias_table$',
    'they add relative positions to the attention of every block (BEiT), which these trunks do not '
    'compute, and the model was not trained without them. Use a checkpoint with absolute positions '
    'alone',
  ),
  (
    r'(^|\.)(dist_token|distillation_token)$',
    'they belong to a token for distillation (distilled DeiT), which these trunks do not have, and the '
    'other tokens attend to it. Use the checkpoint that was trained without distillation',
  ),
  (
    r'(^|\.)(reg_token|register_tokens|storage_tokens)$',
    'they are further tokens that all others attend to (registers), which these trunks do not have. '
    'Use a checkpoint without them',
  ),
  (
    # Its `dpe` and `dec` are global blocks; without them it would pass for CLIP's ViT.
    r'(^|\.)transformer\.(temporal_cls_token$|(dec|dpe)\.\d+\.)',
    'they are of a released UniFormerV2, in its own names. Convert the file with '
    '`python -m projects.uniformerv2.import_weights --checkpoint=FILE --out=uniformerv2.npz`, and name '
    'what that writes',
  ),
)


@dataclasses.dataclass(frozen=True)
class Source:
  """A checkpoint in the canonical tree.

  Attributes:
    name: file name, for messages.
    layout: which of the known layouts it had.
    arrays: canonical path -> array; keys the layout does not know are kept as they were.
    is_video: the checkpoint is a ViViT (its tubelet kernel has a time axis), not an image ViT.
    has_heads: its arrays tell the number of heads; PyTorch's do not, and are divided as the model's.
    notes: canonical path -> what was done to an array besides renaming and transposing.
  """

  name: str
  layout: str
  arrays: Arrays
  is_video: bool
  has_heads: bool
  notes: Mapping[str, str]


def canonicalise(arrays: Arrays, num_heads: int, name: str = 'arrays') -> Source:
  """Finds out the layout by its keys and converts to the canonical tree.

  Args:
    arrays: flat mapping, as `weight_files.read_arrays` returns it.
    num_heads: of the model to fill; PyTorch layouts do not store it.
    name: for messages.

  Raises:
    CheckpointMismatchError: no known layout has these keys, or it has arrays of which a trunk that
      ignored them would be another model.
  """
  arrays, network = _unwrap(arrays)
  _check_computable(arrays, name)
  for layout, is_layout, convert in _LAYOUTS:
    if is_layout(set(arrays)):
      canonical, notes = _fold_layer_scale(convert(arrays, num_heads))
      canonical = _as_image_model(canonical)
      is_video = any(
        'SpatialTransformer/' in key or (key.endswith('kernel') and array.ndim == 5)
        for key, array in canonical.items()
      )
      has_heads = convert not in _OF_PYTORCH
      return Source(name, f'{layout}{network}', canonical, is_video, has_heads, notes)
  known = ', '.join(layout for layout, _, _ in _LAYOUTS)
  raise CheckpointMismatchError(
    f'{name}: unknown layout; it has {len(arrays)} keys, e.g. {sorted(arrays)[:8]}. Known layouts: '
    f'{known}. Convert the file to one of them.'
  )


def _unwrap(arrays: Arrays) -> tuple[Arrays, str]:
  """Drops everything around the parameters, and the prefix that leads to them.

  Returns:
    The parameters, with the statistics beside them; and which of two networks they are, for people.
  """
  for container in _CONTAINERS:
    inside = {k.removeprefix(container): v for k, v in arrays.items() if k.startswith(container)}
    if inside:
      inside.update((k, v) for k, v in arrays.items() if k.startswith(f'{STATISTICS}/'))
      unwrapped, network = _unwrap(inside)
      chosen = f', {container[:-1]}' if container in ('teacher/', 'student/') else network
      return unwrapped, chosen
  for prefix in ('module.', 'backbone.'):
    if any(key.startswith(prefix) for key in arrays):
      return _unwrap({key.removeprefix(prefix): array for key, array in arrays.items()})
  return arrays, ''


def _check_computable(arrays: Arrays, name: str) -> None:
  for pattern, reason in _REFUSED:
    found = sorted(key for key in arrays if re.search(pattern, key))
    if found:
      more = f' and {len(found) - 4} more' if len(found) > 4 else ''
      raise CheckpointMismatchError(
        f'{name} has the arrays {", ".join(found[:4])}{more}: {reason}.'
      )


def _as_image_model(canonical: Arrays) -> Arrays:
  """A UniFormerV2 without any block for video is an image ViT, and gets the names of one."""
  if 'embedding/kernel' not in canonical or 'fusion_norm/scale' not in canonical:
    return canonical
  kernel = canonical['embedding/kernel']
  armed = any(re.search('(^|/)(local|temporal|global)_', key) for key in canonical)
  if armed or kernel.ndim != 5 or kernel.shape[0] > 1:
    return canonical
  renamed = {k.replace('SpatialTransformer/', 'Transformer/'): v for k, v in canonical.items()}
  return {**renamed, 'embedding/kernel': kernel[0]}


def _fold_layer_scale(canonical: Arrays) -> tuple[Arrays, dict[str, str]]:
  """Multiplies what LayerScale scales into the layer before it, which gives the same numbers.

  x + gamma * (W h + b) is x + (gamma W) h + gamma b (arXiv:2103.17239, Eq. 3).
  """
  folded, notes = dict(canonical), {}
  for gamma, layer in zip(GAMMAS, ('MultiHeadDotProductAttention_0/out', 'MlpBlock_0/Dense_1')):
    for key in [k for k in canonical if k.endswith(f'/{gamma}')]:
      scale = folded.pop(key).astype(np.float32).reshape(-1)
      for leaf in ('kernel', 'bias'):
        path = f'{key.removesuffix(gamma)}{layer}/{leaf}'
        if path in folded:
          folded[path] = folded[path].astype(np.float32) * scale
          notes[path] = 'LayerScale folded in'
  return folded, notes


def _ends(ending: str) -> Callable[[set[str]], bool]:
  return lambda keys: any(key.endswith(ending) for key in keys)


_OF_PYTORCH = (from_timm, from_clip, from_hugging_face_clip, from_hugging_face)
_LAYOUTS: tuple[tuple[str, Callable[[set[str]], bool], Callable[[Arrays, int], Arrays]], ...] = (
  (
    'big_vision',
    lambda keys: {'embedding/kernel', 'pos_embedding'} <= keys,
    from_big_vision,
  ),
  (
    'vision_transformer (augreg)',
    lambda keys: (
      {'embedding/kernel', POSITIONS} <= keys
      and any('MultiHeadDotProductAttention_1/' in key for key in keys)
    ),
    from_vision_transformer,
  ),
  (
    'scenic',
    lambda keys: 'embedding/kernel' in keys and any(key.endswith(POSITIONS) for key in keys),
    from_scenic,
  ),
  (
    'timm',
    lambda keys: {'patch_embed.proj.weight', 'pos_embed', 'blocks.0.attn.qkv.weight'} <= keys,
    from_timm,
  ),
  (
    'openai_clip',
    lambda keys: any({f'{p}class_embedding', f'{p}conv1.weight'} <= keys for p in ('', 'visual.')),
    from_clip,
  ),
  ('hugging_face_clip', _ends('embeddings.class_embedding'), from_hugging_face_clip),
  (
    'hugging_face',
    _ends('embeddings.patch_embeddings.projection.weight'),
    from_hugging_face,
  ),
  # Any other trunk of this project, in its own names.
  (
    'tubelet',
    lambda keys: 'embedding/kernel' in keys or any('encoderblock_0/' in key for key in keys),
    from_scenic,
  ),
)
