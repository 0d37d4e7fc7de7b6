"""UniFormerV2: an image ViT armed with local and global blocks for video (section 3)."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from errors import ConfigError
from models import layers
from models.attention import dot_product_attention
from models.features import Features
from models.layout import split_batch
from projects.uniformerv2 import settings
from projects.uniformerv2.blocks import BLOCKS, DynamicPositions, FrameEncoder, LocalMHRA, patches
from projects.uniformerv2.global_block import GlobalBlock, queries_and_context

Size = tuple[int, int, int]


class UniFormerV2(nn.Module):
  """Video trunk: a ViT on each frame, time within its blocks, and global blocks that read them.

  A setting that nothing reads must keep its default.

  Attributes:
    hidden_size, num_layers, num_heads, mlp_dim, patch_size: of the image ViT; see `configs`.
    temporal_downsampling: patches are of three frames, every second one, so that T' = T / 2; otherwise
      of one, and T' = T. The paper has it everywhere, the released models on Something-Something.
    patch_bias, pre_norm, gelu, layer_norm_epsilon: the defaults are CLIP's; other ViTs have a bias,
      no norm before their blocks, 'erf' and 1e-6. All blocks, the global ones too, have the last two.
    temporal_module: what looks along time, before the attention in each frame (Tables 9b, 15): 'none';
      'local_mhra', the local UniBlock (section 3.1); 'st_adapter'; 'convolution', depthwise;
      'shift', of an eighth of the channels each way; 'attention', divided; 'joint', among all frames;
      'transformer', after the blocks on the frames' class tokens and a token that it returns. The last
      three have positions of time. DEVIATION: with 'joint' each frame keeps its class token, as the
      other options need them; TimeSformer has one a clip.
    temporal_layers: only the first n blocks have the module; None: all.
    temporal_transformer_layers: of 'transformer'.
    local_repeats: 2: a second local MHRA, or adapter, after the attention in each frame (Table 9b).
    local_reduction: the local MHRA or adapter has int(hidden_size // local_reduction) channels.
    local_dpe: a DPE before the local MHRA (Table 9b), zero at first.
    global_layers: how many blocks a global one follows.
    global_places: the numbers of these blocks, from 0 and ascending; None: the last.
    global_num_heads, global_mlp_dim: of the global blocks; None: as the ViT's.
    global_dpe: see `GlobalBlock`.
    fusion: 'sequential', 'parallel', 'hierarchical_kv' or 'hierarchical_q' (section 3.3). With
      'sequential' there is one learned query, with the others one for each block. Tokens of the last
      'hierarchical_q' block are as many as blocks, and the last token is their mean: a query does not
      see the others, so that any one of them would leave queries or blocks out.
    num_queries: that each learned query consists of (Table 14). DEVIATION: the paper does not say which
      becomes the video token; it is their mean. One is zero at first, as released; several are drawn,
      as alike they would get the same gradients and stay one.
    output: 'fused', the mean of the frames' class tokens and the video token, weighted by the channel
      (section 3.3); 'global', the video token, as for frozen ViTs; 'class', the former alone.
    position_grid: (nt, nh, nw) that the position tables are for; None = that of the input. If clips
      differ in frames or size, the tables are resized for those with another grid.
    attention_kernel: 'auto', 'xla' or 'fused', of the ViT and along time; see
      `models.attention.dot_product_attention`.
    dropout_rate, attention_dropout_rate: of the ViT; the released models have none.
    stochastic_depth_rate: of the last block of the ViT; grows linearly with depth. DEVIATION: it drops
      branches of whole examples; the released code, of tokens, the same in all examples.
    global_dropout_rate: in the hidden layer of the global blocks' MLPs.
    global_stochastic_depth_rate: of the last global block; the released code drops for a whole batch.
    remat: 'none', 'blocks' or 'full', of all blocks; see `layers.Encoder`.
    dtype: compute dtype; parameters and the statistics of BatchNorm are float32.
  """

  hidden_size: int
  num_layers: int
  num_heads: int
  mlp_dim: int
  patch_size: int = 16
  temporal_downsampling: bool = False
  patch_bias: bool = False
  pre_norm: bool = True
  gelu: str = 'quick'
  layer_norm_epsilon: float = 1e-5
  temporal_module: str = 'none'
  temporal_layers: int | None = None
  temporal_transformer_layers: int = 6
  local_repeats: int = 1
  local_reduction: float = 1.5
  local_dpe: bool = False
  global_layers: int = 4
  global_places: tuple[int, ...] | None = None
  global_num_heads: int | None = None
  global_mlp_dim: int | None = None
  global_dpe: bool = True
  fusion: str = 'sequential'
  num_queries: int = 1
  output: str = 'fused'
  position_grid: Size | None = None
  attention_kernel: str = 'auto'
  dropout_rate: float = 0.0
  attention_dropout_rate: float = 0.0
  stochastic_depth_rate: float = 0.0
  global_dropout_rate: float = 0.5
  global_stochastic_depth_rate: float = 0.0
  remat: str = 'none'
  dtype: Any = jnp.float32

  def __post_init__(self) -> None:
    settings.check(self)
    super().__post_init__()

  @nn.compact
  def __call__(self, video: jax.Array, *, train: bool) -> Features:
    """Turns video [B, T, H, W, 3], normalised, into `Features`.

    `tokens` are the patch tokens of the last block, `pooled` passed the norm before the classifier.

    Raises:
      ConfigError: as `grid`, or the position tables in the parameters are for another grid.
    """
    grid = self.grid(video.shape)
    x = self._tokens(video.astype(self.dtype), grid)
    depths = self._frame_encoder(grid)(x, train=train)
    tokens, pooled = depths[-1], None
    if self.output != 'global':
      pooled = self._class_token(tokens[:, :, 0], grid, train)
    if self.output != 'class':
      token = self._video_token([depths[i] for i in settings.followed(self)], grid, train)
      pooled = token if pooled is None else self._fused(token, pooled)
    return Features(
      tokens=patches(tokens).reshape(tokens.shape[0], -1, self.hidden_size),  # [B, T'*S, C]
      pooled=self._norm('fusion_norm')(pooled),
      grid=grid,
    )

  def grid(self, input_shape: Sequence[int]) -> Size:
    """(nt, nh, nw) tokens for a video of shape [..., T, H, W, 3].

    Raises:
      ConfigError: the patch does not divide the size, or, with `temporal_downsampling`, 2 the frames.
    """
    sizes = tuple(input_shape[-4:-1])
    step = (2 if self.temporal_downsampling else 1, self.patch_size, self.patch_size)
    if any(size % n or size < n for size, n in zip(sizes, step)):
      raise ConfigError(
        f'trunk.patch_size={self.patch_size}, trunk.temporal_downsampling='
        f'{self.temporal_downsampling}: the strides (t, h, w) = {step} do not divide the input '
        f'(T, H, W) = {sizes}; change the number of frames, the crop size or the trunk.'
      )
    t, h, w = (size // n for size, n in zip(sizes, step))
    return t, h, w

  def stages(self, input_shape: Sequence[int]) -> list[tuple[str, int, int]]:
    """(name, sequences per clip, tokens per sequence) of each kind of attention; of global blocks, keys."""
    frames, height, width = self.grid(input_shape)
    row = 1 + height * width
    stages, joint = [('SpatialTransformer', frames, row)], ('joint', 1, frames * row)
    if self.temporal_module == 'joint':
      all_blocks = self.temporal_layers in (None, self.num_layers)
      stages = [joint] if all_blocks else [joint, *stages]
    if self.temporal_module == 'attention':
      stages.append(('temporal attention', row - 1, frames))
    if self.temporal_module == 'transformer':
      stages.append(('TemporalTransformer', 1, 1 + frames))
    if settings.followed(self):
      stages.append(('global', 1, frames * row))
    return stages

  def depths(self) -> list[tuple[str, ...]]:
    """Beginnings of parameters' paths by depth: of what makes the tokens, then of every block.

    A global block is as deep as the block that it follows, the query as the first of them.
    """
    tokens = ('embedding', 'cls', 'pre_norm', 'posembed_time', 'SpatialTransformer/posembed_input')
    depths = [tokens, *layers.block_paths('SpatialTransformer', self.num_layers)]
    for j, place in enumerate(settings.followed(self)):
      depths[place + 1] += (f'global_{j}',) if j else ('query', f'global_{j}')
    if self.temporal_module == 'transformer':
      depths[-1] += ('cls_TemporalTransformer', 'TemporalTransformer/posembed_input')
      depths += layers.block_paths('TemporalTransformer', self.temporal_transformer_layers)
    return depths

  def _tokens(self, video: jax.Array, grid: Size) -> jax.Array:
    """[B, T, H, W, 3] -> [B, T', 1 + S, C], with class tokens and positions of time."""
    x = layers.cut_patches(video, (1, self.patch_size, self.patch_size))
    taps = 1
    if self.temporal_downsampling:
      taps = 3
      padded = jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)))
      # The frames 2t - 1, 2t, 2t + 1: of the padding, only that before the first is ever met.
      x = jnp.concatenate([padded[:, :-1:2], x[:, ::2], x[:, 1::2]], axis=-1)
    x = layers.PatchEmbedding(
      features=self.hidden_size,
      patch=(taps, self.patch_size, self.patch_size),
      use_bias=self.patch_bias,
      dtype=self.dtype,
      name='embedding',
    )(x)
    x = layers.prepend_class_token(self, 'cls', x.reshape(*x.shape[:2], -1, self.hidden_size))
    if self.temporal_module in ('attention', 'joint'):
      table = self._positions(grid, slice(1), nn.initializers.zeros)(name='posembed_time')
      x += table(jnp.zeros((1, grid[0], self.hidden_size), self.dtype))[:, :, None]
    return x

  def _positions(
    self, grid: Size, axes: slice, init: layers.Initializer | None = None
  ) -> functools.partial:
    """Makes a table of positions on some axes of the grid; called with `name`."""
    return functools.partial(
      layers.PositionEmbedding,
      grid=grid[axes],
      table_grid=tuple(self.position_grid or grid)[axes],
      **({} if init is None else {'table_init': init}),
    )

  def _frame_encoder(self, grid: Size) -> FrameEncoder:
    common = self._encoder_block()
    temporal = self._temporal_block(grid)
    count = 0
    if self.temporal_module in BLOCKS:
      count = self.num_layers if self.temporal_layers is None else self.temporal_layers
    return FrameEncoder(
      blocks=(temporal,) * count + (common,) * (self.num_layers - count),
      positions=self._positions(grid, slice(1, 3)),
      pre_norm=self._norm('pre_norm') if self.pre_norm else None,
      dropout_rate=self.dropout_rate,
      stochastic_depth_rate=self.stochastic_depth_rate,
      remat=self.remat,
      name='SpatialTransformer',
    )

  def _encoder_block(
    self, block: type[layers.EncoderBlock] = layers.EncoderBlock, **fields: Any
  ) -> functools.partial:
    return functools.partial(
      block,
      num_heads=self.num_heads,
      mlp_dim=self.mlp_dim,
      dropout_rate=self.dropout_rate,
      attention_dropout_rate=self.attention_dropout_rate,
      gelu=self.gelu,
      layer_norm_epsilon=self.layer_norm_epsilon,
      attention=functools.partial(dot_product_attention, kernel=self.attention_kernel),
      dtype=self.dtype,
      **fields,
    )

  def _temporal_block(self, grid: Size) -> functools.partial:
    """The block with the temporal module."""
    block = BLOCKS.get(self.temporal_module, layers.EncoderBlock)
    if self.temporal_module not in ('local_mhra', 'st_adapter'):
      return self._encoder_block(block)
    relations = functools.partial(
      LocalMHRA,
      hidden_size=int(self.hidden_size // self.local_reduction),
      adapter=self.temporal_module == 'st_adapter',
      dtype=self.dtype,
    )
    positions = functools.partial(
      DynamicPositions, grid, kernel_init=nn.initializers.zeros, dtype=self.dtype
    )
    return self._encoder_block(
      block,
      relations=relations,
      repeats=self.local_repeats,
      positions=positions if self.local_dpe else None,
    )

  def _class_token(self, frames: jax.Array, grid: Size, train: bool) -> jax.Array:
    """Of the frames' class tokens [B, T', C], the clip's [B, C]."""
    if self.temporal_module != 'transformer':
      return frames.mean(axis=1)
    frames = layers.prepend_class_token(self, 'cls_TemporalTransformer', frames)
    encoded = layers.Encoder(
      num_layers=self.temporal_transformer_layers,
      block=self._encoder_block(),
      positions=self._positions(grid, slice(1)),
      dropout_rate=self.dropout_rate,
      stochastic_depth_rate=self.stochastic_depth_rate,
      final_norm=False,  # `fusion_norm` follows.
      remat=self.remat,
      dtype=self.dtype,
      name='TemporalTransformer',
    )(frames, train=train)
    return encoded[:, 0]

  def _video_token(self, depths: Sequence[jax.Array], grid: Size, train: bool) -> jax.Array:
    """Runs the global blocks on tokens [B, T', 1 + S, C] of several depths -> [B, C]."""
    shape = (1 if self.fusion == 'sequential' else len(depths), self.num_queries, self.hidden_size)
    zeros, normal = nn.initializers.zeros, nn.initializers.normal(stddev=0.02)
    init = layers.partitioned(zeros if self.num_queries == 1 else normal, None, None, 'embed')
    learned = self.param('query', init, shape).astype(self.dtype)
    rates = layers.stochastic_depth_rates(self.global_stochastic_depth_rate, len(depths))
    before, made = None, []
    for j, (tokens, rate) in enumerate(zip(depths, rates)):
      own = learned[min(j, shape[0] - 1)]
      own = split_batch(jnp.broadcast_to(own, (tokens.shape[0], *own.shape)))  # [B, Q, C]
      query, context = queries_and_context(self.fusion, own, before)
      block = self._call_global(f'global_{j}', rate, grid, train)
      before = split_batch(block(query, tokens, context))
      made.append(before.mean(axis=1))
    if self.fusion != 'parallel':
      return made[-1]
    return nn.Dense(
      self.hidden_size,
      use_bias=False,
      kernel_init=layers.partitioned(nn.initializers.lecun_normal(), 'embed', None),
      dtype=self.dtype,
      name='fusion_projection',
    )(jnp.concatenate(made, axis=-1))

  def _call_global(
    self, name: str, rate: float, grid: Size, train: bool
  ) -> Callable[..., jax.Array]:
    """A global block as a function of queries, tokens and more keys."""

    def call(block: nn.Module, *inputs: jax.Array) -> jax.Array:
      return block(*inputs, train=train)

    block = GlobalBlock(
      num_heads=self.global_num_heads or self.num_heads,
      mlp_dim=self.global_mlp_dim or self.mlp_dim,
      grid=grid,
      dpe=self.global_dpe,
      gelu=self.gelu,
      layer_norm_epsilon=self.layer_norm_epsilon,
      dropout_rate=self.global_dropout_rate,
      stochastic_depth_rate=rate,
      dtype=self.dtype,
      name=name,
    )
    return functools.partial(layers.recomputing(call, self.remat), block)

  def _fused(self, token: jax.Array, class_token: jax.Array) -> jax.Array:
    """Z = alpha F + (1 - alpha) F_C with alpha = 1 - sigmoid(`fusion_balance`), a channel each."""
    init = layers.partitioned(nn.initializers.zeros, 'embed')
    balance = self.param('fusion_balance', init, (self.hidden_size,))
    share = nn.sigmoid(balance).astype(self.dtype)
    return (1 - share) * token + share * class_token

  def _norm(self, name: str) -> nn.LayerNorm:
    return layers.layer_norm(name, epsilon=self.layer_norm_epsilon, dtype=self.dtype)
