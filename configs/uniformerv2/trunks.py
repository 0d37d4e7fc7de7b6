"""The UniFormerV2 trunks."""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common

# Size -> the ViT's, and its patch.
SIZES = {
  'Ti': ('Ti', 16),
  'S': ('S', 16),
  'B/16': ('B', 16),
  'B/32': ('B', 32),
  'L/14': ('L', 14),
  'L/16': ('L', 16),
}

# `optimizer.frozen` of a trunk with output='global' whose image ViT is not trained, and whose global
# blocks are.
FROZEN = (r'^trunk/(embedding|cls|pre_norm|SpatialTransformer)(/|$)',)

# What other image ViTs have in place of CLIP's layout: timm (its ports of augreg too), DINO, MAE, DeiT
# III. The files of augreg and big_vision themselves were trained with gelu='tanh'. See
# docs/pretrained.md.
PLAIN_VIT = {
  'patch_bias': True,
  'pre_norm': False,
  'gelu': 'erf',
  'layer_norm_epsilon': 1e-6,
}


def uniformerv2(size: str, **changes: Any) -> ConfigDict:
  """A UniFormerV2 with all its keys: on CLIP's ViT, as the scene-related datasets have it.

  Args:
    size: a key of `SIZES`.
    **changes: other values of the trunk's keys.

  Raises:
    ValueError: another size, or `changes` has a key that the trunk has not.
  """
  if size not in SIZES:
    raise ValueError(f'Unknown size {size!r}; known: {sorted(SIZES)}.')
  vit, patch = SIZES[size]
  config = ConfigDict(
    {
      'name': 'projects.uniformerv2.uniformerv2:UniFormerV2',
      **common.VIT_SIZES[vit],
      'patch_size': patch,
      'temporal_downsampling': False,
      'patch_bias': False,
      'pre_norm': True,
      'gelu': 'quick',
      'layer_norm_epsilon': 1e-5,
      # 'none', 'local_mhra', 'st_adapter', 'convolution', 'shift', 'attention', 'joint', 'transformer'
      'temporal_module': 'none',
      'temporal_layers': placeholder(int),  # the first blocks, which have it; None: all
      'temporal_transformer_layers': 6,
      'local_repeats': 1,  # or 2: before attention and after it
      'local_reduction': 1.5,
      'local_dpe': False,
      'global_layers': 4,  # blocks that a global one follows
      'global_places': placeholder(tuple),  # these; None: the last
      'global_num_heads': placeholder(int),  # None: as the ViT's
      'global_mlp_dim': placeholder(int),
      'global_dpe': True,
      'fusion': 'sequential',  # or 'parallel', 'hierarchical_kv', 'hierarchical_q'
      'num_queries': 1,
      'output': 'fused',  # or 'global', 'class'
      'position_grid': placeholder(tuple),  # (nt, nh, nw); needed if datasets differ in size
      'attention_kernel': 'auto',
      'dropout_rate': 0.0,
      'attention_dropout_rate': 0.0,
      'stochastic_depth_rate': 0.0,
      'global_dropout_rate': 0.5,
      'global_stochastic_depth_rate': 0.0,
      'remat': 'full' if vit == 'L' else 'none',
    }
  )
  return common.changed(config, changes, 'trunk')
