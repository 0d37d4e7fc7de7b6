"""A trunk and one head per task."""

from collections.abc import Mapping

import jax
from flax import linen as nn

from models.features import Features


class VideoModel(nn.Module):
  """Runs every head on the trunk's features.

  Parameters come out under `trunk/...` and, because Linen names a mapping's modules
  `<attribute>_<key>`, under `heads_<task>/...`.

  Attributes:
    trunk: `trunk(video, train=...) -> Features`.
    heads: task name -> `head(features, train=...) -> logits`; Linen freezes the mapping.
  """

  trunk: nn.Module
  heads: Mapping[str, nn.Module]

  def __call__(self, video: jax.Array, *, train: bool) -> tuple[Features, dict[str, jax.Array]]:
    """video [B, T, H, W, 3] float -> its features, and each task's logits."""
    features = self.trunk(video, train=train)
    return features, {task: head(features, train=train) for task, head in self.heads.items()}
