"""Which boxes of a keyframe are trained on and evaluated: the settings."""

import dataclasses
from typing import Literal

from datasets.clip_config import require
from errors import check_integer, check_range

_JITTER_BELOW = 0.5  # Where opposite sides could meet.


@dataclasses.dataclass(frozen=True)
class BoxConfig:
  """Which boxes of a keyframe are trained on and evaluated.

  Co-finetuning, appendix A.1: AVA trains and is evaluated on detected boxes of score 0.8 and more,
  AVA-Kinetics trains on annotated boxes and is evaluated on detected ones of 0.2 and more; both with
  `jitter` 0.15. The IoU from which a detected box has an annotated one's labels is ours.

  Attributes:
    max_boxes: boxes of an example; fewer are padded. Training takes a random part of more,
      evaluation needs room for all.
    train: 'detected' (proposals, with the labels of the annotated box they overlap most) or
      'annotated'.
    train_min_score: score from which a proposal is trained on.
    eval_min_score: score from which a proposal is evaluated.
    min_iou: overlap from which a proposal has an annotated box's labels. One that overlaps less is
      not trained on: it is a wrong or an unannotated person, and no example of "no action".
    jitter: how far each side of a training box is moved at random, at most, in widths and heights of
      the box; below 0.5.
  """

  max_boxes: int
  train: Literal['detected', 'annotated'] = 'detected'
  train_min_score: float = 0.8
  eval_min_score: float = 0.8
  min_iou: float = 0.5
  jitter: float = 0.0

  def __post_init__(self) -> None:
    """Raises ConfigError on values out of range."""
    check_integer('boxes', 'max_boxes', self.max_boxes, 1, 1000)
    known = ('detected', 'annotated')
    require(self.train in known, 'boxes.train', f'one of {known}', self.train)
    for name in ('train_min_score', 'eval_min_score', 'min_iou'):
      check_range('boxes', name, getattr(self, name), 0, 1)
    require(self.min_iou > 0, 'boxes.min_iou', 'more than 0', self.min_iou)
    require(0 <= self.jitter < _JITTER_BELOW, 'boxes.jitter', 'in [0, 0.5)', self.jitter)
