"""Attention that pools queries, keys and values on their grid (MViTv2, CVPR 2022, section 4)."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from models import layers
from models.attention import dot_product_attention

Size = tuple[int, int, int]

# The official code's; it truncates at 100 deviations, that is, not at all.
NORMAL = nn.initializers.normal(stddev=0.02)
_HEAD_NORM_EPSILON = 1e-5  # Of LayerNorms within attention; those of the blocks have another.


def pooled_grid(grid: Sequence[int], stride: Sequence[int]) -> Size:
  """(t, h, w) after pooling with a stride: sizes that it does not divide are rounded up."""
  t, h, w = ((size - 1) // step + 1 for size, step in zip(grid, stride))
  return t, h, w


def pool(x: jax.Array, kernel: jax.Array, stride: Size) -> jax.Array:
  """Depthwise 3-D convolution, padded by half the kernel with zeros on every side.

  In programs for CPUs, where XLA's depthwise convolution takes 10 to 100 times as long, it is a sum of
  shifted copies; `python -m benchmarks.mvit_pooling` compares these and other forms.

  Args:
    x: [B, T, H, W, C].
    kernel: [kt, kh, kw, 1, C], sizes odd.
    stride: (t, h, w).

  Returns:
    [B, T', H', W', C], sizes by `pooled_grid`.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  if device is not None and device.platform == 'cpu':
    return pool_by_shifts(x, kernel, stride)
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    stride,
    half(kernel.shape[:3]),
    dimension_numbers=('NDHWC', 'DHWIO', 'NDHWC'),
    feature_group_count=x.shape[-1],
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def pool_by_shifts(x: jax.Array, kernel: jax.Array, stride: Size) -> jax.Array:
  """What `pool` computes, one weight of the kernel after the other: a loop, as it compiles faster."""

  def add(total: jax.Array, weight: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
    return total + shifted(weight[0]) * weight[1], None

  shifted = _shifts(x, kernel.shape[:3], stride)
  zeros = jnp.zeros((x.shape[0], *pooled_grid(x.shape[1:4], stride), x.shape[-1]), jnp.float32)
  weights = (_places(kernel), kernel.reshape(-1, x.shape[-1]))
  return jax.lax.scan(add, zeros, weights)[0].astype(x.dtype)


def _forward(x: jax.Array, kernel: jax.Array, stride: Size) -> tuple[jax.Array, Any]:
  return pool_by_shifts(x, kernel, stride), (x, kernel)


def _backward(stride: Size, residuals: Any, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Of x: the flipped kernel on the gradient with zeros between its cells. Of the kernel: products."""
  x, kernel = residuals
  sizes = zip(x.shape[1:4], gradient.shape[1:4], stride)
  gaps = [(0, size - (cells - 1) * step - 1, step - 1) for size, cells, step in sizes]
  spread = jax.lax.pad(gradient, jnp.zeros((), x.dtype), [(0, 0, 0), *gaps, (0, 0, 0)])
  of_x = pool_by_shifts(spread, kernel[::-1, ::-1, ::-1], (1, 1, 1))
  shifted = _shifts(x, kernel.shape[:3], stride)

  def of_weight(place: jax.Array) -> jax.Array:
    return jnp.sum(shifted(place) * gradient, (0, 1, 2, 3), jnp.float32)

  of_kernel = jax.lax.map(of_weight, _places(kernel)).reshape(kernel.shape)
  return of_x, of_kernel.astype(kernel.dtype)


pool_by_shifts.defvjp(_forward, _backward)


def _shifts(x: jax.Array, kernel: Sequence[int], stride: Size) -> Callable[[jax.Array], jax.Array]:
  """place [3] in the kernel -> what its weight there is multiplied with, [B, T', H', W', C]."""
  t, h, w = stride
  extent = [(n - 1) * step + 1 for n, step in zip(pooled_grid(x.shape[1:4], stride), stride)]
  padded = jnp.pad(x, ((0, 0), *half(kernel), (0, 0)))
  sizes = (x.shape[0], *extent, x.shape[-1])

  def shifted(place: jax.Array) -> jax.Array:
    return jax.lax.dynamic_slice(padded, (0, *place, 0), sizes)[:, ::t, ::h, ::w]

  return shifted


def _places(kernel: jax.Array) -> np.ndarray:
  """[kt*kh*kw, 3] places of the kernel's weights."""
  return np.indices(kernel.shape[:3], np.int32).reshape(3, -1).T


def half(kernel: Sequence[int]) -> list[tuple[int, int]]:
  """Padding of half a kernel, the same on both sides of each axis."""
  return [(size // 2, size // 2) for size in kernel]


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
    maps = pool(maps, pooling.astype(self.dtype), self.stride)
    x = maps.reshape(*x.shape[:2], -1, self.head_size)  # [B, heads, T'*H'*W', D]
    norm = {'epsilon': _HEAD_NORM_EPSILON, 'dtype': self.dtype, 'axis': 'kv'}
    return layers.layer_norm('norm', **norm)(x)


def heads_axis(num_heads: int) -> str | None:
  """The logical axis of heads, or None where there are too few for the mesh, so that all have all."""
  mesh = jax.sharding.get_abstract_mesh()
  return 'heads' if mesh.empty or num_heads % mesh.shape['tensor'] == 0 else None


def uniform(fan_in: int) -> layers.Initializer:
  """Uniform within 1 / sqrt(fan_in), what the official code leaves its convolutions at."""

  def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    bound = fan_in**-0.5
    return jax.random.uniform(key, tuple(shape), dtype, -bound, bound)

  return init


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
    grids = [pooled_grid(grid, stride) for stride in strides]
    tables = [pooled_grid(self.table_grid, stride) for stride in strides]  # type: ignore[arg-type]
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
