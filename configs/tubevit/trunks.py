"""The TubeViT trunks."""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common

# Table 3 of the supplement, in its order; all sizes are (t, h, w) in frames and pixels.
TABLE3: dict[str, dict[str, Any]] = {
  'a': {'kernel': (8, 8, 8), 'stride': (16, 32, 32), 'space_to_depth': (2, 1, 1)},
  'b': {
    'kernel': (16, 4, 4),
    'stride': (6, 32, 32),
    'offset': (4, 8, 8),
    'space_to_depth': (1, 2, 2),
  },
  'c': {'kernel': (4, 12, 12), 'stride': (16, 32, 32), 'offset': (0, 16, 16)},
  'd': {'kernel': (1, 16, 16), 'stride': (32, 16, 16)},
}


def tubevit(size: str, tubes: dict[str, dict[str, Any]] = TABLE3, **changes: Any) -> ConfigDict:
  """A TubeViT with all its keys.

  Args:
    size: of the image ViT, a key of `common.VIT_SIZES`.
    tubes: name -> fields of `projects.tubevit.tubes.Tube`; those left out have their defaults.
    **changes: other values of the trunk's keys.

  Raises:
    ValueError: `changes` has a key that the trunk has not.
  """
  large = size in ('L', 'H')  # as ViViT's
  config = ConfigDict(
    {
      'name': 'projects.tubevit.tubevit:TubeViT',
      **common.VIT_SIZES[size],
      'tubes': {name: _tube(**fields) for name, fields in tubes.items()},
      'shared_kernel': placeholder(tuple),  # (t, h, w) of one kernel that all tubes' are made from
      'interpolation': 'keep_sum',  # or 'trilinear'; where kernels are interpolated
      'pooling': 'token',  # or 'mean', 'attention'
      'attention_kernel': 'auto',
      'dropout_rate': 0.0,
      'attention_dropout_rate': 0.0,
      'stochastic_depth_rate': 0.0,
      'gelu': 'tanh',
      'layer_norm_epsilon': 1e-6,
      'remat': 'full' if large else 'none',
      'scan_layers': large,
    }
  )
  return common.changed(config, changes, 'trunk')


def _tube(**fields: Any) -> dict[str, Any]:
  return {
    'offset': (0, 0, 0),
    'space_to_depth': (1, 1, 1),
    'grown_from': placeholder(tuple),
    **fields,
  }
