"""The MViTv2 trunks of MultiTrain."""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

# Frames x stride of a clip -> blocks of each stage. 32x3 is the supplement's Table 2, 16x4 the
# released one.
LAYERS = {'16x4': (1, 2, 11, 2), '32x3': (2, 3, 16, 3)}


def mvit(frames: str, stochastic_depth: float = 0.0) -> ConfigDict:
  """An MViTv2 with all its keys, for crops of any size that 4 px divide.

  Args:
    frames: '16x4' or '32x3'.
    stochastic_depth: rate of the last block.

  Raises:
    ValueError: another `frames`.
  """
  if frames not in LAYERS:
    raise ValueError(f'Unknown frames {frames!r}; known: {sorted(LAYERS)}.')
  values: dict[str, Any] = {
    'name': 'projects.multitrain.mvit:MViT',
    # One entry a stage.
    'hidden_sizes': (96, 192, 384, 768),
    'num_layers': LAYERS[frames],
    'num_heads': (1, 2, 4, 8),
    'query_strides': ((1, 1, 1), (1, 2, 2), (1, 2, 2), (1, 2, 2)),
    'key_value_strides': ((1, 8, 8), (1, 4, 4), (1, 2, 2), (1, 1, 1)),
    'patch_kernel': (3, 7, 7),
    'patch_stride': (2, 4, 4),
    'pool_kernel': (3, 3, 3),
    'mlp_ratio': 4,
    'absolute_positions': True,
    'relative_positions': False,
    'position_grid': placeholder(tuple),  # needed if datasets differ in frames or size
    'stochastic_depth_rate': stochastic_depth,
    'layer_norm_epsilon': 1e-6,
    'attention_kernel': 'auto',
    'remat': 'none',
  }
  return ConfigDict(values)
