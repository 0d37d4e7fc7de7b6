"""Boxes of a keyframe as they are trained on and evaluated. Pure functions on arrays."""

from typing import Any, NamedTuple

import numpy as np

from datasets.box_config import BoxConfig

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
  first, second = np.asarray(boxes, np.float64)[:, None], np.asarray(others, np.float64)[None]
  low, high = (
    np.maximum(first[..., :2], second[..., :2]),
    np.minimum(first[..., 2:], second[..., 2:]),
  )
  shared = np.prod(np.maximum(high - low, 0), -1)
  area = np.prod(first[..., 2:] - first[..., :2], -1) + np.prod(
    second[..., 2:] - second[..., :2], -1
  )
  return shared / (area - shared)


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
