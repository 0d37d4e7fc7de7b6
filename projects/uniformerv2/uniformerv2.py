"""UniFormerV2: an image ViT armed with local and global blocks for video (section 3)."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn


class UniFormerV2(nn.Module):
  """Fields only yet; the parameters are called as its documentation will say."""

  hidden_size: int
  num_layers: int
  num_heads: int
  mlp_dim: int
  patch_size: int = 16
  temporal_downsampling: bool = False
  patch_bias: bool = False
  pre_norm: bool = True
  gelu: str = 'quick'
  layer_norm_epsilon: float = 1e-5
  temporal_module: str = 'none'
  temporal_layers: int | None = None
  temporal_transformer_layers: int = 6
  local_repeats: int = 1
  local_reduction: float = 1.5
  local_dpe: bool = False
  global_layers: int = 4
  global_num_heads: int | None = None
  global_mlp_dim: int | None = None
  global_dpe: bool = True
  fusion: str = 'sequential'
  num_queries: int = 1
  output: str = 'fused'
  position_grid: tuple[int, int, int] | None = None
  attention_kernel: str = 'auto'
  dropout_rate: float = 0.0
  attention_dropout_rate: float = 0.0
  stochastic_depth_rate: float = 0.0
  global_dropout_rate: float = 0.5
  global_stochastic_depth_rate: float = 0.0
  remat: str = 'none'
  dtype: Any = jnp.float32
