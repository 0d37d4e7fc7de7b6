"""ViViT: A Video Vision Transformer (Arnab et al., ICCV 2021), all four models in one trunk.

An image ViT is the same module with attention='spacetime', a tubelet of (1, p, p) and one frame.
Parameter paths are Scenic's; its `output_projection` and `pre_logits` live in `models.heads`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from errors import ConfigError
from models import layers
from models.attention import KERNELS, dot_product_attention
from models.features import Features

_CHOICES = {
  'attention': (
    'spacetime',  # Model 1
    'factorised_encoder',  # Model 2; with temporal_num_layers=0 the average-pooling baseline
    'factorised_self_attention',  # Model 3
    'factorised_dot_product',  # Model 4
  ),
  'attention_kernel': KERNELS,
  'attention_order': ('space_time', 'time_space'),
  'pooling': ('token', 'mean'),
  'pooling_norm': ('before', 'after'),
  'tokeniser': ('tubelet', 'uniform_frames'),
  'kernel_init_method': ('lecun_normal', 'central_frame'),
  'temporal_attention_init': ('zeros', 'zeros_all', 'default'),
  'temporal_context': ('none', 'frame', 'position'),
  'gelu': tuple(layers.ACTIVATIONS),
  'remat': tuple(layers.REMAT_POLICIES),
}

# The axes of (nt, nh, nw) that each encoder's tokens lie on.
_AXES = {
  'Transformer': slice(0, 3),
  'SpatialTransformer': slice(1, 3),
  'TemporalTransformer': slice(0, 1),
}


def uniform_frame_indices(num_frames: int, num_sampled: int) -> np.ndarray:
  """Frames round(k * T / (n + 1)), k = 1..n, halves to even; all T if n >= T (ViViT sec. 3.2)."""
  if num_sampled >= num_frames:
    return np.arange(num_frames)
  ticks = np.arange(1, num_sampled + 1) * num_frames / (num_sampled + 1)
  return np.round(ticks).astype(np.int64)


def central_frame_init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
  """A LeCun-normal 2-D kernel at time index t // 2 of (t, h, w, C_in, C_out), zeros elsewhere.

  DEVIATION: Scenic's from-scratch initialiser zeroes along the width axis; this is the time axis,
  as in ViViT Eq. 9.
  """
  frame = nn.initializers.lecun_normal()(key, tuple(shape[1:]), dtype)
  return jnp.zeros(shape, dtype).at[shape[0] // 2].set(frame)


def factorised_dot_product_attention(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  *,
  num_frames: int,
  mask: jax.Array | None = None,
  dropout_rate: float = 0.0,
  deterministic: bool = True,
  dropout_rng: jax.Array | None = None,
  kernel: str = 'auto',
) -> jax.Array:
  """Model 4: the first half of the heads attends over time, the second over space (sec. 3.3).

  Arguments and result as `dot_product_attention` with N = num_frames * nh * nw; `mask` must
  be None.
  """
  if mask is not None:
    raise ValueError('Factorised dot-product attention has no one (N, N) attention map to mask.')
  heads = query.shape[-2] // 2
  options = {'dropout_rate': dropout_rate, 'deterministic': deterministic, 'kernel': kernel}
  rngs = (None, None) if dropout_rng is None else jax.random.split(dropout_rng)
  grids = [
    einops.rearrange(x, '... (t s) h d -> ... t s h d', t=num_frames) for x in (query, key, value)
  ]
  over_time = dot_product_attention(
    *(x[..., :heads, :].swapaxes(-4, -3) for x in grids), dropout_rng=rngs[0], **options
  ).swapaxes(-4, -3)  # [B, T, S, H/2, D]
  over_space = dot_product_attention(
    *(x[..., heads:, :] for x in grids), dropout_rng=rngs[1], **options
  )
  return jnp.concatenate([over_time, over_space], axis=-2).reshape(query.shape)


class FactorisedSelfAttentionBlock(nn.Module):
  """Model 3: attention over one axis, then over the other, then the MLP (ViViT Eq. 4-6).

  DEVIATION: stochastic depth applies to all three branches; Scenic ignores the setting in Model 3.

  Attributes:
    num_frames: nt; inputs are [B, nt * nh * nw, C].
    attention_order: 'space_time' (paper) or 'time_space' (Scenic's default).
    temporal_attention_init: see `ViViT`.
  """

  num_frames: int
  num_heads: int
  mlp_dim: int
  attention_order: str
  temporal_attention_init: str
  dropout_rate: float = 0.0
  attention_dropout_rate: float = 0.0
  stochastic_depth_rate: float | jax.Array = 0.0
  gelu: str = 'tanh'
  layer_norm_epsilon: float = 1e-6
  attention: Callable[..., jax.Array] = dot_product_attention
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, inputs: jax.Array, *, mask: jax.Array | None = None, train: bool) -> jax.Array:
    """[B, T*S, C] -> [B, T*S, C]; `mask` must be None."""
    if mask is not None:
      raise ValueError('Factorised self-attention has no one (N, N) attention map to mask.')
    x = einops.rearrange(inputs, 'b (t s) c -> b t s c', t=self.num_frames)
    for axis in self.attention_order.split('_'):
      x = x + self._drop(axis, self._attend(axis, x, train), train)
    y = self._norm('LayerNorm_mlp')(x)
    y = layers.Mlp(self.mlp_dim, self.dropout_rate, self.gelu, self.dtype, name='MlpBlock')(
      y, train=train
    )
    return (x + self._drop('mlp', y, train)).reshape(inputs.shape)  # [B, T*S, C]

  def _attend(self, axis: str, x: jax.Array, train: bool) -> jax.Array:
    x = self._norm(f'LayerNorm_{axis}')(x)
    attention = layers.MultiHeadAttention(
      num_heads=self.num_heads,
      dropout_rate=self.attention_dropout_rate,
      attention=self.attention,
      dtype=self.dtype,
      name=f'MultiHeadDotProductAttention_{axis}',
      **(self._temporal_init() if axis == 'time' else {}),
    )
    if axis == 'time':
      x = attention(x.swapaxes(1, 2), train=train).swapaxes(1, 2)  # over T of [B, S, T, C]
    else:
      x = attention(x, train=train)  # over S of [B, T, S, C]
    return nn.Dropout(self.dropout_rate, name=f'dropout_{axis}')(x, deterministic=not train)

  def _temporal_init(self) -> dict[str, Any]:
    zeros = nn.initializers.zeros
    return {
      'default': {},
      'zeros': {'out_kernel_init': zeros},
      'zeros_all': {'out_kernel_init': zeros, 'kernel_init': zeros},
    }[self.temporal_attention_init]

  def _norm(self, name: str) -> nn.LayerNorm:
    return layers.layer_norm(name, epsilon=self.layer_norm_epsilon, dtype=self.dtype)

  def _drop(self, name: str, branch: jax.Array, train: bool) -> jax.Array:
    drop = layers.StochasticDepth(self.stochastic_depth_rate, name=f'drop_{name}')
    return drop(branch, train=train)


class ViViT(nn.Module):
  """Video trunk of ViViT sections 3.2-3.4.

  Attributes:
    hidden_size, num_layers, num_heads, mlp_dim: of the encoder (Model 2: of the spatial encoder);
      the sizes of the image ViTs are in `configs.common`.
    tubelet: (t, h, w) in frames and pixels; t must be 1 for 'uniform_frames'.
    attention: 'spacetime' (Model 1), 'factorised_encoder' (2), 'factorised_self_attention' (3) or
      'factorised_dot_product' (4).
    pooling: 'token' (class token) or 'mean'; Models 3 and 4 have no class token.
    temporal_num_layers: required by Model 2, otherwise None; 0 is the average-pooling baseline.
    temporal_num_heads, temporal_mlp_dim: of Model 2's temporal encoder; None = as the spatial one.
    temporal_context: what Model 2's tokens know of time beyond their tubelet. Its temporal encoder sees
      one token a frame, so with 'none' (Scenic's) a head that reads tokens, of boxes or by their
      mean, neither uses it nor trains it. 'frame' adds the temporal encoder's output for a frame to
      each of the frame's tokens, at next to no cost: a box then has what is in it and what happens around
      it. 'position' runs the temporal encoder along time at every place of the grid as well, with the
      same parameters, and its output are the tokens: each has seen its own place at all times, for
      nh * nw times the temporal encoder's work.
    position_grid: (nt, nh, nw) that the position tables are for; None = that of the input. If clips
      differ in frames or size, the tables are resized for those with another grid; see
      `layers.PositionEmbedding`. Model 1's, 3's and 4's one table is resized in three dimensions.
    attention_kernel: 'auto', 'xla' or 'fused'; see `models.attention.dot_product_attention`.
    attention_order: of Model 3; 'space_time' is the paper's Eq. 4-6. DEVIATION: Scenic's default is
      'time_space'.
    temporal_attention_init: of Model 3's temporal attention. 'zeros' zeroes the output projection
      only, so that Eq. 5 is the identity at first and everything trains. DEVIATION: the paper
      (sec. 3.4) zeroes "all weights"; with 'zeros_all', which does that, queries, keys, values and
      the output kernel receive no gradient, ever: only the output bias trains. 'default' draws them
      like every other attention.
    tokeniser: 'tubelet' or 'uniform_frames', 2-D patches on `num_sampled_frames` frames.
    pooling_norm: 'before' (the encoder ends in `encoder_norm`) or 'after': no `encoder_norm`, the
      mean passes through `fc_norm` instead (some timm ViTs); only with 'mean', not with Model 2.
    kernel_init_method: of a tubelet kernel from scratch: 'lecun_normal' (Linen's default) or
      'central_frame'.
    stochastic_depth_rate: of the last layer; grows linearly with depth, in each encoder.
    gelu, layer_norm_epsilon: 'tanh' and 1e-6 as in Scenic; other checkpoints need 'erf' or 1e-12.
    remat, scan_layers: see `layers.Encoder`; of every encoder. They change memory and compile time.
    dtype: compute dtype; parameters are float32.
  """

  hidden_size: int
  num_layers: int
  num_heads: int
  mlp_dim: int
  tubelet: tuple[int, int, int]
  attention: str
  pooling: str
  temporal_num_layers: int | None = None
  temporal_num_heads: int | None = None
  temporal_mlp_dim: int | None = None
  temporal_context: str = 'none'
  position_grid: tuple[int, int, int] | None = None
  attention_kernel: str = 'auto'
  attention_order: str = 'space_time'
  temporal_attention_init: str = 'zeros'
  tokeniser: str = 'tubelet'
  num_sampled_frames: int | None = None
  pooling_norm: str = 'before'
  kernel_init_method: str = 'lecun_normal'
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
    """Turns video [B, T, H, W, 3], floats zero-centred in [-1, 1], into `Features`.

    The video may come as its tubelets, [B, nt, nh, nw, t*h*w*3].

    Raises:
      ConfigError: T, H or W is not divisible by the tubelet, `uniform_frames` was given tubelets, or
        the position tables in the parameters are for another grid.
    """
    grid = self.grid(video.shape)
    tokens = self._tokenise(video.astype(self.dtype))  # [B, nt, nh, nw, C]
    if self.attention == 'factorised_encoder':
      tokens, pooled = self._factorised_encoder(tokens, train)
    else:
      tokens = einops.rearrange(tokens, 'b t h w c -> b (t h w) c')
      tokens, pooled = self._encode('Transformer', tokens, grid, self._block(grid[0]), train)
    return Features(tokens=tokens, pooled=pooled, grid=grid)

  def grid(self, input_shape: Sequence[int]) -> tuple[int, int, int]:
    """(nt, nh, nw) tokens for a video of shape [..., T, H, W, 3] or [..., nt, nh, nw, t*h*w*3].

    Raises:
      ConfigError: a size is not divisible by the tubelet (DEVIATION: Scenic cuts the rest off), or
        `uniform_frames` was given tubelets.
    """
    if input_shape[-1] != 3:
      if self.tokeniser == 'uniform_frames':
        raise ConfigError("trunk.tokeniser='uniform_frames' takes frames: unset `host_patches`.")
      return tuple(input_shape[-4:-1])
    frames, height, width = input_shape[-4:-1]
    if self.tokeniser == 'uniform_frames':
      frames = min(frames, self.num_sampled_frames)
    sizes, tubelet = (frames, height, width), tuple(self.tubelet)
    if any(size % step or size < step for size, step in zip(sizes, tubelet)):
      raise ConfigError(
        f'trunk.tubelet: (t, h, w) = {tubelet} does not divide the input (T, H, W) = {sizes}; '
        'change the tubelet, the number of frames or the crop size.'
      )
    return tuple(size // step for size, step in zip(sizes, tubelet))

  def stages(self, input_shape: Sequence[int]) -> list[tuple[str, int, int]]:
    """(name, sequences per clip, tokens per sequence) of each kind of attention, without params.

    Class tokens count; Model 4 runs both of its stages with half of the heads each.
    """
    frames, height, width = self.grid(input_shape)
    cls, space = int(self.pooling == 'token'), height * width
    if self.attention == 'spacetime':
      return [('Transformer', 1, frames * space + cls)]
    if self.attention == 'factorised_encoder':
      sequences = 1 + space if self.temporal_context == 'position' else 1
      temporal = [('TemporalTransformer', sequences, frames + cls)]
      temporal = temporal if self.temporal_num_layers else []
      return [('SpatialTransformer', frames, space + cls), *temporal]
    return [('Transformer/space', frames, space), ('Transformer/time', space, frames)]

  def depths(self) -> list[tuple[str, ...]]:
    """Beginnings of parameters' paths by depth: of what makes the tokens, then of every block."""
    if self.attention != 'factorised_encoder':
      tokens = ('embedding', 'cls', 'Transformer/posembed_input')
      return [tokens, *layers.block_paths('Transformer', self.num_layers)]
    tokens = ('embedding', 'cls_SpatialTransformer', 'SpatialTransformer/posembed_input')
    depths = [tokens, *layers.block_paths('SpatialTransformer', self.num_layers)]
    if self.temporal_num_layers:  # What stands between the encoders is as deep as the block before.
      depths[-1] += ('SpatialTransformer/encoder_norm', 'cls_TemporalTransformer')
      depths[-1] += ('TemporalTransformer/posembed_input',)
      depths += layers.block_paths('TemporalTransformer', self.temporal_num_layers)
    return depths

  def _tokenise(self, video: jax.Array) -> jax.Array:
    """[B, T, H, W, 3], or patches of it, to tokens [B, nt, nh, nw, C]."""
    tubelet = tuple(self.tubelet)
    if self.tokeniser == 'uniform_frames':
      video = video[:, uniform_frame_indices(video.shape[1], self.num_sampled_frames)]
    init = nn.initializers.lecun_normal()
    if self.kernel_init_method == 'central_frame':
      init = central_frame_init
    if video.shape[-1] == 3:
      video = layers.cut_patches(video, tubelet)
    return layers.PatchEmbedding(
      features=self.hidden_size,
      patch=tubelet[1:] if self.tokeniser == 'uniform_frames' else tubelet,
      kernel_init=init,
      dtype=self.dtype,
      name='embedding',
    )(video)

  def _factorised_encoder(self, tokens: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
    """Model 2: a spatial encoder on each frame, then a temporal one on their representations.

    DEVIATION: frames draw independent dropout masks (Scenic's vmap shares one over the clip);
    stochastic depth decides per clip, as its frames are one example.
    """
    grid = tokens.shape[1:4]
    tokens = einops.rearrange(tokens, 'b t h w c -> b t (h w) c')
    tokens, pooled = self._encode(
      'SpatialTransformer', tokens, grid, self._block(1), train
    )  # [B, T, S, C], [B, T, C]
    if self.temporal_num_layers:
      tokens, pooled = self._temporal_encoder(tokens, pooled, grid, train)
    else:
      pooled = pooled.mean(axis=1)
    return einops.rearrange(tokens, 'b t s c -> b (t s) c'), pooled

  def _temporal_encoder(
    self, tokens: jax.Array, frames: jax.Array, grid: tuple[int, int, int], train: bool
  ) -> tuple[jax.Array, jax.Array]:
    """tokens [B, T, S, C], frames [B, T, C] -> tokens with `temporal_context`, and pooled [B, C]."""
    block = functools.partial(
      self._block(1),
      num_heads=self.temporal_num_heads or self.num_heads,
      mlp_dim=self.temporal_mlp_dim or self.mlp_dim,
    )
    if self.temporal_context == 'position':
      # The frames' representations are one more sequence beside those of the places.
      sequences = jnp.concatenate([frames[:, None], tokens.swapaxes(1, 2)], axis=1)
      sequences, pooled = self._encode('TemporalTransformer', sequences, grid, block, train)
      return sequences[:, 1:].swapaxes(1, 2), pooled[:, 0]
    context, pooled = self._encode('TemporalTransformer', frames, grid, block, train)
    if self.temporal_context == 'frame':
      tokens = tokens + context[:, :, None]
    return tokens, pooled

  def _encode(
    self,
    name: str,
    tokens: jax.Array,
    grid: tuple[int, int, int],
    block: functools.partial,
    train: bool,
  ) -> tuple[jax.Array, jax.Array]:
    """[..., N, C] -> the encoder's tokens [..., N, C] without class token, and pooled [..., C]."""
    temporal = name == 'TemporalTransformer'
    if self.pooling == 'token':
      cls = 'cls' if name == 'Transformer' else f'cls_{name}'
      tokens = layers.prepend_class_token(self, cls, tokens)
    tokens = layers.Encoder(
      num_layers=self.temporal_num_layers if temporal else self.num_layers,
      block=block,
      positions=functools.partial(
        layers.PositionEmbedding,
        grid=grid[_AXES[name]],
        table_grid=tuple(self.position_grid or grid)[_AXES[name]],
      ),
      dropout_rate=self.dropout_rate,
      stochastic_depth_rate=self.stochastic_depth_rate,
      layer_norm_epsilon=self.layer_norm_epsilon,
      final_norm=self.pooling_norm == 'before',
      remat=self.remat,
      scan_layers=self.scan_layers,
      dtype=self.dtype,
      name=name,
    )(tokens, train=train)
    if self.pooling == 'token':
      return tokens[..., 1:, :], tokens[..., 0, :]
    pooled = tokens.mean(axis=-2)
    if self.pooling_norm == 'after':
      norm = layers.layer_norm('fc_norm', epsilon=self.layer_norm_epsilon, dtype=self.dtype)
      pooled = norm(pooled)
    return tokens, pooled

  def _block(self, num_frames: int) -> functools.partial:
    """The block class with everything set that is the same in each layer."""
    common = {
      'num_heads': self.num_heads,
      'mlp_dim': self.mlp_dim,
      'dropout_rate': self.dropout_rate,
      'attention_dropout_rate': self.attention_dropout_rate,
      'gelu': self.gelu,
      'layer_norm_epsilon': self.layer_norm_epsilon,
      'attention': functools.partial(dot_product_attention, kernel=self.attention_kernel),
      'dtype': self.dtype,
    }
    if self.attention == 'factorised_self_attention':
      return functools.partial(
        FactorisedSelfAttentionBlock,
        num_frames=num_frames,
        attention_order=self.attention_order,
        temporal_attention_init=self.temporal_attention_init,
        **common,
      )
    if self.attention == 'factorised_dot_product':
      common['attention'] = functools.partial(
        factorised_dot_product_attention, num_frames=num_frames, kernel=self.attention_kernel
      )
    return functools.partial(layers.EncoderBlock, **common)


def _check(trunk: ViViT) -> None:
  """Raises ConfigError for attributes that are out of range or contradict each other."""
  layers.check_choices(trunk, _CHOICES)
  layers.check_encoder(trunk)
  if len(trunk.tubelet) != 3 or min(trunk.tubelet) < 1:
    raise ConfigError(f'trunk.tubelet={trunk.tubelet}: expected (t, h, w), each at least 1.')
  positions = trunk.position_grid
  if positions is not None and (len(positions) != 3 or min(positions) < 1):
    raise ConfigError(f'trunk.position_grid={positions}: expected (nt, nh, nw), each at least 1.')
  for message in _contradictions(trunk):
    raise ConfigError(message)


def _contradictions(trunk: ViViT) -> list[str]:
  attention, tokens = trunk.attention, trunk.pooling == 'token'
  factorised_encoder = attention == 'factorised_encoder'
  uniform = trunk.tokeniser == 'uniform_frames'
  temporal = [trunk.temporal_num_layers, trunk.temporal_num_heads, trunk.temporal_mlp_dim]
  central = trunk.kernel_init_method == 'central_frame'
  checks = {
    f"trunk.pooling='token': {attention!r} has no class token; set 'mean'.": (
      tokens and attention in ('factorised_self_attention', 'factorised_dot_product')
    ),
    f'trunk.num_heads={trunk.num_heads}: {attention!r} halves the heads; set an even number.': (
      attention == 'factorised_dot_product' and trunk.num_heads % 2 == 1
    ),
    "trunk.temporal_num_layers=None: 'factorised_encoder' needs it; 0 is the average-pool "
    'baseline.': factorised_encoder and trunk.temporal_num_layers is None,
    f'trunk.temporal_{{num_layers,num_heads,mlp_dim}}={temporal}: {attention!r} has no temporal '
    'encoder; leave them None.': not factorised_encoder and any(x is not None for x in temporal),
    f"trunk.temporal_context={trunk.temporal_context!r} needs attention='factorised_encoder' with "
    "temporal_num_layers of at least 1; set 'none'.": (
      trunk.temporal_context != 'none' and not trunk.temporal_num_layers
    ),
    "trunk.pooling_norm='after' needs pooling='mean' and one encoder.": (
      trunk.pooling_norm == 'after' and (tokens or factorised_encoder)
    ),
    f'trunk.num_sampled_frames={trunk.num_sampled_frames}: set it, at least 1, with '
    "tokeniser='uniform_frames' and only then.": uniform != bool(trunk.num_sampled_frames),
    f"trunk.tubelet={tuple(trunk.tubelet)}: 'uniform_frames' has 2-D patches; set t = 1.": (
      uniform and trunk.tubelet[0] != 1
    ),
    "trunk.kernel_init_method='central_frame' needs tokeniser='tubelet'.": uniform and central,
  }
  return [message for message, wrong in checks.items() if wrong]
