"""MViTv2 as MultiTrain's authors use it (supplement, section 1 and Table 2; MViTv2: CVPR 2022).

Differences from MViTv2: no class token, absolute positions of space and of time apart, and the skip
connection changes its width from the input of a block before its LayerNorm.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from errors import ConfigError
from models import layers
from models.attention import KERNELS
from models.depthwise import Size, half, strided_grid, uniform
from models.features import Features
from models.layout import split_batch
from projects.multitrain.pooling_attention import NORMAL, PoolingAttention


class Block(nn.Module):
  """One MViTv2 block (Figure 1 of MultiTrain's supplement), which may shrink the grid and widen.

  Attributes:
    features: C'.
    others: see `MViT` and `PoolingAttention`.
  """

  features: int
  num_heads: int
  mlp_ratio: int
  pool_kernel: Size
  query_stride: Size
  key_value_stride: Size
  table_grid: Size | None
  stochastic_depth_rate: float
  layer_norm_epsilon: float
  attention_kernel: str
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, inputs: jax.Array, grid: Size, *, train: bool) -> jax.Array:
    """[B, T*H*W, C] on a `grid` of (T, H, W) -> [B, T'*H'*W', C']."""
    norm = {'epsilon': self.layer_norm_epsilon, 'dtype': self.dtype}
    x = PoolingAttention(
      self.features,
      num_heads=self.num_heads,
      pool_kernel=self.pool_kernel,
      query_stride=self.query_stride,
      key_value_stride=self.key_value_stride,
      table_grid=self.table_grid,
      kernel=self.attention_kernel,
      dtype=self.dtype,
      name='attention',
    )(layers.layer_norm('LayerNorm_0', **norm)(inputs), grid)
    x = self._skip(inputs, grid) + self._drop('drop_0', x, train)
    y = layers.layer_norm('LayerNorm_1', **norm)(x)
    y = layers.Mlp(
      self.mlp_ratio * self.features,
      gelu='erf',
      kernel_init=NORMAL,
      bias_init=nn.initializers.zeros,
      dtype=self.dtype,
      name='MlpBlock_0',
    )(y, train=train)
    return x + self._drop('drop_1', y, train)

  def _skip(self, x: jax.Array, grid: Size) -> jax.Array:
    """The residual path: a linear layer if the width changes, a maximum where queries are pooled."""
    if x.shape[-1] != self.features:
      x = nn.Dense(
        self.features,
        kernel_init=layers.partitioned(NORMAL, 'embed', None),
        bias_init=layers.partitioned(nn.initializers.zeros, 'embed'),
        dtype=self.dtype,
        name='skip',
      )(x)
    if max(self.query_stride) == 1:
      return x
    maps = x.reshape(x.shape[0], *grid, -1)  # [B, T, H, W, C']
    window = tuple(step + 1 if step > 1 else 1 for step in self.query_stride)
    maps = nn.max_pool(maps, window, strides=self.query_stride, padding=half(window))
    return maps.reshape(x.shape[0], -1, self.features)

  def _drop(self, name: str, branch: jax.Array, train: bool) -> jax.Array:
    drop = layers.StochasticDepth(self.stochastic_depth_rate, name=name)
    return drop(branch, train=train)


class MViT(nn.Module):
  """Video trunk whose blocks shrink the token grid and widen from stage to stage.

  Lists have one entry a stage; strides are (t, h, w).

  Attributes:
    hidden_sizes: widths; of the first stage also the width of the tokens.
    num_layers: blocks of each stage.
    num_heads: of its blocks; each divides its width.
    query_strides: of a stage's first block, which shrinks the grid by them; 1 or even.
    key_value_strides: of all its blocks, on the grid of a block's input.
    patch_kernel, patch_stride: of the convolution that makes tokens, (t, h, w) in frames and pixels;
      patches overlap, and the kernel's sizes are odd.
    pool_kernel: of the convolutions on queries, keys and values; odd.
    mlp_ratio: width of a block's MLP over its own.
    absolute_positions: a table of space, added in every frame, and one of time, added at every place.
    relative_positions: tables of each block and axis, as in MViTv2; no released model has them.
      DEVIATION: they are as long as odd grids need, which the official code rounds down.
    position_grid: (nt, nh, nw) that the tables are for, as the patches make it; None = that of the
      input. If clips differ in frames or size, tables are resized for those with another grid.
    stochastic_depth_rate: of the last block; grows linearly from 0 in the first.
    attention_kernel: 'auto', 'xla' or 'fused'; see `models.attention.dot_product_attention`.
    remat: 'none', 'blocks' or 'full'; see `layers.Encoder`.
    dtype: compute dtype; parameters are float32.
  """

  hidden_sizes: tuple[int, ...]
  num_layers: tuple[int, ...]
  num_heads: tuple[int, ...]
  query_strides: tuple[Size, ...]
  key_value_strides: tuple[Size, ...]
  patch_kernel: Size
  patch_stride: Size
  pool_kernel: Size = (3, 3, 3)
  mlp_ratio: int = 4
  absolute_positions: bool = True
  relative_positions: bool = False
  position_grid: Size | None = None
  stochastic_depth_rate: float = 0.0
  layer_norm_epsilon: float = 1e-6
  attention_kernel: str = 'auto'
  remat: str = 'none'
  dtype: Any = jnp.float32

  def __post_init__(self) -> None:
    _check(self)
    super().__post_init__()

  @nn.compact
  def __call__(self, video: jax.Array, *, train: bool) -> Features:
    """Turns video [B, T, H, W, 3] into `Features` of the last stage; `pooled` is the tokens' mean.

    Raises:
      ConfigError: T, H or W is not divisible by the patch stride, or the tables in the parameters are
        for another grid.
    """
    grid = self.patch_grid(video.shape)
    x = self._tokens(video.astype(self.dtype), grid)
    rates = iter(np.linspace(0.0, self.stochastic_depth_rate, sum(self.num_layers)).tolist())
    table_grid = tuple(self.position_grid or grid)
    for name, stage, stride in self._blocks():
      block = Block(
        features=self.hidden_sizes[stage],
        num_heads=self.num_heads[stage],
        mlp_ratio=self.mlp_ratio,
        pool_kernel=tuple(self.pool_kernel),
        query_stride=stride,
        key_value_stride=tuple(self.key_value_strides[stage]),
        table_grid=table_grid if self.relative_positions else None,
        stochastic_depth_rate=next(rates),
        layer_norm_epsilon=self.layer_norm_epsilon,
        attention_kernel=self.attention_kernel,
        dtype=self.dtype,
        name=name,
      )
      x = split_batch(self._call(block, x, grid, train))
      grid, table_grid = strided_grid(grid, stride), strided_grid(table_grid, stride)
    x = layers.layer_norm('encoder_norm', epsilon=self.layer_norm_epsilon, dtype=self.dtype)(x)
    return Features(tokens=x, pooled=x.mean(axis=1), grid=grid)

  def patch_grid(self, input_shape: Sequence[int]) -> Size:
    """(nt, nh, nw) that the patches of a video [..., T, H, W, 3] lie on, and its positions.

    Raises:
      ConfigError: a size is not divisible by the patch stride.
    """
    sizes, stride = tuple(input_shape[-4:-1]), tuple(self.patch_stride)
    if any(size % step or size < step for size, step in zip(sizes, stride)):
      raise ConfigError(
        f'trunk.patch_stride: (t, h, w) = {stride} does not divide the input (T, H, W) = {sizes}; '
        'change the stride, the number of frames or the crop size.'
      )
    return strided_grid(sizes, stride)

  def grid(self, input_shape: Sequence[int]) -> Size:
    """(nt, nh, nw) of `Features.tokens` for a video of shape [..., T, H, W, 3].

    Raises:
      ConfigError: as `patch_grid`.
    """
    grid = self.patch_grid(input_shape)
    for stride in self.query_strides:
      grid = strided_grid(grid, stride)
    return grid

  def stages(self, input_shape: Sequence[int]) -> list[tuple[str, int, int]]:
    """(name, 1, tokens) of each stage."""
    grid, stages = self.patch_grid(input_shape), []
    for number, stride in enumerate(self.query_strides, 1):
      grid = strided_grid(grid, stride)
      stages.append((f'stage {number}', 1, math.prod(grid)))
    return stages

  def depths(self) -> list[tuple[str, ...]]:
    """Beginnings of parameters' paths by depth: of what makes the tokens, then of every block."""
    tokens = ('embedding', 'posembed_time', 'posembed_space')
    return [tokens, *((name,) for name, _, _ in self._blocks())]

  def _blocks(self) -> Iterator[tuple[str, int, Size]]:
    """Name, stage and query stride of each block."""
    number = itertools.count()
    for stage, (count, stride) in enumerate(zip(self.num_layers, self.query_strides)):
      for layer in range(count):
        yield f'encoderblock_{next(number)}', stage, (1, 1, 1) if layer else tuple(stride)

  def _call(self, block: Block, x: jax.Array, grid: Size, train: bool) -> jax.Array:
    def call(block: Block, x: jax.Array) -> jax.Array:
      return block(x, grid, train=train)

    return layers.recomputing(call, self.remat)(block, x)

  def _tokens(self, video: jax.Array, grid: Size) -> jax.Array:
    """[B, T, H, W, 3] -> [B, nt*nh*nw, C] with absolute positions."""
    init = uniform(3 * math.prod(self.patch_kernel))
    width = self.hidden_sizes[0]
    x = nn.Conv(
      width,
      self.patch_kernel,
      strides=self.patch_stride,
      padding=half(self.patch_kernel),
      kernel_init=layers.partitioned(init, 'patch', None, None, None, 'embed'),
      bias_init=layers.partitioned(init, 'embed'),
      dtype=self.dtype,
      name='embedding',
    )(video)
    if self.absolute_positions:
      x += self._table('time', grid[:1], slice(1))[:, :, None, None]
      x += self._table('space', grid[1:], slice(1, 3)).reshape(1, 1, *grid[1:], width)
    return split_batch(x.reshape(x.shape[0], -1, width))

  def _table(self, name: str, grid: tuple[int, ...], axes: slice) -> jax.Array:
    """[1, N, C] of positions on some axes of the grid."""
    table_grid = grid if self.position_grid is None else tuple(self.position_grid)[axes]
    embedding = layers.PositionEmbedding(grid, table_grid, name=f'posembed_{name}')
    return embedding(jnp.zeros((1, math.prod(grid), self.hidden_sizes[0]), self.dtype))


def _check(trunk: MViT) -> None:
  """Raises ConfigError for attributes that are out of range or contradict each other."""
  lists = ('hidden_sizes', 'num_layers', 'num_heads', 'query_strides', 'key_value_strides')
  counts = {name: len(getattr(trunk, name)) for name in lists}
  if len(set(counts.values())) > 1 or not trunk.hidden_sizes:
    raise ConfigError(f'trunk: every list needs one entry a stage, at least one; got {counts}.')
  for name in ('hidden_sizes', 'num_layers', 'num_heads'):
    if min(getattr(trunk, name)) < 1:
      raise ConfigError(f'trunk.{name}={getattr(trunk, name)}: expected at least 1 each.')
  for stage, (size, heads) in enumerate(zip(trunk.hidden_sizes, trunk.num_heads)):
    if size % heads:
      raise ConfigError(
        f'trunk.num_heads[{stage}]={heads} does not divide trunk.hidden_sizes[{stage}]={size}.'
      )
  _check_sizes(trunk)
  choices = {'attention_kernel': KERNELS, 'remat': tuple(layers.REMAT_POLICIES)}
  layers.check_choices(trunk, choices)
  if trunk.mlp_ratio < 1:
    raise ConfigError(f'trunk.mlp_ratio={trunk.mlp_ratio}: expected at least 1.')
  if not 0.0 <= trunk.stochastic_depth_rate < 1.0:
    raise ConfigError(
      f'trunk.stochastic_depth_rate={trunk.stochastic_depth_rate}: expected a rate in [0, 1).'
    )
  if trunk.relative_positions and trunk.attention_kernel == 'fused':
    raise ConfigError(
      "trunk.attention_kernel='fused' has no relative positions; set 'auto', or "
      'trunk.relative_positions=False.'
    )


def _check_sizes(trunk: MViT) -> None:
  """Raises ConfigError unless all sizes are three numbers, and those that it matters for odd or even."""
  sizes = {name: getattr(trunk, name) for name in ('patch_kernel', 'patch_stride', 'pool_kernel')}
  for name in ('query_strides', 'key_value_strides'):
    sizes |= {f'{name}[{i}]': stride for i, stride in enumerate(getattr(trunk, name))}
  if trunk.position_grid is not None:
    sizes['position_grid'] = trunk.position_grid
  for name, size in sizes.items():
    if len(size) != 3 or min(size) < 1:
      raise ConfigError(f'trunk.{name}={size}: expected (t, h, w), each at least 1.')
    if 'kernel' in name and any(n % 2 == 0 for n in size):
      raise ConfigError(f'trunk.{name}={size}: expected odd sizes, padded alike on both sides.')
    if 'query' in name and any(n % 2 and n > 1 for n in size):
      raise ConfigError(
        f'trunk.{name}={size}: expected 1 or even numbers, with which queries and the maximum that '
        'is added to them have one size.'
      )
