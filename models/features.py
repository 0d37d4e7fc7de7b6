"""What a trunk hands to its heads."""

import jax
from flax import struct


@struct.dataclass
class Features:
  """A trunk's output; the dtype of both arrays is the trunk's compute dtype.

  Attributes:
    tokens: [B, N, C], in (t, h, w) order with t slowest, never with class tokens. N is the product
      of `grid` for a trunk whose tokens lie on one grid; a trunk whose tokens do not documents what
      N is. For ViViT's factorised encoder these are the spatial encoder's tokens after its
      `encoder_norm`, with what its `temporal_context` makes of them, so N = nt * nh * nw there too.
    pooled: [B, C], the clip's representation: what a classifier reads.
    grid: (nt, nh, nw), static; an ROI head needs it to lay `tokens` out in space. None if they lie on
      no one grid; their order is then the trunk's to say.
  """

  tokens: jax.Array
  pooled: jax.Array
  grid: tuple[int, int, int] | None = struct.field(pytree_node=False)
