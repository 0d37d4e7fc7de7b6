"""Depthwise convolutions: MViT's pooling and UniFormer's positions."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models.layers import Initializer

Size = tuple[int, int, int]


def strided_grid(grid: Sequence[int], stride: Sequence[int]) -> Size:
  """(t, h, w) after a stride: sizes that it does not divide are rounded up."""
  t, h, w = ((size - 1) // step + 1 for size, step in zip(grid, stride))
  return t, h, w


def depthwise(x: jax.Array, kernel: jax.Array, stride: Size) -> jax.Array:
  """Depthwise 3-D convolution, padded by half the kernel with zeros on every side.

  In programs for CPUs, where XLA's depthwise convolution takes 10 to 100 times as long, it is a sum of
  shifted copies; `python -m benchmarks.mvit_pooling` compares these and other forms.

  Args:
    x: [B, T, H, W, C].
    kernel: [kt, kh, kw, 1, C], sizes odd.
    stride: (t, h, w).

  Returns:
    [B, T', H', W', C], sizes by `strided_grid`.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  if device is not None and device.platform == 'cpu':
    return depthwise_by_shifts(x, kernel, stride)
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    stride,
    half(kernel.shape[:3]),
    dimension_numbers=('NDHWC', 'DHWIO', 'NDHWC'),
    feature_group_count=x.shape[-1],
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise_by_shifts(x: jax.Array, kernel: jax.Array, stride: Size) -> jax.Array:
  """What `depthwise` computes, one weight of the kernel after the other: a loop, as it compiles faster."""

  def add(total: jax.Array, weight: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
    return total + shifted(weight[0]) * weight[1], None

  shifted = _shifts(x, kernel.shape[:3], stride)
  zeros = jnp.zeros((x.shape[0], *strided_grid(x.shape[1:4], stride), x.shape[-1]), jnp.float32)
  weights = (_places(kernel), kernel.reshape(-1, x.shape[-1]))
  return jax.lax.scan(add, zeros, weights)[0].astype(x.dtype)


def _forward(x: jax.Array, kernel: jax.Array, stride: Size) -> tuple[jax.Array, Any]:
  return depthwise_by_shifts(x, kernel, stride), (x, kernel)


def _backward(stride: Size, residuals: Any, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Of x: the flipped kernel on the gradient with zeros between its cells. Of the kernel: products."""
  x, kernel = residuals
  sizes = zip(x.shape[1:4], gradient.shape[1:4], stride)
  gaps = [(0, size - (cells - 1) * step - 1, step - 1) for size, cells, step in sizes]
  spread = jax.lax.pad(gradient, jnp.zeros((), x.dtype), [(0, 0, 0), *gaps, (0, 0, 0)])
  of_x = depthwise_by_shifts(spread, kernel[::-1, ::-1, ::-1], (1, 1, 1))
  shifted = _shifts(x, kernel.shape[:3], stride)

  def of_weight(place: jax.Array) -> jax.Array:
    return jnp.sum(shifted(place) * gradient, (0, 1, 2, 3), jnp.float32)

  of_kernel = jax.lax.map(of_weight, _places(kernel)).reshape(kernel.shape)
  return of_x, of_kernel.astype(kernel.dtype)


depthwise_by_shifts.defvjp(_forward, _backward)


def _shifts(x: jax.Array, kernel: Sequence[int], stride: Size) -> Callable[[jax.Array], jax.Array]:
  """place [3] in the kernel -> what its weight there is multiplied with, [B, T', H', W', C]."""
  t, h, w = stride
  extent = [(n - 1) * step + 1 for n, step in zip(strided_grid(x.shape[1:4], stride), stride)]
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


def uniform(fan_in: int) -> Initializer:
  """Uniform within 1 / sqrt(fan_in), what PyTorch leaves convolutions at."""

  def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    bound = fan_in**-0.5
    return jax.random.uniform(key, tuple(shape), dtype, -bound, bound)

  return init
