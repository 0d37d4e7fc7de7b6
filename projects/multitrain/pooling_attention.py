"""Attention that pools queries, keys and values on their grid (MViTv2, CVPR 2022, section 4)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from models import layers
from models.attention import dot_product_attention
from models.depthwise import Size, depthwise, strided_grid, uniform

# The official code's; it truncates at 100 deviations, that is, not at all.
NORMAL = nn.initializers.normal(stddev=0.02)
_HEAD_NORM_EPSILON = 1e-5  # Of LayerNorms within attention; those of the blocks have another.


def relative_index(queries: int, keys: int) -> np.ndarray:
  """Row of the relative position of each query to each key along one axis, int [queries, keys].

  Both lie on one axis of length m = max(queries, keys), at i m / queries and j m / keys; the row is
  their distance from the lowest, rounded down, in [0, 2 m - 2].
  """
  longest = max(queries, keys)
  i, j = np.arange(queries)[:, None], np.arange(keys)[None]
  return (i * keys + (keys - 1 - j) * queries) * longest // (queries * keys)


class PooledProjection(nn.Module):
  """Queries, keys or values: a linear layer, then each head pooled and normalised.

  Attributes:
    num_heads, head_size: of the result.
    kernel_size, stride: of the convolution, whose weights all heads share.
  """

  num_heads: int
  head_size: int
  kernel_size: Size
  stride: Size
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, inputs: jax.Array, grid: Size) -> jax.Array:
    """[B, T*H*W, C] on a `grid` of (T, H, W) -> [B, heads, T'*H'*W', head_size]."""
    axes = (heads_axis(self.num_heads), 'kv')
    size = (self.num_heads, self.head_size)
    kernel = self.param(
      'kernel', layers.partitioned(NORMAL, 'embed', *axes), (inputs.shape[-1], *size)
    )
    bias = self.param('bias', layers.partitioned(nn.initializers.zeros, *axes), size)
    pooling = self.param(
      'pool_kernel',
      layers.partitioned(uniform(math.prod(self.kernel_size)), None, None, None, None, 'kv'),
      (*self.kernel_size, 1, self.head_size),
    )
    # Heads come before tokens, so that to pool them is to reshape, and attention wants them there.
    x = jnp.einsum('bnc,chd->bhnd', inputs, kernel.astype(self.dtype))
    x += bias.astype(self.dtype)[:, None]
    maps = x.reshape(-1, *grid, self.head_size)  # [B*heads, T, H, W, D]
    maps = depthwise(maps, pooling.astype(self.dtype), self.stride)
    x = maps.reshape(*x.shape[:2], -1, self.head_size)  # [B, heads, T'*H'*W', D]
    norm = {'epsilon': _HEAD_NORM_EPSILON, 'dtype': self.dtype, 'axis': 'kv'}
    return layers.layer_norm('norm', **norm)(x)


def heads_axis(num_heads: int) -> str | None:
  """The logical axis of heads, or None where there are too few for the mesh, so that all have all."""
  mesh = jax.sharding.get_abstract_mesh()
  return 'heads' if mesh.empty or num_heads % mesh.shape['tensor'] == 0 else None


class PoolingAttention(nn.Module):
  """Attention among pooled queries, keys and values, plus the pooled queries (MViTv2, Eq. 5-6).

  Attributes:
    features: C', a multiple of `num_heads`.
    table_grid: (T, H, W) of the inputs that tables of relative positions are for; None without these.
    kernel: see `dot_product_attention`; relative positions have XLA's.
  """

  features: int
  num_heads: int
  pool_kernel: Size
  query_stride: Size
  key_value_stride: Size
  table_grid: Size | None = None
  kernel: str = 'auto'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, inputs: jax.Array, grid: Size) -> jax.Array:
    """[B, T*H*W, C] on a `grid` of (T, H, W) -> [B, T'*H'*W', C'], pooled as queries are."""
    query, key, value = (
      PooledProjection(
        self.num_heads,
        self.features // self.num_heads,
        kernel_size=self.pool_kernel,
        stride=stride,
        dtype=self.dtype,
        name=name,
      )(inputs, grid)
      for name, stride in (
        ('query', self.query_stride),
        ('key', self.key_value_stride),
        ('value', self.key_value_stride),
      )
    )
    pooled, kernel = query, self.kernel
    if self.table_grid is not None:
      query, key = self._relate(query, key, grid)
      kernel = 'xla'
    # Transposes of both sides cancel: the kernels, too, take heads before tokens.
    attended = dot_product_attention(
      *(x.swapaxes(1, 2) for x in (query, key, value)), kernel=kernel
    )
    return nn.DenseGeneral(
      self.features,
      axis=(-2, -1),
      kernel_init=layers.partitioned(NORMAL, heads_axis(self.num_heads), 'kv', 'embed'),
      bias_init=layers.partitioned(nn.initializers.zeros, 'embed'),
      dtype=self.dtype,
      name='out',
    )(attended + pooled.swapaxes(1, 2))

  def _relate(self, query: jax.Array, key: jax.Array, grid: Size) -> tuple[jax.Array, jax.Array]:
    """Widens queries and keys so that their products contain q . (R_t + R_h + R_w) (MViTv2, Eq. 4).

    A query gets its products with the offsets to every place along each axis, a key is 1 at its own
    places: no bias of the size of the attention map is made. As attention divides by the root of
    the width, queries are scaled by what that is too much.
    """
    width = query.shape[-1]
    strides = (self.query_stride, self.key_value_stride)
    grids = [strided_grid(grid, stride) for stride in strides]
    tables = [strided_grid(self.table_grid, stride) for stride in strides]  # type: ignore[arg-type]
    maps = query.reshape(*query.shape[:2], *grids[0], width)
    products, places = [], []
    for axis, name in enumerate('thw'):
      sizes = [g[axis] for g in grids]
      table = self._table(name, max(t[axis] for t in tables), max(sizes), width)
      offsets = table[relative_index(*sizes)].astype(self.dtype)  # [queries, keys, D]
      products.append(jnp.einsum(f'bnthwd,{name}kd->bnthwk', maps, offsets))
      places.append(np.eye(sizes[1])[np.indices(grids[1])[axis].ravel()])  # [K, keys]
    product = jnp.concatenate(products, -1).reshape(*query.shape[:3], -1)
    place = jnp.asarray(np.concatenate(places, -1), self.dtype)
    total = width + place.shape[-1]
    query = jnp.concatenate([query * (total / width) ** 0.5, product * total**0.5], -1)
    place = jnp.broadcast_to(place, (*key.shape[:3], place.shape[-1]))
    return query, jnp.concatenate([key, place], -1)

  def _table(self, name: str, own: int, longest: int, width: int) -> jax.Array:
    """The table of one axis, [2 * longest - 1, D], resized if its own axis has another length."""
    init = layers.partitioned(NORMAL, 'tokens', 'kv')
    table = self.param(f'rel_pos_{name}', init, (2 * own - 1, width))
    if own == longest:
      return table
    return jax.image.resize(table, (2 * longest - 1, width), 'linear', antialias=False)
