"""Models whose outputs a test knows in advance."""

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn

from models.features import Features


class MeanPixelTrunk(nn.Module):
  """`pooled` is one number: a learned scale (1 at first) times the clip's mean input."""

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, video, *, train):
    scale = self.param('scale', nn.initializers.ones, ())
    pooled = scale * video.mean((1, 2, 3, 4))[:, None]
    return Features(tokens=pooled[:, None], pooled=pooled, grid=(1, 1, 1))

  def stages(self, input_shape):
    return [('mean', 1, 1)]


class FavouriteHead(nn.Module):
  """Logits that are `favourite_logit` for class `favourite`, 0 for the others."""

  num_classes: int
  favourite: int = 0
  favourite_logit: float = 1.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, features, *, train):
    offset = self.param('offset', nn.initializers.zeros, ())
    row = self.favourite_logit * jnp.eye(self.num_classes)[self.favourite] + offset
    return jnp.broadcast_to(row, (features.pooled.shape[0], self.num_classes))


class PixelHead(nn.Module):
  """Class 0's logit is the pooled number, the others' are 0: views must be averaged."""

  num_classes: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, features, *, train):
    zeros = jnp.zeros((features.pooled.shape[0], self.num_classes - 1))
    return jnp.concatenate([features.pooled, zeros], -1)


class CountingTrunk(nn.Module):
  """Keeps a BatchNorm-like statistic in `batch_stats`: how many clips it has seen in training."""

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, video, *, train):
    count = self.variable('batch_stats', 'count', lambda: jnp.float32(0))
    scale = self.param('scale', nn.initializers.ones, ())
    if train:
      count.value += video.shape[0]
    pooled = scale * video.mean((1, 2, 3, 4))[:, None]
    return Features(tokens=pooled[:, None], pooled=pooled, grid=(1, 1, 1))


class FavouriteBoxHead(nn.Module):
  """Logits of every box that are `favourite_logit` for class `favourite`, 0 for the others."""

  takes_boxes: ClassVar[bool] = True

  num_classes: int
  favourite: int = 0
  favourite_logit: float = 1.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, features, *, boxes, train):
    offset = self.param('offset', nn.initializers.zeros, ())
    row = self.favourite_logit * jnp.eye(self.num_classes)[self.favourite] + offset
    return jnp.broadcast_to(row, (*boxes.shape[:2], self.num_classes))
