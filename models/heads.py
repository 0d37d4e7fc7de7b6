"""Heads that several papers use: `Features` -> float32 logits."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from errors import ConfigError
from models import layers
from models.features import Features

KERNEL_INITS: dict[str, layers.Initializer] = {
  'zeros': nn.initializers.zeros,
  'lecun_normal': nn.initializers.lecun_normal(),
  'normal_0.02': nn.initializers.normal(stddev=0.02),
}


class LinearHead(nn.Module, kw_only=True):
  """Dropout, optional Dense + tanh (`pre_logits`), Dense (`output_projection`) on `pooled`.

  Attributes:
    num_classes: K.
    representation_size: width of `pre_logits`; None leaves it out.
    dropout_rate: on what enters the layers above.
    kernel_init: of the output kernel: 'zeros' (as in Scenic and ViT), 'lecun_normal', 'normal_0.02'.
    bias_init: constant of the output bias; -log(K) or lower suits sigmoid losses.
    dtype: compute dtype of `pre_logits`; the output projection is float32.
  """

  num_classes: int
  representation_size: int | None = None
  dropout_rate: float = 0.0
  kernel_init: str = 'zeros'
  bias_init: float = 0.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, features: Features, *, train: bool) -> jax.Array:
    """Returns float32 logits [B, K]."""
    return self.classify(features.pooled, train)

  def classify(self, pooled: jax.Array, train: bool) -> jax.Array:
    """pooled [B, C] -> float32 logits [B, K]; call it inside a compact method.

    Raises:
      ConfigError: `kernel_init` is unknown.
    """
    if self.kernel_init not in KERNEL_INITS:
      raise ConfigError(f'kernel_init={self.kernel_init!r}: one of {sorted(KERNEL_INITS)}.')
    x = nn.Dropout(self.dropout_rate, name='dropout')(pooled, deterministic=not train)
    if self.representation_size is not None:
      x = nn.Dense(
        self.representation_size,
        kernel_init=layers.partitioned(nn.initializers.lecun_normal(), 'embed', 'mlp'),
        bias_init=layers.partitioned(nn.initializers.zeros, 'mlp'),
        dtype=self.dtype,
        name='pre_logits',
      )(x)
      x = nn.tanh(x)
    bias_init = nn.initializers.constant(self.bias_init)
    return nn.Dense(
      self.num_classes,
      kernel_init=layers.partitioned(KERNEL_INITS[self.kernel_init], 'embed', 'classes'),
      bias_init=layers.partitioned(bias_init, 'classes'),
      dtype=jnp.float32,
      name='output_projection',
    )(x)


class MAPHead(LinearHead, kw_only=True):
  """Multihead attention pooling over `tokens`, then `LinearHead`'s layers (as in big_vision).

  Attributes:
    num_heads, mlp_dim: of the pooling block; big_vision uses the trunk's heads and 4 * C.
  """

  num_heads: int
  mlp_dim: int
  gelu: str = 'tanh'
  layer_norm_epsilon: float = 1e-6

  @nn.compact
  def __call__(self, features: Features, *, train: bool) -> jax.Array:
    """Returns float32 logits [B, K]."""
    pooled = AttentionPool(
      num_heads=self.num_heads,
      mlp_dim=self.mlp_dim,
      gelu=self.gelu,
      layer_norm_epsilon=self.layer_norm_epsilon,
      dtype=self.dtype,
      name='MAPHead_0',
    )(features.tokens, train=train)
    return self.classify(pooled, train)


class AttentionPool(nn.Module):
  """One learned probe attends to all tokens, then a residual MLP: [B, N, C] -> [B, C]."""

  num_heads: int
  mlp_dim: int
  gelu: str = 'tanh'
  layer_norm_epsilon: float = 1e-6
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, tokens: jax.Array, *, train: bool) -> jax.Array:
    init = layers.partitioned(nn.initializers.xavier_uniform(), None, None, 'embed')
    probe = self.param('probe', init, (1, 1, tokens.shape[-1])).astype(self.dtype)
    probe = jnp.broadcast_to(probe, (tokens.shape[0], 1, tokens.shape[-1]))  # [B, 1, C]
    x = layers.MultiHeadAttention(
      num_heads=self.num_heads, dtype=self.dtype, name='MultiHeadDotProductAttention_0'
    )(probe, tokens, train=train)
    y = layers.layer_norm('LayerNorm_0', epsilon=self.layer_norm_epsilon, dtype=self.dtype)(x)
    y = layers.Mlp(self.mlp_dim, gelu=self.gelu, dtype=self.dtype, name='MlpBlock_0')(
      y, train=train
    )
    return (x + y)[:, 0]
