"""Heads that several papers use: `Features` -> float32 logits."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from errors import ConfigError
from models import layers
from models.features import Features
from models.roi_align import roi_align

KERNEL_INITS: dict[str, layers.Initializer] = {
  'zeros': nn.initializers.zeros,
  'lecun_normal': nn.initializers.lecun_normal(),
  'normal_0.02': nn.initializers.normal(stddev=0.02),
}


class OutputLayers(nn.Module, kw_only=True):
  """What all heads end in: dropout, optional Dense + tanh (`pre_logits`), Dense (`output_projection`).

  Attributes:
    num_classes: K.
    representation_size: width of `pre_logits`; None leaves it out.
    dropout_rate: on what enters the layers above.
    kernel_init: of the output kernel: 'zeros' (as in Scenic and ViT), 'lecun_normal', 'normal_0.02'.
    bias_init: constant of the output bias; -log(K) or lower suits sigmoid losses.
    dtype: compute dtype of `pre_logits`; the output projection is float32.
  """

  num_classes: int
  representation_size: int | None = None
  dropout_rate: float = 0.0
  kernel_init: str = 'zeros'
  bias_init: float = 0.0
  dtype: Any = jnp.float32

  def classify(self, pooled: jax.Array, train: bool) -> jax.Array:
    """pooled [..., C] -> float32 logits [..., K]; call it inside a compact method.

    Raises:
      ConfigError: `kernel_init` is unknown.
    """
    if self.kernel_init not in KERNEL_INITS:
      raise ConfigError(f'kernel_init={self.kernel_init!r}: one of {sorted(KERNEL_INITS)}.')
    x = nn.Dropout(self.dropout_rate, name='dropout')(pooled, deterministic=not train)
    if self.representation_size is not None:
      x = nn.Dense(
        self.representation_size,
        kernel_init=layers.partitioned(nn.initializers.lecun_normal(), 'embed', 'mlp'),
        bias_init=layers.partitioned(nn.initializers.zeros, 'mlp'),
        dtype=self.dtype,
        name='pre_logits',
      )(x)
      x = nn.tanh(x)
    bias_init = nn.initializers.constant(self.bias_init)
    return nn.Dense(
      self.num_classes,
      kernel_init=layers.partitioned(KERNEL_INITS[self.kernel_init], 'embed', 'classes'),
      bias_init=layers.partitioned(bias_init, 'classes'),
      dtype=jnp.float32,
      name='output_projection',
    )(x)


class LinearHead(OutputLayers, kw_only=True):
  """`OutputLayers` on one vector a clip.

  Attributes:
    pooling: 'trunk', the clip's representation as the trunk pools it, or 'mean', the mean of all
      tokens (Beyond Transfer Learning, section 3.1). With ViViT's factorised encoder the latter sees
      the temporal encoder only if the trunk's `temporal_context` is not 'none'.
  """

  pooling: str = 'trunk'

  @nn.compact
  def __call__(self, features: Features, *, train: bool) -> jax.Array:
    """Returns float32 logits [B, K].

    Raises:
      ConfigError: `pooling` is unknown.
    """
    if self.pooling not in ('trunk', 'mean'):
      raise ConfigError(f"head.pooling={self.pooling!r}: expected 'trunk' or 'mean'.")
    pooled = features.pooled if self.pooling == 'trunk' else features.tokens.mean(axis=1)
    return self.classify(pooled, train)


class MLPHead(OutputLayers, kw_only=True):
  """Dense, exact GELU, then `OutputLayers`: MultiTrain's head (supplement, section 2.1).

  The paper gives no dropout; the released code has 0.5 after the GELU and again on the logits.

  Attributes:
    hidden_size: width between the two layers. Their kernels are drawn from N(0, 0.02), the second
      unless `kernel_init` says otherwise.
    logits_dropout_rate: on the logits.
  """

  hidden_size: int = 2048
  logits_dropout_rate: float = 0.0
  kernel_init: str = 'normal_0.02'

  @nn.compact
  def __call__(self, features: Features, *, train: bool) -> jax.Array:
    """Returns float32 logits [B, K]."""
    x = nn.Dense(
      self.hidden_size,
      kernel_init=layers.partitioned(KERNEL_INITS['normal_0.02'], 'embed', 'mlp'),
      bias_init=layers.partitioned(nn.initializers.zeros, 'mlp'),
      dtype=self.dtype,
      name='hidden',
    )(features.pooled)
    logits = self.classify(layers.activation('erf')(x), train)
    drop = nn.Dropout(self.logits_dropout_rate, name='logits_dropout')
    return drop(logits, deterministic=not train)


class DetectionHead(OutputLayers, kw_only=True):
  """ROI-Align on the tokens of each box's tube, then `OutputLayers` (Beyond Transfer Learning, Eq. 1-2).

  A tube is a keyframe's box in every frame. ROI-Align is linear in the features and, for one box, the
  same in every frame: the mean of its results over the tube is its result for the mean over time,
  which is taken first, so that one map is sampled instead of nt. The paper does not say how the cells
  of a box become one vector; the default is the maximum, as in SlowFast's detection head.

  Attributes:
    pool: over the cells of a box: 'max' or 'mean'.
    output_size, sampling_ratio, aligned: see `roi_align`; the defaults are SlowFast's.
  """

  takes_boxes: ClassVar[bool] = True

  pool: str = 'max'
  output_size: tuple[int, int] = (7, 7)
  sampling_ratio: int = 0
  aligned: bool = True

  @nn.compact
  def __call__(self, features: Features, *, boxes: jax.Array, train: bool) -> jax.Array:
    """Classifies what is in each box.

    Args:
      features: those of a trunk whose tokens lie on one grid.
      boxes: [B, N, 4] float32 (ymin, xmin, ymax, xmax) in [0, 1] of the trunk's input, square or
        not. Padding, four zeros, has finite logits, and finite gradients.
      train: dropout on or off.

    Returns:
      float32 logits [B, N, K].

    Raises:
      ConfigError: `pool` is unknown, `output_size` is not two positive numbers, or the tokens lie on
        no one grid.
    """
    if self.pool not in ('max', 'mean'):
      raise ConfigError(f"head.pool={self.pool!r}: expected 'max' or 'mean'.")
    if features.grid is None:
      raise ConfigError(
        'DetectionHead: boxes need tokens on one grid (t, h, w), and those of this trunk are on '
        'none. Use another trunk, or a head of whole clips such as models.heads:LinearHead.'
      )
    batch, _, width = features.tokens.shape
    image = features.tokens.reshape(batch, *features.grid, width).mean(axis=1)  # [B, nh, nw, C]
    size = jnp.asarray(features.grid[1:] * 2, jnp.float32)  # nh, nw, nh, nw
    cells = roi_align(
      image,
      boxes * size,
      output_size=tuple(self.output_size),
      sampling_ratio=self.sampling_ratio,
      aligned=self.aligned,
    )  # [B, N, ph, pw, C]
    pooled = cells.max(axis=(2, 3)) if self.pool == 'max' else cells.mean(axis=(2, 3))
    return self.classify(pooled, train)


class MAPHead(OutputLayers, kw_only=True):
  """Multihead attention pooling over `tokens`, then `OutputLayers` (as in big_vision).

  Attributes:
    num_heads, mlp_dim: of the pooling block; big_vision uses the trunk's heads and 4 * C.
  """

  num_heads: int
  mlp_dim: int
  gelu: str = 'tanh'
  layer_norm_epsilon: float = 1e-6

  @nn.compact
  def __call__(self, features: Features, *, train: bool) -> jax.Array:
    """Returns float32 logits [B, K]."""
    pooled = AttentionPool(
      num_heads=self.num_heads,
      mlp_dim=self.mlp_dim,
      gelu=self.gelu,
      layer_norm_epsilon=self.layer_norm_epsilon,
      dtype=self.dtype,
      name='MAPHead_0',
    )(features.tokens, train=train)
    return self.classify(pooled, train)


class AttentionPool(nn.Module):
  """One learned probe attends to all tokens, then a residual MLP: [B, N, C] -> [B, C]."""

  num_heads: int
  mlp_dim: int
  gelu: str = 'tanh'
  layer_norm_epsilon: float = 1e-6
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, tokens: jax.Array, *, train: bool) -> jax.Array:
    init = layers.partitioned(nn.initializers.xavier_uniform(), None, None, 'embed')
    probe = self.param('probe', init, (1, 1, tokens.shape[-1])).astype(self.dtype)
    probe = jnp.broadcast_to(probe, (tokens.shape[0], 1, tokens.shape[-1]))  # [B, 1, C]
    x = layers.MultiHeadAttention(
      num_heads=self.num_heads, dtype=self.dtype, name='MultiHeadDotProductAttention_0'
    )(probe, tokens, train=train)
    y = layers.layer_norm('LayerNorm_0', epsilon=self.layer_norm_epsilon, dtype=self.dtype)(x)
    y = layers.Mlp(self.mlp_dim, gelu=self.gelu, dtype=self.dtype, name='MlpBlock_0')(
      y, train=train
    )
    return (x + y)[:, 0]
