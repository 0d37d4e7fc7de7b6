"""Batch normalisation with PyTorch's running statistics."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.layers import partitioned


class BatchNorm(nn.Module):
  """Normalises each channel of [..., C] over all other axes.

  In training by the statistics of the batch: of all devices, as they are taken within one program, but of
  each part alone with gradient accumulation. Otherwise by the running ones, `mean` and `var` (C,) of
  the collection `batch_stats`, which training moves towards the batch's.

  DEVIATION: Flax's keeps the biased variance of a batch; this one the unbiased, as PyTorch does.

  Attributes:
    momentum: share of the running statistics that a step keeps; PyTorch calls 1 - momentum so.
    epsilon: added to the variance.
    dtype: of the result; statistics are float32.
  """

  momentum: float = 0.9
  epsilon: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, inputs: jax.Array, *, train: bool) -> jax.Array:
    """[..., C] -> the same shape."""
    width = inputs.shape[-1]
    scale = self.param('scale', partitioned(nn.initializers.ones, 'embed'), (width,))
    bias = self.param('bias', partitioned(nn.initializers.zeros, 'embed'), (width,))
    running_mean = self.variable('batch_stats', 'mean', jnp.zeros, (width,))
    running_var = self.variable('batch_stats', 'var', jnp.ones, (width,))
    x = inputs.astype(jnp.float32)
    mean, var = running_mean.value, running_var.value
    if train:
      axes, count = tuple(range(x.ndim - 1)), x.size // width
      mean = x.mean(axes)
      var = jnp.square(x - mean).mean(axes)
      unbiased = var * (count / max(count - 1, 1))
      running_mean.value = self._moved(running_mean.value, mean)
      running_var.value = self._moved(running_var.value, unbiased)
    factor = scale * jax.lax.rsqrt(var + self.epsilon)
    return ((x - mean) * factor + bias).astype(self.dtype)

  def _moved(self, running: jax.Array, batch: jax.Array) -> jax.Array:
    return self.momentum * running + (1 - self.momentum) * jax.lax.stop_gradient(batch)
