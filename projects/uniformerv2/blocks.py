"""ViT blocks on the tokens of several frames, each with one way to look along time.

The local UniBlock is section 3.1; the others are what Tables 9b and 15 compare it with. Inputs are
[B, T, 1 + S, C], a class token before each frame's S patch tokens. All but the depthwise convolution of
`Convolution` add a branch that is zero at first, or have no parameters.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from models import layers
from models.batch_norm import BatchNorm
from models.depthwise import depthwise, uniform
from models.layout import split_batch


def patches(x: jax.Array) -> jax.Array:
  """The patch tokens [B, T, S, C] of [B, T, 1 + S, C]."""
  return x[:, :, 1:]


def add_to_patches(x: jax.Array, branch: jax.Array) -> jax.Array:
  """x [B, T, 1 + S, C] with branch [B, T, S, C] added; the class tokens stay."""
  return x + jnp.pad(branch, ((0, 0), (0, 0), (1, 0), (0, 0)))


class TemporalConvolution(nn.Module):
  """Depthwise convolution over three frames of [B, T, S, C], padded with zeros.

  Attributes:
    kernel_init: of the kernel (3, 1, 1, 1, C).
  """

  kernel_init: layers.Initializer
  bias_init: layers.Initializer = nn.initializers.zeros
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    frames, width = x.shape[1], x.shape[-1]
    axes = (None,) * 5
    shape = (3, 1, 1, 1, width)
    kernel = self.param('kernel', layers.partitioned(self.kernel_init, *axes), shape)
    bias = self.param('bias', layers.partitioned(self.bias_init, None), (width,))
    kernel = kernel.astype(self.dtype).reshape(3, width)
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
    # Not a convolution operation, which is slow where channels are apart.
    taps = (padded[:, i : i + frames] * kernel[i] for i in range(3))
    return sum(taps, bias.astype(self.dtype))


def identity_init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
  """A depthwise kernel (t, h, w, 1, C) that returns its input: 1 in the centre."""
  del key
  centre = tuple(size // 2 for size in shape[:3])
  return jnp.zeros(shape, dtype).at[centre].set(1.0)


class DynamicPositions(nn.Module):
  """The depthwise 3 x 3 x 3 convolution of DPE (Eq. 8), without its residual.

  Attributes:
    grid: (T, h, w) that tokens [B, T, S, C] lie on.
  """

  grid: tuple[int, int, int]
  kernel_init: layers.Initializer = uniform(27)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    width = x.shape[-1]
    init = layers.partitioned(self.kernel_init, None, None, None, None, 'embed')
    kernel = self.param('kernel', init, (3, 3, 3, 1, width))
    bias = self.param('bias', layers.partitioned(nn.initializers.zeros, 'embed'), (width,))
    maps = x.reshape(x.shape[0], *self.grid, width)  # [B, T, h, w, C]
    maps = depthwise(maps, kernel.astype(self.dtype), (1, 1, 1)) + bias.astype(self.dtype)
    return maps.reshape(x.shape)


class LocalMHRA(nn.Module):
  """Local temporal relations (Eq. 4-6) as the released code has them, or ST-Adapter's, without residual.

  BatchNorm, a linear layer to fewer channels, a depthwise convolution over three frames, a linear layer
  back; no activation. Frames beyond the clip are zeros after the first layer's bias.

  Attributes:
    hidden_size: channels between the linear layers.
    adapter: without BatchNorm, and the convolution is zero at first, not the last layer (the released
      code of ST-Adapter, arXiv:2206.13559; its paper has an activation after the convolution).
  """

  hidden_size: int
  adapter: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[B, T, S, C] -> the same shape."""
    width, zeros = x.shape[-1], nn.initializers.zeros
    if not self.adapter:
      x = BatchNorm(dtype=self.dtype, name='norm')(x, train=train)
    x = self._dense('Dense_0', self.hidden_size, ('embed', None), uniform(width), uniform(width))(x)
    x = TemporalConvolution(
      kernel_init=zeros if self.adapter else uniform(3),
      bias_init=zeros if self.adapter else uniform(3),
      dtype=self.dtype,
      name='convolution',
    )(x)
    out_init = uniform(self.hidden_size) if self.adapter else zeros
    return self._dense('Dense_1', width, (None, 'embed'), out_init, zeros)(x)

  def _dense(
    self,
    name: str,
    features: int,
    axes: tuple[str | None, str | None],
    kernel_init: layers.Initializer,
    bias_init: layers.Initializer,
  ) -> nn.Dense:
    return nn.Dense(
      features,
      kernel_init=layers.partitioned(kernel_init, *axes),
      bias_init=layers.partitioned(bias_init, axes[1]),
      dtype=self.dtype,
      name=name,
    )


class Local(layers.EncoderBlock):
  """`LocalMHRA` before attention and, the second time, after it (Table 9b, 'x2').

  Attributes:
    relations: makes a `LocalMHRA`; called with `name`.
    repeats: 1 or 2.
    positions: makes `DynamicPositions`, added before the first; called with `name`.
  """

  relations: Callable[..., nn.Module] = LocalMHRA
  repeats: int = 1
  positions: Callable[..., nn.Module] | None = None

  def mix(self, inputs: jax.Array, mask: jax.Array | None, train: bool) -> jax.Array:
    x = inputs
    if self.positions is not None:
      x = add_to_patches(x, self.positions(name='local_dpe')(patches(x)))
    x = self._relate('local_0', x, train)
    x = super().mix(x, mask, train)
    return self._relate('local_1', x, train) if self.repeats == 2 else x

  def _relate(self, name: str, x: jax.Array, train: bool) -> jax.Array:
    branch = self.relations(name=name)(patches(x), train=train)
    return add_to_patches(x, self.drop(f'drop_{name}', branch, train))


class Convolution(layers.EncoderBlock):
  """A depthwise temporal convolution of the patch tokens before attention, the identity at first."""

  def mix(self, inputs: jax.Array, mask: jax.Array | None, train: bool) -> jax.Array:
    convolution = TemporalConvolution(identity_init, dtype=self.dtype, name='temporal_convolution')
    x = jnp.concatenate([inputs[:, :, :1], convolution(patches(inputs))], axis=2)
    return super().mix(x, mask, train)


def shifted(x: jax.Array) -> jax.Array:
  """[B, T, S, C] whose first eighth of channels is from the next frame, the second from the last.

  Temporal Shift Module (arXiv:1811.08383); beyond the clip are zeros.
  """
  part = x.shape[-1] // 8
  ahead = jnp.pad(x[:, 1:, :, :part], ((0, 0), (0, 1), (0, 0), (0, 0)))
  behind = jnp.pad(x[:, :-1, :, part : 2 * part], ((0, 0), (1, 0), (0, 0), (0, 0)))
  return jnp.concatenate([ahead, behind, x[..., 2 * part :]], axis=-1)


class Shift(layers.EncoderBlock):
  """Attention sees patch tokens with channels shifted along time; the residual path does not."""

  def mix(self, inputs: jax.Array, mask: jax.Array | None, train: bool) -> jax.Array:
    x = jnp.concatenate([inputs[:, :, :1], shifted(patches(inputs))], axis=2)
    return inputs + self.attend(x, mask, train)


class Divided(layers.EncoderBlock):
  """Attention of the patch tokens along time at each place, then attention in each frame (TimeSformer)."""

  def mix(self, inputs: jax.Array, mask: jax.Array | None, train: bool) -> jax.Array:
    x = self.norm('temporal_norm')(patches(inputs)).swapaxes(1, 2)  # [B, S, T, C]
    x = layers.MultiHeadAttention(
      num_heads=self.num_heads,
      dropout_rate=self.attention_dropout_rate,
      out_kernel_init=nn.initializers.zeros,
      attention=self.attention,
      dtype=self.dtype,
      name='temporal_attention',
    )(x, train=train).swapaxes(1, 2)
    x = nn.Dropout(self.dropout_rate, name='temporal_dropout')(x, deterministic=not train)
    x = add_to_patches(inputs, self.drop('drop_temporal', x, train))
    return super().mix(x, mask, train)


class Joint(layers.EncoderBlock):
  """Attention among the tokens of all frames, with the weights of the image ViT."""

  def attend(self, inputs: jax.Array, mask: jax.Array | None, train: bool) -> jax.Array:
    joined = inputs.reshape(inputs.shape[0], -1, inputs.shape[-1])  # [B, T*(1+S), C]
    return super().attend(joined, mask, train).reshape(inputs.shape)


# `temporal_module` -> the block that has it.
BLOCKS: Mapping[str, type[layers.EncoderBlock]] = {
  'local_mhra': Local,
  'st_adapter': Local,
  'convolution': Convolution,
  'shift': Shift,
  'attention': Divided,
  'joint': Joint,
}


class FrameEncoder(nn.Module):
  """Positions and the blocks of the image ViT.

  Attributes:
    blocks: makes each block; called with `stochastic_depth_rate` and `name`.
    positions: makes the table of a frame; called with `name`.
    pre_norm: after it, a module of the trunk; None: none.
    dropout_rate: after that.
    stochastic_depth_rate: of the last block; grows linearly with depth.
    remat: see `layers.Encoder`.
  """

  blocks: tuple[functools.partial, ...]
  positions: Callable[..., nn.Module]
  pre_norm: nn.Module | None
  dropout_rate: float
  stochastic_depth_rate: float
  remat: str

  @nn.compact
  def __call__(self, inputs: jax.Array, *, train: bool) -> list[jax.Array]:
    """[B, T, 1 + S, C] -> the output of each block, of the same shape."""

    def call(block: nn.Module, x: jax.Array) -> jax.Array:
      return block(x, train=train)

    call = layers.recomputing(call, self.remat)
    x = self.positions(name='posembed_input')(inputs)
    x = x if self.pre_norm is None else self.pre_norm(x)
    x = nn.Dropout(self.dropout_rate, name='dropout')(split_batch(x), deterministic=not train)
    rates = layers.stochastic_depth_rates(self.stochastic_depth_rate, len(self.blocks))
    outputs = []
    for i, (block, rate) in enumerate(zip(self.blocks, rates)):
      x = split_batch(call(block(stochastic_depth_rate=rate, name=f'encoderblock_{i}'), x))
      outputs.append(x)
    return outputs
