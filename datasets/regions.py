"""Boxes of a keyframe as they are trained on and evaluated. Pure functions on arrays."""

from typing import Any, NamedTuple

import numpy as np

from datasets.box_config import BoxConfig
from datasets.keyframes import BoxTable

_Array = np.ndarray[Any, np.dtype[Any]]


class Regions(NamedTuple):
  """N boxes of a keyframe: annotated ones first, then detected ones by descending score.

  Attributes:
    boxes: ymin, xmin, ymax, xmax in [0, 1] of the frame, float32 [N, 4].
    labels: multi-hot float32 [N, K]; zeros for detected boxes.
    scores: float32 [N] in [0, 1]; 1 for annotated boxes.
    annotated: bool [N].
  """

  boxes: _Array
  labels: _Array
  scores: _Array
  annotated: _Array


def iou(boxes: _Array, others: _Array) -> _Array:
  """Intersection over union of boxes [N, 4] and others [M, 4], float64 [N, M]."""
  return _overlap(boxes[:, None], others[None])


def _overlap(boxes: _Array, others: _Array) -> _Array:
  """Intersection over union of boxes [..., 4] and [..., 4] that broadcast, float64 [...]."""
  y0, x0, y1, x1 = np.moveaxis(np.asarray(boxes, np.float64), -1, 0)
  v0, u0, v1, u1 = np.moveaxis(np.asarray(others, np.float64), -1, 0)
  height = np.maximum(np.minimum(y1, v1) - np.maximum(y0, v0), 0)
  width = np.maximum(np.minimum(x1, u1) - np.maximum(x0, u0), 0)
  shared = height * width
  return shared / ((y1 - y0) * (x1 - x0) + (v1 - v0) * (u1 - u0) - shared)


def trained(
  boxes: _Array, scores: _Array, annotated: _Array, config: BoxConfig
) -> tuple[_Array, _Array]:
  """Which boxes of a keyframe are trained on.

  Args:
    boxes: float32 [N, 4].
    scores: float32 [N].
    annotated: bool [N].
    config: what to choose.

  Returns:
    The numbers of the boxes, int64 [M], and of the annotated boxes whose labels they have, [M].
  """
  known = np.flatnonzero(annotated)
  if config.train == 'annotated':
    return known, known
  detected = np.flatnonzero(~annotated & (scores >= np.float32(config.train_min_score)))
  if not len(known) or not len(detected):
    return detected[:0], known[:0]
  overlap = iou(boxes[detected], boxes[known])  # [D, A]
  kept = overlap.max(1) >= config.min_iou
  return detected[kept], known[overlap.argmax(1)[kept]]


def evaluated(scores: _Array, annotated: _Array, config: BoxConfig) -> _Array:
  """Numbers of the boxes that are evaluated, int64 [M]: annotated ones and proposals with a score."""
  return np.flatnonzero(annotated | (scores >= np.float32(config.eval_min_score)))


def jittered(rng: np.random.Generator, boxes: _Array, ratio: float) -> _Array:
  """Boxes float32 [N, 4] with every side moved by up to `ratio` of their own height or width.

  What lies outside the frame is cut off; nothing is left empty. Always draws 4 N numbers.
  """
  size = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
  return np.clip(boxes + rng.uniform(-ratio, ratio, boxes.shape) * size, 0, 1).astype(np.float32)


class TrainingBoxes(NamedTuple):
  """What there is to train on in a split; detected boxes = used + below_score + unmatched.

  Attributes:
    keyframes: all of them.
    without: keyframes without a box to train on, whose examples have a mask of zeros.
    annotated: annotated boxes.
    detected: detected boxes.
    used: boxes to train on.
    below_score: detected boxes below `train_min_score`.
    unmatched: the others that overlap no annotated box enough; 0, like `below_score`, where
      annotated boxes are trained on.
  """

  keyframes: int
  without: int
  annotated: int
  detected: int
  used: int
  below_score: int
  unmatched: int

  def __str__(self) -> str:
    text = f'{self.used:,} boxes to train on in {self.keyframes:,} keyframes'
    if self.below_score or self.unmatched:
      text += (
        f', of {self.detected:,} detected ({self.below_score:,} score too low, '
        f'{self.unmatched:,} match none of {self.annotated:,} annotated boxes)'
      )
    return f'{text}; {self.without:,} keyframes without any'


def count_training(table: BoxTable, config: BoxConfig) -> TrainingBoxes:
  """Counts what a training uses of a split: what `trained` chooses, of all keyframes at once."""
  keyframes, known = len(table.start) - 1, int(table.annotated.sum())
  detected = len(table.boxes) - known
  if config.train == 'annotated':
    without = keyframes - len(np.unique(table.rows[table.annotated]))
    return TrainingBoxes(keyframes, without, known, detected, known, 0, 0)
  confident = np.flatnonzero(
    ~table.annotated & (table.scores >= np.float32(config.train_min_score))
  )
  # Pairs of a detected box and an annotated one, which stand first among those of its keyframe.
  of_row = np.bincount(table.rows[table.annotated], minlength=keyframes)
  rows = table.rows[confident]
  first = np.repeat(confident, of_row[rows])
  place = np.arange(len(first)) - np.repeat(np.cumsum(of_row[rows]) - of_row[rows], of_row[rows])
  second = np.repeat(table.start[rows], of_row[rows]) + place
  matched = _overlap(table.boxes[first], table.boxes[second]) >= config.min_iou
  used = np.unique(first[matched])
  return TrainingBoxes(
    keyframes=keyframes,
    without=keyframes - len(np.unique(table.rows[used])),
    annotated=known,
    detected=detected,
    used=len(used),
    below_score=detected - len(confident),
    unmatched=len(confident) - len(used),
  )
