"""A trunk and one head per task."""

from collections.abc import Mapping

import jax
from flax import linen as nn

from errors import ConfigError
from models.features import Features


class VideoModel(nn.Module):
  """Runs heads on the trunk's features.

  Parameters come out under `trunk/...` and, because Linen names a mapping's modules
  `<attribute>_<key>`, under `heads_<task>/...`.

  Attributes:
    trunk: `trunk(video, train=...) -> Features`.
    heads: task name -> `head(features, train=...) -> logits`, or, if the head's class has
      `takes_boxes = True`, `head(features, boxes=..., train=...)`; Linen freezes the mapping.
  """

  trunk: nn.Module
  heads: Mapping[str, nn.Module]

  def __call__(
    self,
    video: jax.Array,
    *,
    boxes: jax.Array | None = None,
    tasks: tuple[str, ...] | None = None,
    train: bool,
  ) -> tuple[Features, dict[str, jax.Array]]:
    """video [B, T, H, W, 3] float -> its features, and each task's logits.

    Args:
      video: what the trunk takes.
      boxes: [B, N, 4] float32 for the heads that take them; see `heads.DetectionHead`.
      tasks: the heads to run; None runs all, as initialising the parameters needs.
      train: dropout and its like on or off.

    Raises:
      ConfigError: a head takes boxes and there are none.
    """
    features = self.trunk(video, train=train)
    logits = {}
    for task in self.heads if tasks is None else tasks:
      options = self._boxes(task, boxes) if getattr(self.heads[task], 'takes_boxes', False) else {}
      logits[task] = self.heads[task](features, **options, train=train)
    return features, logits

  def _boxes(self, task: str, boxes: jax.Array | None) -> dict[str, jax.Array]:
    if boxes is None:
      raise ConfigError(
        f'tasks.{task}.head: {type(self.heads[task]).__name__} takes boxes [B, N, 4], and the '
        'batch has none. Give the task a dataset whose label group has `regions`, or use a head of '
        'whole clips such as models.heads:LinearHead.'
      )
    return {'boxes': boxes}
