"""The PyTorch names of the public TubeViT's parameters, those of torchvision's ViT, and ours.

That code is not the authors'. Its tokeniser is the trunk with `shared_kernel`,
interpolation='trilinear' and pooling='attention', its blocks those with gelu='erf'.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from errors import CheckpointMismatchError, ConfigError
from train_lib.pretrained_vit import from_torch, split_packed
from train_lib.weight_files import Arrays

_BLOCK = r'Transformer/encoderblock_\1/'
_LAYER = r'encoder\.layers\.encoder_layer_(\d+)\.'
_ATTENTION = 'MultiHeadDotProductAttention_0/'
_STEMS = (
  (r'class_token', 'cls'),
  (_LAYER + 'ln_1', _BLOCK + 'LayerNorm_0'),
  (_LAYER + r'self_attention\.(query|key|value)', _BLOCK + _ATTENTION + r'\2'),
  (_LAYER + r'self_attention\.out_proj', _BLOCK + _ATTENTION + 'out'),
  (_LAYER + 'ln_2', _BLOCK + 'LayerNorm_1'),
  (_LAYER + r'mlp\.0', _BLOCK + 'MlpBlock_0/Dense_0'),
  (_LAYER + r'mlp\.3', _BLOCK + 'MlpBlock_0/Dense_1'),
  (r'encoder\.ln', 'Transformer/encoder_norm'),
  (r'attention_pooling\.W', 'attention_pooling'),
  (r'heads\.pre_logits', 'pre_logits'),
  (r'heads\.head', 'output_projection'),
)
_TOKENISER = 'sparse_tubes_tokenizer.conv_proj_'
_POSITIONS = 'pos_embedding'
_LAYER_STEMS = (
  'ln_1.',
  'self_attention.in_proj_',
  'self_attention.out_proj.',
  'ln_2.',
  'mlp.0.',
  'mlp.3.',
)
_KERNEL_AND_BIAS = ('weight', 'bias')


def from_official(arrays: Mapping[str, np.ndarray], tubes: Sequence[str], num_heads: int) -> Arrays:
  """Renames and lays out a state dict of the public code.

  Args:
    arrays: PyTorch's name -> array. Its positions, which are fixed, are left out.
    tubes: names for its tubes, in its order.
    num_heads: which it does not store.

  Returns:
    '/'-joined path -> array, as `init_from.path` reads it.

  Raises:
    CheckpointMismatchError: names that the public model has not, or too few, or another number of
      tubes. Heads may be missing.
    ConfigError: `num_heads` does not divide the width.
  """
  _check_names(set(arrays) - {_POSITIONS})
  apart = split_packed({name: array for name, array in arrays.items() if name != _POSITIONS})
  kernel, bias = (apart.pop(_TOKENISER + leaf) for leaf in _KERNEL_AND_BIAS)
  if kernel.ndim != 5 or bias.shape != (len(tubes), len(kernel)):
    raise CheckpointMismatchError(
      f'{_TOKENISER}*: expected a kernel (d, 3, t, h, w) and a bias ({len(tubes)}, d), a row for '
      f'each of the tubes {list(tubes)}; got weight {kernel.shape}, bias {bias.shape}.'
    )
  if num_heads < 1 or len(kernel) % num_heads:
    raise ConfigError(f'--num_heads={num_heads} does not divide the width {len(kernel)}.')
  return {
    **from_torch(apart, num_heads, _STEMS),
    'shared_kernel': np.moveaxis(kernel, (1, 0), (-2, -1)),  # (t, h, w, 3, d)
    **{f'tube_{name}/bias': row for name, row in zip(tubes, bias)},
  }


def _check_names(names: set[str]) -> None:
  """Raises CheckpointMismatchError for names that the public model has not or that are missing."""
  numbers = [int(found[1]) for name in names if (found := re.match(_LAYER, name))]
  layers = range(max(numbers, default=0) + 1)
  stems = ['encoder.ln.', 'attention_pooling.W.', _TOKENISER]
  stems += [f'encoder.layers.encoder_layer_{i}.{part}' for i in layers for part in _LAYER_STEMS]
  trunk = {'class_token', *_leaves(stems)}
  if unknown := sorted(names - trunk - _leaves(['heads.pre_logits.', 'heads.head.'])):
    raise CheckpointMismatchError(
      f'This is no state dict of the public TubeViT, which has no {unknown}. Expected the names of '
      'its class TubeViT, without a prefix such as `model.`.'
    )
  if missing := sorted(trunk - names):
    raise CheckpointMismatchError(
      f'This is no whole state dict of the public TubeViT: {missing} are missing. Save the state '
      'dict of its class TubeViT, all of it.'
    )


def _leaves(stems: Sequence[str]) -> set[str]:
  return {stem + leaf for stem in stems for leaf in _KERNEL_AND_BIAS}
