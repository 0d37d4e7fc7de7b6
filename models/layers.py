"""Transformer parts shared by the trunks; children carry Scenic's names, so its checkpoints load.

Parameters are float32 and created inside `nn.LogicallyPartitioned` boxes whose axis names come from
`LOGICAL_AXES`; `apply` takes them boxed or unboxed (`flax.linen.meta.unbox`). `dtype` is the compute
dtype everywhere; LayerNorm statistics and the attention softmax are float32 whatever it is. Random
streams: one, called 'dropout'.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from errors import ConfigError, ShardingError
from models.attention import dot_product_attention
from models.layout import split_batch

# The closed vocabulary of axis names; Flax replicates an unknown name silently, `partitioned` does not.
LOGICAL_AXES = ('embed', 'mlp', 'heads', 'kv', 'tokens', 'patch', 'classes', 'layers')

Initializer = Callable[..., Any]

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'tanh': lambda x: nn.gelu(x, approximate=True),
  'erf': lambda x: nn.gelu(x, approximate=False),
  'quick': lambda x: x * nn.sigmoid(1.702 * x),
}


def partitioned(init: Initializer, *axes: str | None) -> Initializer:
  """Boxes what `init` returns with one logical axis name (or None) per dimension.

  Raises:
    ShardingError: a name is not in `LOGICAL_AXES`.
  """
  unknown = sorted({axis for axis in axes if axis is not None and axis not in LOGICAL_AXES})
  if unknown:
    raise ShardingError(f'Logical axes {unknown} are not among {LOGICAL_AXES}: use one of those.')
  return nn.with_logical_partitioning(init, axes)


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
  """GELU by name: 'tanh' (approximation), 'erf' (exact) or 'quick' (x * sigmoid(1.702 x)).

  Raises:
    ConfigError: another name.
  """
  if name not in ACTIVATIONS:
    raise ConfigError(f'gelu={name!r}: expected one of {sorted(ACTIVATIONS)}.')
  return ACTIVATIONS[name]


def layer_norm(name: str, *, epsilon: float, dtype: Any) -> nn.LayerNorm:
  """LayerNorm over the last axis, statistics in float32."""
  return nn.LayerNorm(
    epsilon=epsilon,
    dtype=dtype,
    scale_init=partitioned(nn.initializers.ones, 'embed'),
    bias_init=partitioned(nn.initializers.zeros, 'embed'),
    name=name,
  )


class MultiHeadAttention(nn.Module):
  """Multi-head attention over axis -2 of [..., N, C]; leading axes are independent sequences.

  Attributes:
    num_heads: must divide C.
    dropout_rate: on the attention weights.
    kernel_init: of query, key and value, seen as (C, heads * D).
    out_kernel_init: of the output projection, seen as (heads * D, C).
    attention: replaces `dot_product_attention` with one of the same signature.
  """

  num_heads: int
  dropout_rate: float = 0.0
  kernel_init: Initializer = nn.initializers.xavier_uniform()
  out_kernel_init: Initializer = nn.initializers.xavier_uniform()
  attention: Callable[..., jax.Array] = dot_product_attention
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    inputs: jax.Array,
    context: jax.Array | None = None,
    *,
    mask: jax.Array | None = None,
    train: bool,
  ) -> jax.Array:
    """Queries from `inputs` [..., Q, C], keys and values from `context` [..., K, C] or `inputs`."""
    width = inputs.shape[-1]
    if width % self.num_heads:
      raise ConfigError(f'num_heads={self.num_heads} does not divide the width {width}.')
    context = inputs if context is None else context
    dropping = train and self.dropout_rate > 0.0
    out = self.attention(
      self._project('query', width)(inputs),
      self._project('key', width)(context),
      self._project('value', width)(context),
      mask=mask,
      dropout_rate=self.dropout_rate,
      deterministic=not train,
      dropout_rng=self.make_rng('dropout') if dropping else None,
    )
    return nn.DenseGeneral(
      width,
      axis=(-2, -1),
      kernel_init=partitioned(self.out_kernel_init, 'heads', 'kv', 'embed'),
      bias_init=partitioned(nn.initializers.zeros, 'embed'),
      dtype=self.dtype,
      name='out',
    )(out)

  def _project(self, name: str, width: int) -> nn.DenseGeneral:
    return nn.DenseGeneral(
      (self.num_heads, width // self.num_heads),
      kernel_init=partitioned(self.kernel_init, 'embed', 'heads', 'kv'),
      bias_init=partitioned(nn.initializers.zeros, 'heads', 'kv'),
      dtype=self.dtype,
      name=name,
    )


class Mlp(nn.Module):
  """Dense, GELU, dropout, Dense, dropout on the last axis: [..., C] -> [..., C]."""

  mlp_dim: int
  dropout_rate: float = 0.0
  gelu: str = 'tanh'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, inputs: jax.Array, *, train: bool) -> jax.Array:
    x = self._dense('Dense_0', self.mlp_dim, ('embed', 'mlp'))(inputs)
    x = activation(self.gelu)(x)
    x = nn.Dropout(self.dropout_rate, name='dropout_0')(x, deterministic=not train)
    x = self._dense('Dense_1', inputs.shape[-1], ('mlp', 'embed'))(x)
    return nn.Dropout(self.dropout_rate, name='dropout_1')(x, deterministic=not train)

  def _dense(self, name: str, features: int, axes: tuple[str, str]) -> nn.Dense:
    return nn.Dense(
      features,
      kernel_init=partitioned(nn.initializers.xavier_uniform(), *axes),
      bias_init=partitioned(nn.initializers.normal(stddev=1e-6), axes[1]),
      dtype=self.dtype,
      name=name,
    )


class StochasticDepth(nn.Module):
  """Drops a residual branch [B, ..., C] for whole examples (ViViT appendix A.1, Eq. 10).

  DEVIATION: survivors are rescaled by 1 / (1 - rate), so that the expectation equals evaluation;
  Scenic's ViViT keeps them as they are, and the network then sees larger branches in evaluation than
  it was trained with.
  """

  rate: float

  @nn.compact
  def __call__(self, branch: jax.Array, *, train: bool) -> jax.Array:
    if not train or self.rate == 0.0:
      return branch
    shape = (branch.shape[0],) + (1,) * (branch.ndim - 1)
    kept = jax.random.bernoulli(self.make_rng('dropout'), 1.0 - self.rate, shape)
    return jnp.where(kept, branch / (1.0 - self.rate), jnp.zeros_like(branch))


def stochastic_depth_rates(rate: float, num_layers: int) -> list[float]:
  """Rate of each layer, l / L * rate for l = 1..L (ViViT Eq. 10).

  DEVIATION: Scenic uses (l - 1) / (L - 1) * rate, so its first layer is never dropped.
  """
  return [rate * layer / num_layers for layer in range(1, num_layers + 1)]


class EncoderBlock(nn.Module):
  """Pre-norm transformer block over axis -2 of [B, ..., N, C].

  The two residual branches are dropped independently by stochastic depth, each per entry of the
  leading axis: with [B, T, N, C] all T sequences of an example share the decision, while dropout is
  independent everywhere.
  """

  num_heads: int
  mlp_dim: int
  dropout_rate: float = 0.0
  attention_dropout_rate: float = 0.0
  stochastic_depth_rate: float = 0.0
  gelu: str = 'tanh'
  layer_norm_epsilon: float = 1e-6
  attention: Callable[..., jax.Array] = dot_product_attention
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, inputs: jax.Array, *, mask: jax.Array | None = None, train: bool) -> jax.Array:
    norm = {'epsilon': self.layer_norm_epsilon, 'dtype': self.dtype}
    x = layer_norm('LayerNorm_0', **norm)(inputs)
    x = MultiHeadAttention(
      num_heads=self.num_heads,
      dropout_rate=self.attention_dropout_rate,
      attention=self.attention,
      dtype=self.dtype,
      name='MultiHeadDotProductAttention_0',
    )(x, mask=mask, train=train)
    x = nn.Dropout(self.dropout_rate, name='dropout')(x, deterministic=not train)
    x = inputs + StochasticDepth(self.stochastic_depth_rate, name='drop_0')(x, train=train)
    y = layer_norm('LayerNorm_1', **norm)(x)
    y = Mlp(self.mlp_dim, self.dropout_rate, self.gelu, self.dtype, name='MlpBlock_0')(
      y, train=train
    )
    return x + StochasticDepth(self.stochastic_depth_rate, name='drop_1')(y, train=train)


class PositionEmbedding(nn.Module):
  """Adds one learned table (1, N, C) to [..., N, C]."""

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    init = partitioned(nn.initializers.normal(stddev=0.02), None, 'tokens', 'embed')
    table = self.param('pos_embedding', init, (1, *inputs.shape[-2:]))
    return inputs + table.astype(inputs.dtype)  # [1, N, C] broadcasts over leading axes


class Encoder(nn.Module):
  """Position embedding, `num_layers` blocks, LayerNorm: [B, ..., N, C] -> the same shape.

  Attributes:
    block: `functools.partial` of a block class; called with `stochastic_depth_rate` and `name`.
    final_norm: False leaves `encoder_norm` out.
    remat: recompute each block in the backward pass instead of keeping its activations.
  """

  num_layers: int
  block: Callable[..., nn.Module]
  dropout_rate: float = 0.0
  stochastic_depth_rate: float = 0.0
  layer_norm_epsilon: float = 1e-6
  final_norm: bool = True
  remat: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, inputs: jax.Array, *, mask: jax.Array | None = None, train: bool) -> jax.Array:
    def call(block: nn.Module, x: jax.Array) -> jax.Array:
      return block(x, mask=mask, train=train)

    if self.remat:
      call = nn.remat(call)
    x = split_batch(PositionEmbedding(name='posembed_input')(inputs))
    x = nn.Dropout(self.dropout_rate, name='dropout')(x, deterministic=not train)
    for i, rate in enumerate(stochastic_depth_rates(self.stochastic_depth_rate, self.num_layers)):
      x = split_batch(call(self.block(stochastic_depth_rate=rate, name=f'encoderblock_{i}'), x))
    if self.final_norm:
      x = layer_norm('encoder_norm', epsilon=self.layer_norm_epsilon, dtype=self.dtype)(x)
    return x


def prepend_class_token(module: nn.Module, name: str, tokens: jax.Array) -> jax.Array:
  """Adds parameter `name` (1, 1, C), zeros at first, of `module` before [..., N, C]."""
  init = partitioned(nn.initializers.zeros, None, None, 'embed')
  token = module.param(name, init, (1, 1, tokens.shape[-1])).astype(tokens.dtype)
  token = jnp.broadcast_to(token.reshape(-1), (*tokens.shape[:-2], 1, tokens.shape[-1]))
  return jnp.concatenate([token, tokens], axis=-2)  # [..., 1 + N, C]
