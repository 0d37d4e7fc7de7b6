"""Transformer parts shared by the trunks; children carry Scenic's names, so its checkpoints load.

Parameters are float32 and created inside `nn.LogicallyPartitioned` boxes whose axis names come from
`LOGICAL_AXES`; `apply` takes them boxed or unboxed (`flax.linen.meta.unbox`). `dtype` is the compute
dtype everywhere; LayerNorm statistics and the attention softmax are float32 whatever it is. Random
streams: one, called 'dropout'.
"""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn

from errors import ConfigError, ShardingError
from models.attention import dot_product_attention
from models.layout import split_batch

# The closed vocabulary of axis names; Flax replicates an unknown name silently, `partitioned` does not.
LOGICAL_AXES = ('embed', 'mlp', 'heads', 'kv', 'tokens', 'patch', 'classes', 'layers')

Initializer = Callable[..., Any]


def _exact_gelu(x: jax.Array) -> jax.Array:
  # Through erf: the erfc of `nn.gelu` takes several times as long. In float32, or 1 + erf would cancel.
  return 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5))


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'tanh': lambda x: nn.gelu(x, approximate=True),
  'erf': lambda x: _exact_gelu(x.astype(jnp.float32)).astype(x.dtype),
  'quick': lambda x: x * nn.sigmoid(1.702 * x),
}


# Choices of `remat`, and what each keeps of a block for the backward pass besides its input: 'blocks'
# the products with weights, which have no batch dimensions; 'full' nothing.
REMAT_POLICIES: dict[str, Callable[..., Any] | None] = {
  'none': None,
  'blocks': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  'full': jax.checkpoint_policies.nothing_saveable,
}


def recomputing(call: Callable[..., Any], remat: str) -> Callable[..., Any]:
  """`call(module, x)` with what of it is kept for the backward pass by `remat`."""
  return call if remat == 'none' else nn.remat(call, policy=REMAT_POLICIES[remat])


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


def layer_norm(name: str, *, epsilon: float, dtype: Any, axis: str = 'embed') -> nn.LayerNorm:
  """LayerNorm over the last axis, whose logical name is `axis`; statistics in float32."""
  return nn.LayerNorm(
    epsilon=epsilon,
    dtype=dtype,
    scale_init=partitioned(nn.initializers.ones, axis),
    bias_init=partitioned(nn.initializers.zeros, axis),
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
  """Dense, GELU, dropout, Dense, dropout on the last axis: [..., C] -> [..., C].

  Attributes:
    out_kernel_init: of the second kernel; None: as `kernel_init`.
    drop_output: False leaves the second dropout out.
  """

  mlp_dim: int
  dropout_rate: float = 0.0
  gelu: str = 'tanh'
  dtype: Any = jnp.float32
  kernel_init: Initializer = nn.initializers.xavier_uniform()
  bias_init: Initializer = nn.initializers.normal(stddev=1e-6)
  out_kernel_init: Initializer | None = None
  drop_output: bool = True

  @nn.compact
  def __call__(self, inputs: jax.Array, *, train: bool) -> jax.Array:
    x = self._dense('Dense_0', self.mlp_dim, ('embed', 'mlp'), self.kernel_init)(inputs)
    x = activation(self.gelu)(x)
    x = nn.Dropout(self.dropout_rate, name='dropout_0')(x, deterministic=not train)
    out_init = self.out_kernel_init or self.kernel_init
    x = self._dense('Dense_1', inputs.shape[-1], ('mlp', 'embed'), out_init)(x)
    rate = self.dropout_rate if self.drop_output else 0.0
    return nn.Dropout(rate, name='dropout_1')(x, deterministic=not train)

  def _dense(
    self, name: str, features: int, axes: tuple[str, str], kernel_init: Initializer
  ) -> nn.Dense:
    return nn.Dense(
      features,
      kernel_init=partitioned(kernel_init, *axes),
      bias_init=partitioned(self.bias_init, axes[1]),
      dtype=self.dtype,
      name=name,
    )


class StochasticDepth(nn.Module):
  """Drops a residual branch [B, ..., C] for whole examples (ViViT appendix A.1, Eq. 10).

  DEVIATION: survivors are rescaled by 1 / (1 - rate), so that the expectation equals evaluation;
  Scenic's ViViT keeps them as they are, and the network then sees larger branches in evaluation than
  it was trained with.

  Attributes:
    rate: in [0, 1); a traced float32 [] where layers are scanned.
  """

  rate: float | jax.Array

  @nn.compact
  def __call__(self, branch: jax.Array, *, train: bool) -> jax.Array:
    if not train or (not isinstance(self.rate, jax.Array) and self.rate == 0.0):
      return branch
    shape = (branch.shape[0],) + (1,) * (branch.ndim - 1)
    kept = jax.random.bernoulli(self.make_rng('dropout'), 1.0 - self.rate, shape)
    survivors = (branch / (1.0 - self.rate)).astype(branch.dtype)
    return jnp.where(kept, survivors, jnp.zeros_like(branch))


def stochastic_depth_rates(rate: float, num_layers: int) -> list[float]:
  """Rate of each layer, l / L * rate for l = 1..L (ViViT Eq. 10).

  DEVIATION: Scenic uses (l - 1) / (L - 1) * rate, so its first layer is never dropped.
  """
  return [rate * layer / num_layers for layer in range(1, num_layers + 1)]


class EncoderBlock(nn.Module):
  """Pre-norm transformer block over axis -2 of [B, ..., N, C].

  The two residual branches are dropped independently by stochastic depth, each per entry of the
  leading axis: with [B, T, N, C] all T sequences of an example share the decision, while dropout is
  independent everywhere. A subclass may change what happens between tokens, `mix`.
  """

  num_heads: int
  mlp_dim: int
  dropout_rate: float = 0.0
  attention_dropout_rate: float = 0.0
  stochastic_depth_rate: float | jax.Array = 0.0
  gelu: str = 'tanh'
  layer_norm_epsilon: float = 1e-6
  attention: Callable[..., jax.Array] = dot_product_attention
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, inputs: jax.Array, *, mask: jax.Array | None = None, train: bool) -> jax.Array:
    x = self.mix(inputs, mask, train)
    y = self.norm('LayerNorm_1')(x)
    y = Mlp(self.mlp_dim, self.dropout_rate, self.gelu, self.dtype, name='MlpBlock_0')(
      y, train=train
    )
    return x + self.drop('drop_1', y, train)

  def mix(self, inputs: jax.Array, mask: jax.Array | None, train: bool) -> jax.Array:
    """All of the block before its MLP."""
    return inputs + self.attend(inputs, mask, train)

  def attend(self, inputs: jax.Array, mask: jax.Array | None, train: bool) -> jax.Array:
    """The residual branch of attention."""
    x = MultiHeadAttention(
      num_heads=self.num_heads,
      dropout_rate=self.attention_dropout_rate,
      attention=self.attention,
      dtype=self.dtype,
      name='MultiHeadDotProductAttention_0',
    )(self.norm('LayerNorm_0')(inputs), mask=mask, train=train)
    x = nn.Dropout(self.dropout_rate, name='dropout')(x, deterministic=not train)
    return self.drop('drop_0', x, train)

  def norm(self, name: str) -> nn.LayerNorm:
    """A LayerNorm of the block."""
    return layer_norm(name, epsilon=self.layer_norm_epsilon, dtype=self.dtype)

  def drop(self, name: str, branch: jax.Array, train: bool) -> jax.Array:
    """A residual branch after the block's stochastic depth."""
    return StochasticDepth(self.stochastic_depth_rate, name=name)(branch, train=train)


def cut_patches(video: jax.Array, patch: tuple[int, int, int]) -> jax.Array:
  """[B, T, H, W, 3] -> [B, nt, nh, nw, t*h*w*3]; each axis is a multiple of the patch's."""
  t, h, w = patch
  return einops.rearrange(video, 'b (nt t) (nh h) (nw w) c -> b nt nh nw (t h w c)', t=t, h=h, w=w)


class PatchEmbedding(nn.Module):
  """Projects patches [..., t*h*w*3] to [..., C], in the order in which `kernel` holds them.

  This is the strided convolution whose parameters it has, `kernel` (*patch, 3, C) and `bias` (C,),
  as one matrix product: three input channels leave the matrix units of a TPU almost idle.

  Attributes:
    features: C.
    patch: (t, h, w), or (h, w) of a frame.
    kernel_init: of the kernel as it is stored.
    use_bias: False leaves `bias` out.
  """

  features: int
  patch: tuple[int, ...]
  kernel_init: Initializer = nn.initializers.lecun_normal()
  use_bias: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, patches: jax.Array) -> jax.Array:
    axes = (None,) * (len(self.patch) - 2) + ('patch', None, None, 'embed')
    kernel_init = partitioned(self.kernel_init, *axes)
    kernel = self.param('kernel', kernel_init, (*self.patch, 3, self.features))
    projected = patches.astype(self.dtype) @ kernel.astype(self.dtype).reshape(-1, self.features)
    if not self.use_bias:
      return projected
    bias = self.param('bias', partitioned(nn.initializers.zeros, 'embed'), (self.features,))
    return projected + bias.astype(self.dtype)


class PositionEmbedding(nn.Module):
  """Adds one learned table (1, N, C) to [..., N, C].

  Attributes:
    grid: the sizes of the axes that the tokens, but for class tokens before them, lie on.
    table_grid: those that the table belongs to. Where they differ, the rows of the grid are resized as
      `init_from.position_resize='bilinear'` does it: linear along each axis, with half-pixel centres.
    table_init: of the table.
  """

  grid: tuple[int, ...] = ()
  table_grid: tuple[int, ...] = ()
  table_init: Initializer = nn.initializers.normal(stddev=0.02)

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    rows, width = inputs.shape[-2:]
    size = math.prod(self.table_grid)
    classes = rows - math.prod(self.grid)
    self._check_rows(classes + size)
    init = partitioned(self.table_init, None, 'tokens', 'embed')
    table = self.param('pos_embedding', init, (1, classes + size, width))
    if self.table_grid != self.grid:
      cells = table[:, classes:].reshape(*self.table_grid, width)
      cells = jax.image.resize(cells, (*self.grid, width), 'linear', antialias=False)
      table = jnp.concatenate([table[:, :classes], cells.reshape(1, -1, width)], axis=1)
    return inputs + table.astype(inputs.dtype)  # [1, N, C] broadcasts over leading axes

  def _check_rows(self, expected: int) -> None:
    """Raises ConfigError if there is a table, and it has another number of rows."""
    if not self.has_variable('params', 'pos_embedding'):
      return
    found = nn.meta.unbox(self.get_variable('params', 'pos_embedding')).shape[-2]
    if found != expected:
      raise ConfigError(
        f'{"/".join(self.path)}: the table has {found} rows, and tokens on a grid of {self.grid} '
        f'with a table for {self.table_grid} need {expected}. If clips differ in frames or size, '
        'set trunk.position_grid to the (nt, nh, nw) that the table was made for: it is then '
        'resized for the others.'
      )


class Encoder(nn.Module):
  """Position embedding, `num_layers` blocks, LayerNorm: [B, ..., N, C] -> the same shape.

  Attributes:
    block: `functools.partial` of a block class; called with `stochastic_depth_rate` and `name`.
    positions: `PositionEmbedding`, or a `functools.partial` of it; called with `name`.
    final_norm: False leaves `encoder_norm` out.
    remat: 'none'; 'blocks' recomputes in the backward pass what is cheap, such as norms and
      activations, and the attention weights; 'full' recomputes whole blocks. See `REMAT_POLICIES`.
    scan_layers: compile one block and loop over the layers. Parameters are the same, one subtree a
      layer: they are stacked in the program. Random numbers differ from those of the unrolled
      encoder, and what blocks sow or write besides parameters is lost.
  """

  num_layers: int
  block: Callable[..., nn.Module]
  positions: Callable[..., nn.Module] = PositionEmbedding
  dropout_rate: float = 0.0
  stochastic_depth_rate: float = 0.0
  layer_norm_epsilon: float = 1e-6
  final_norm: bool = True
  remat: str = 'none'
  scan_layers: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, inputs: jax.Array, *, mask: jax.Array | None = None, train: bool) -> jax.Array:
    x = split_batch(self.positions(name='posembed_input')(inputs))
    x = nn.Dropout(self.dropout_rate, name='dropout')(x, deterministic=not train)
    scan = self.scan_layers and self.num_layers > 1 and not self.is_initializing()
    x = (self._scan if scan else self._unroll)(x, mask, train)
    if self.final_norm:
      x = layer_norm('encoder_norm', epsilon=self.layer_norm_epsilon, dtype=self.dtype)(x)
    return x

  def _unroll(self, x: jax.Array, mask: jax.Array | None, train: bool) -> jax.Array:
    def call(block: nn.Module, x: jax.Array) -> jax.Array:
      return block(x, mask=mask, train=train)

    call = recomputing(call, self.remat)
    for name, rate in zip(self._names(), self._rates()):
      x = split_batch(call(self.block(stochastic_depth_rate=rate, name=name), x))
    return x

  def _scan(self, x: jax.Array, mask: jax.Array | None, train: bool) -> jax.Array:
    def call(x: jax.Array, layer: Any) -> tuple[Any, None]:
      params, rate, key = layer
      block = self.block(stochastic_depth_rate=0.0 if rate is None else rate, parent=None)
      rngs = {} if key is None else {'dropout': key}
      out: Any = block.apply({'params': params}, x, mask=mask, train=train, rngs=rngs)
      return split_batch(out), None

    if self.remat != 'none':
      # A loop's body is compiled once: there is no common subexpression to protect it from.
      call = jax.checkpoint(call, policy=REMAT_POLICIES[self.remat], prevent_cse=False)
    params = [nn.meta.unbox(self.get_variable('params', name)) for name in self._names()]
    rates = jnp.asarray(self._rates()) if self.stochastic_depth_rate else None
    dropping = train and self.has_rng('dropout')
    keys = jax.random.split(self.make_rng('dropout'), self.num_layers) if dropping else None
    stacked = jax.tree.map(lambda *layers: jnp.stack(layers), *params)
    return jax.lax.scan(call, x, (stacked, rates, keys))[0]

  def _names(self) -> list[str]:
    return [f'encoderblock_{i}' for i in range(self.num_layers)]

  def _rates(self) -> list[float]:
    return stochastic_depth_rates(self.stochastic_depth_rate, self.num_layers)


def block_paths(encoder: str, num_layers: int) -> list[tuple[str, ...]]:
  """For each block of an encoder, the beginning of its parameters' paths."""
  return [(f'{encoder}/encoderblock_{i}',) for i in range(num_layers)]


def check_choices(trunk: nn.Module, choices: Mapping[str, Collection[str]]) -> None:
  """Raises ConfigError unless each attribute of a trunk is one of its choices."""
  for field, known in choices.items():
    if getattr(trunk, field) not in known:
      raise ConfigError(f'trunk.{field}={getattr(trunk, field)!r}: expected one of {known}.')


def check_encoder(trunk: nn.Module, least_width: int = 1) -> None:
  """Raises ConfigError unless a trunk's attributes that `EncoderBlock` and `Encoder` take are in range.

  They are `hidden_size`, `num_layers`, `num_heads`, `mlp_dim`, the three rates and `attention_kernel`.
  """
  sizes = {'hidden_size': least_width, 'num_layers': 1, 'num_heads': 1, 'mlp_dim': 1}
  for field, least in sizes.items():
    if getattr(trunk, field) < least:
      raise ConfigError(f'trunk.{field}={getattr(trunk, field)}: expected at least {least}.')
  if trunk.hidden_size % trunk.num_heads:
    raise ConfigError(
      f'trunk.num_heads={trunk.num_heads} does not divide trunk.hidden_size={trunk.hidden_size}.'
    )
  for field in ('dropout_rate', 'attention_dropout_rate', 'stochastic_depth_rate'):
    if not 0.0 <= getattr(trunk, field) < 1.0:
      raise ConfigError(f'trunk.{field}={getattr(trunk, field)}: expected a rate in [0, 1).')
  if trunk.attention_kernel == 'fused' and trunk.attention_dropout_rate > 0.0:
    raise ConfigError(
      "trunk.attention_kernel='fused' has no dropout of attention weights; set "
      'trunk.attention_dropout_rate=0.0.'
    )


def prepend_class_token(module: nn.Module, name: str, tokens: jax.Array) -> jax.Array:
  """Adds parameter `name` (1, 1, C), zeros at first, of `module` before [..., N, C]."""
  init = partitioned(nn.initializers.zeros, None, None, 'embed')
  token = module.param(name, init, (1, 1, tokens.shape[-1])).astype(tokens.dtype)
  token = jnp.broadcast_to(token.reshape(-1), (*tokens.shape[:-2], 1, tokens.shape[-1]))
  return jnp.concatenate([token, tokens], axis=-2)  # [..., 1 + N, C]
