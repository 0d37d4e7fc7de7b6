"""TubeViT: a ViT of images and videos; tokens are sparse video tubes (supplement, Table 3)."""

import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from errors import ConfigError
from models import layers
from models.attention import KERNELS, dot_product_attention
from models.features import Features
from projects.tubevit import positions
from projects.tubevit.tokenising import INTERPOLATIONS, TubeEmbedding, patch_kernel
from projects.tubevit.tubes import Size, Tube, token_boxes, token_grids

_CHOICES = {
  'pooling': ('token', 'mean', 'attention'),
  'interpolation': tuple(INTERPOLATIONS),
  'attention_kernel': KERNELS,
  'gelu': tuple(layers.ACTIVATIONS),
  'remat': tuple(layers.REMAT_POLICIES),
}


class FixedPositions(nn.Module):
  """Adds a constant to tokens [B, N, C].

  Attributes:
    table: float32 [N, C].
  """

  table: np.ndarray

  def __call__(self, inputs: jax.Array) -> jax.Array:
    return inputs + jnp.asarray(self.table, inputs.dtype)


class TubeViT(nn.Module):
  """Trunk of images and videos: an image is a clip of one frame.

  Tokens are the tubes' by name, each tube's in (t, h, w) order. Of an image, only tubes that fit
  one frame make tokens, but all parameters exist whatever they are initialised on. The position of
  a token is fixed, in frames and pixels, so that inputs of all lengths and sizes share it; that of
  the class token is zeros.

  Attributes:
    hidden_size, num_layers, num_heads, mlp_dim: of the ViT; its sizes are in `configs.common`.
    tubes: by name; the parameters of `tubes['x']` are `tube_x/{kernel,bias}`.
    pooling: 'token' (class token), 'mean', without one, or 'attention': the sum of all tokens, the
      class token's too, weighted by the softmax of a linear layer of each (the public
      implementation).
    shared_kernel: (t, h, w) of one kernel, the parameter `shared_kernel`, that every tube's is
      interpolated from; its biases are the tubes' own. The public implementation's tokeniser. None:
      each tube has its own.
    interpolation: of a kernel to another shape, in each forward pass, one of `INTERPOLATIONS`.
    attention_kernel: 'auto', 'xla' or 'fused'; see `models.attention.dot_product_attention`.
    stochastic_depth_rate: of the last layer; grows linearly with depth.
    gelu, layer_norm_epsilon: 'tanh' and 1e-6 as in `ViViT`; the public implementation has 'erf'.
    remat, scan_layers: see `layers.Encoder`.
    dtype: compute dtype; parameters are float32, and kernels are interpolated in it.
  """

  hidden_size: int
  num_layers: int
  num_heads: int
  mlp_dim: int
  tubes: Mapping[str, Tube]
  pooling: str = 'token'
  shared_kernel: Size | None = None
  interpolation: str = 'keep_sum'
  attention_kernel: str = 'auto'
  dropout_rate: float = 0.0
  attention_dropout_rate: float = 0.0
  stochastic_depth_rate: float = 0.0
  gelu: str = 'tanh'
  layer_norm_epsilon: float = 1e-6
  remat: str = 'none'
  scan_layers: bool = False
  dtype: Any = jnp.float32

  def __post_init__(self) -> None:
    _check(self)
    super().__post_init__()

  @nn.compact
  def __call__(self, video: jax.Array, *, train: bool) -> Features:
    """Turns video [B, T, H, W, 3], floats zero-centred in [-1, 1], into `Features` without a grid.

    Raises:
      ConfigError: a tube is larger than the video, or it is an image and no tube fits one frame.
    """
    grids = token_grids(self.tubes, video.shape[1:4])
    tokens = self._tokens(video.astype(self.dtype), grids)
    table = self._positions(grids)
    if self.pooling != 'mean':
      tokens = layers.prepend_class_token(self, 'cls', tokens)
      table = np.pad(table, ((1, 0), (0, 0)))
    tokens = self._encoder(table)(tokens, train=train)
    if self.pooling == 'mean':
      return Features(tokens=tokens, pooled=tokens.mean(axis=1), grid=None)
    pooled = tokens[:, 0] if self.pooling == 'token' else self._attention_pooling(tokens)
    return Features(tokens=tokens[:, 1:], pooled=pooled, grid=None)

  def grid(self, input_shape: Sequence[int]) -> None:
    """None, as tokens lie on no one grid; `input_shape` is that of a video [..., T, H, W, 3].

    Raises:
      ConfigError: as calling the trunk on it would.
    """
    token_grids(self.tubes, input_shape[-4:-1])

  def stages(self, input_shape: Sequence[int]) -> list[tuple[str, int, int]]:
    """(name, 1, tokens) of the encoder, with the class token; raises ConfigError as `grid`."""
    count = sum(tokens for _, tokens, _ in self.tokenisers(input_shape))
    return [('Transformer', 1, count + (self.pooling != 'mean'))]

  def tokenisers(self, input_shape: Sequence[int]) -> list[tuple[str, int, int]]:
    """(name, tokens, parameters) of what makes tokens of a video; raises ConfigError as `grid`."""
    grids = token_grids(self.tubes, input_shape[-4:-1])
    shared = self.shared_kernel and math.prod(self.shared_kernel) * 3 * self.hidden_size
    rows = [('shared_kernel', 0, shared)] if shared else []
    for name, tube in sorted(self.tubes.items()):
      channels = self.hidden_size // tube.parts
      kernel = 0 if shared else math.prod(tube.learned) * 3 * channels
      rows.append((f'tube_{name}', math.prod(grids.get(name, (0,))), kernel + channels))
    return rows

  def depths(self) -> list[tuple[str, ...]]:
    """Beginnings of parameters' paths by depth: of what makes the tokens, then of every block."""
    tokens = ('cls', 'shared_kernel', *(f'tube_{name}' for name in sorted(self.tubes)))
    return [tokens, *layers.block_paths('Transformer', self.num_layers)]

  def token_boxes(self, input_shape: Sequence[int]) -> np.ndarray:
    """Begin and end of each token of a video in frames and px, int [N, 2, 3]; raises as `grid`."""
    return token_boxes(self.tubes, input_shape[-4:-1])

  def _tokens(self, video: jax.Array, grids: Mapping[str, Size]) -> jax.Array:
    """[B, T, H, W, 3] -> [B, N, C]."""
    shared = None
    if self.shared_kernel is not None:
      shared = patch_kernel(self, 'shared_kernel', self.shared_kernel, self.hidden_size)
    parts = []
    for name, tube in sorted(self.tubes.items()):
      embedding = TubeEmbedding(
        features=self.hidden_size // tube.parts,
        tube=tube,
        interpolation=self.interpolation,
        dtype=self.dtype,
        name=f'tube_{name}',
      )
      parts.append(embedding(video, grids.get(name), shared))
    return jnp.concatenate([part for part in parts if part is not None], axis=1)

  def _positions(self, grids: Mapping[str, Size]) -> np.ndarray:
    centres = [self.tubes[name].centres(grid) for name, grid in grids.items()]
    return positions.table(np.concatenate(centres), self.hidden_size)

  def _encoder(self, table: np.ndarray) -> layers.Encoder:
    block = functools.partial(
      layers.EncoderBlock,
      num_heads=self.num_heads,
      mlp_dim=self.mlp_dim,
      dropout_rate=self.dropout_rate,
      attention_dropout_rate=self.attention_dropout_rate,
      gelu=self.gelu,
      layer_norm_epsilon=self.layer_norm_epsilon,
      attention=functools.partial(dot_product_attention, kernel=self.attention_kernel),
      dtype=self.dtype,
    )
    return layers.Encoder(
      num_layers=self.num_layers,
      block=block,
      positions=functools.partial(FixedPositions, table),
      dropout_rate=self.dropout_rate,
      stochastic_depth_rate=self.stochastic_depth_rate,
      layer_norm_epsilon=self.layer_norm_epsilon,
      remat=self.remat,
      scan_layers=self.scan_layers,
      dtype=self.dtype,
      name='Transformer',
    )

  def _attention_pooling(self, tokens: jax.Array) -> jax.Array:
    """[B, N, C] -> [B, C]."""
    scores = nn.Dense(
      1,
      kernel_init=layers.partitioned(nn.initializers.lecun_normal(), 'embed', None),
      bias_init=layers.partitioned(nn.initializers.zeros, None),
      dtype=jnp.float32,
      name='attention_pooling',
    )(tokens)
    weights = nn.softmax(scores, axis=1).astype(tokens.dtype)
    return jnp.sum(weights * tokens, axis=1)


def _check(trunk: TubeViT) -> None:
  """Raises ConfigError for attributes that are out of range or contradict each other."""
  layers.check_choices(trunk, _CHOICES)
  layers.check_encoder(trunk, least_width=6)  # Of the positions.
  _check_tubes(trunk)


def _check_tubes(trunk: TubeViT) -> None:
  if not trunk.tubes:
    raise ConfigError(
      'trunk.tubes is empty, so that there are no tokens: name at least one tube, as those of '
      'configs/tubevit/trunks.py.'
    )
  if unfit := sorted(name for name in trunk.tubes if not re.fullmatch(r'\w+', name)):
    raise ConfigError(
      f'trunk.tubes has the names {unfit}: expected letters, digits and underscores alone, as '
      'parameters are called tube_NAME; rename them.'
    )
  shared = trunk.shared_kernel
  if shared is not None and (len(shared) != 3 or min(shared) < 1):
    raise ConfigError(f'trunk.shared_kernel={shared}: expected (t, h, w), each at least 1.')
  for name, tube in sorted(trunk.tubes.items()):
    path = f'trunk.tubes.{name}.space_to_depth={tube.space_to_depth}'
    if trunk.hidden_size % tube.parts:
      raise ConfigError(
        f'{path} makes a token of {tube.parts} parts, which do not divide trunk.hidden_size='
        f'{trunk.hidden_size}: expected a multiple of {tube.parts}; change one of them.'
      )
    if shared is not None and tube.parts > 1:
      raise ConfigError(
        f'{path}: trunk.shared_kernel gives all channels at once. Set the one to (1, 1, 1), or the '
        'other to None.'
      )
