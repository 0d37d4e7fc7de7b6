"""From pixels to the tokens of tubes, without the pixels that strides skip."""

from collections.abc import Sequence
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from models import layers
from models.interpolation import axis_weights
from projects.tubevit.tubes import Size, Tube

# How a kernel gets another shape: the method of `axis_weights`, and whether sums are kept.
#   keep_sum: the sum of the kernel over its places stays what it is, so that a constant clip has
#     the same token whatever the shape. Places share out what each learned weight has.
#   trilinear: values stay what they are, so that tokens grow with the volume (the public
#     implementation).
INTERPOLATIONS = {'keep_sum': ('bilinear_antialias', True), 'trilinear': ('bilinear', False)}


def resized(kernel: jax.Array, shape: Sequence[int], interpolation: str) -> jax.Array:
  """[t, h, w, 3, C] -> [*shape, 3, C] by one of `INTERPOLATIONS`; itself if it has the shape."""
  method, keep_sum = INTERPOLATIONS[interpolation]
  for axis, size in enumerate(shape):
    if kernel.shape[axis] != size:
      weights = axis_weights(kernel.shape[axis], size, method, keep_sum)
      kernel = jnp.moveaxis(
        jnp.tensordot(
          jnp.asarray(weights, kernel.dtype),
          kernel,
          axes=(1, axis),
          precision=jax.lax.Precision.HIGHEST,
        ),
        0,
        axis,
      )
  return kernel


def cut_windows(video: jax.Array, tube: Tube, grid: Size) -> jax.Array:
  """What the kernel is applied to: [B, T, H, W, 3] -> [B, nt*ft, nh*fh, nw*fw, kt*kh*kw*3].

  Windows are gathered axis by axis, first along the one of which least remains. A product of them
  with the kernel takes less time than a strided convolution; see
  `python -m benchmarks.tube_tokens`.
  """
  axes = []
  for axis, (start, step, kernel) in enumerate(zip(tube.start, tube.step, tube.kernel), 1):
    count = grid[axis - 1] * tube.space_to_depth[axis - 1]
    places = start + np.arange(count)[:, None] * step + np.arange(kernel)  # [n, k]
    axes.append((places.size / video.shape[axis], axis, places.ravel()))
  for _, axis, places in sorted(axes, key=lambda item: item[:2]):
    video = _take(video, places, axis)
  return layers.cut_patches(video, tube.kernel)


def _take(video: jax.Array, places: np.ndarray, axis: int) -> jax.Array:
  """Slices at places along an axis; zeros at those outside."""
  before, after = max(0, -places.min()), max(0, places.max() + 1 - video.shape[axis])
  if before or after:  # Only grown kernels leave the clip.
    video = jnp.pad(video, [(before, after) if a == axis else (0, 0) for a in range(video.ndim)])
  # All places are inside; the default mode would compare each with the bounds.
  return jnp.take(video, places + before, axis=axis, mode='clip')


class TubeEmbedding(nn.Module):
  """The tokens of one tube.

  Attributes:
    features: channels that the kernel gives, C / tube.parts.
    interpolation: see `resized`.
  """

  features: int
  tube: Tube
  interpolation: str
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, video: jax.Array, grid: Size | None, shared_kernel: jax.Array | None = None
  ) -> jax.Array | None:
    """[B, T, H, W, 3] to tokens [B, nt*nh*nw, C]; without a grid, only makes the parameters.

    Args:
      video: of the compute dtype.
      grid: (nt, nh, nw).
      shared_kernel: [t, h, w, 3, C] of any shape; None: the tube has its own.
    """
    kernel = shared_kernel
    if kernel is None:
      kernel = patch_kernel(self, 'kernel', self.tube.learned, self.features)
    bias = self.param('bias', layers.partitioned(nn.initializers.zeros, 'embed'), (self.features,))
    if grid is None:
      return None
    kernel = resized(kernel, self.tube.kernel, self.interpolation).astype(self.dtype)
    windows = cut_windows(video, self.tube, grid)
    tokens = windows @ kernel.reshape(-1, self.features) + bias.astype(self.dtype)
    t, h, w = self.tube.space_to_depth
    return einops.rearrange(tokens, 'b (t i) (h j) (w k) c -> b (t h w) (i j k c)', i=t, j=h, k=w)


def patch_kernel(module: nn.Module, name: str, shape: Size, features: int) -> jax.Array:
  """The parameter [t, h, w, 3, features] of a module."""
  init = layers.partitioned(nn.initializers.lecun_normal(), None, 'patch', None, None, 'embed')
  return module.param(name, init, (*shape, 3, features))
