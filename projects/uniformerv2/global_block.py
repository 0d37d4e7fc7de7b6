"""The global UniBlock (section 3.2) and what the next one gets of it (section 3.3)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from models import layers
from models.attention import dot_product_attention
from projects.uniformerv2.blocks import DynamicPositions, add_to_patches, patches

FUSIONS = ('sequential', 'parallel', 'hierarchical_kv', 'hierarchical_q')

_ZEROS = nn.initializers.zeros


class GlobalBlock(nn.Module):
  """Queries gather what they need from the tokens of all frames (Eq. 8-13).

  Where paper and released code differ, this is the code: attention has a residual, the frames' class
  tokens are among the keys, the MLP is the ViT's (QuickGELU). It is the identity at first.

  Attributes:
    grid: (T, h, w) of the patch tokens.
    dpe: with `DynamicPositions`, on what this block sees alone.
    dropout_rate: on the hidden layer of the MLP.
  """

  num_heads: int
  mlp_dim: int
  grid: tuple[int, int, int]
  dpe: bool
  gelu: str
  layer_norm_epsilon: float
  dropout_rate: float
  stochastic_depth_rate: float
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, query: jax.Array, tokens: jax.Array, context: jax.Array | None, *, train: bool
  ) -> jax.Array:
    """query [B, Q, C], tokens [B, T, 1 + S, C], more keys `context` [B, E, C] -> [B, Q, C]."""
    if self.dpe:
      positions = DynamicPositions(self.grid, dtype=self.dtype, name='dpe')
      tokens = add_to_patches(tokens, positions(patches(tokens)))
    keys = tokens.reshape(tokens.shape[0], -1, tokens.shape[-1])  # [B, T*(1+S), C]
    if context is not None:
      keys = jnp.concatenate([context, keys], axis=1)
    x = layers.MultiHeadAttention(
      num_heads=self.num_heads,
      out_kernel_init=_ZEROS,
      # A fused kernel pads its few queries to many, to save an attention map that is small.
      attention=functools.partial(dot_product_attention, kernel='xla'),
      dtype=self.dtype,
      name='MultiHeadDotProductAttention_0',
    )(self._norm('LayerNorm_0', query), self._norm('LayerNorm_context', keys), train=train)
    x = query + self._drop('drop_0', x, train)
    y = layers.Mlp(
      self.mlp_dim,
      self.dropout_rate,
      self.gelu,
      self.dtype,
      bias_init=_ZEROS,
      out_kernel_init=_ZEROS,
      drop_output=False,
      name='MlpBlock_0',
    )(self._norm('LayerNorm_1', x), train=train)
    return x + self._drop('drop_1', y, train)

  def _norm(self, name: str, x: jax.Array) -> jax.Array:
    norm = layers.layer_norm(name, epsilon=self.layer_norm_epsilon, dtype=self.dtype)
    return norm(x)

  def _drop(self, name: str, branch: jax.Array, train: bool) -> jax.Array:
    drop = layers.StochasticDepth(self.stochastic_depth_rate, name=name)
    return drop(branch, train=train)


def queries_and_context(
  fusion: str, own: jax.Array, before: jax.Array | None
) -> tuple[jax.Array, jax.Array | None]:
  """What a global block gets besides the tokens of its depth (section 3.3 a-d).

  Args:
    fusion: one of `FUSIONS`.
    own: [B, Q, C], the block's learned queries.
    before: [B, Q', C], what the block before it made; None: it is the first.

  Returns:
    Its queries and, or None, more keys.
  """
  if before is None or fusion == 'parallel':
    return own, None
  if fusion == 'hierarchical_kv':
    return own, before
  if fusion == 'hierarchical_q':
    return jnp.concatenate([before, own], axis=1), None
  return before, None
