"""Average precision of ranked predictions, by class."""

from collections.abc import Sequence
from typing import Any

import numpy as np

_Array = np.ndarray[Any, np.dtype[Any]]


def average_precision(
  right: Sequence[bool] | _Array,
  positives: int,
  scores: _Array | None = None,
  *,
  interpolated: bool = False,
) -> float:
  """Mean over the positives of the precision at each one's rank, in [0, 1]; NaN without positives.

  Args:
    right: bool [N], which predictions are right, by rank.
    positives: How many there are to find; those that are not among the predictions count 0.
    scores: [N], descending. Equal scores have one rank, the last of them, so that their order does
      not matter. None: no two are equal.
    interpolated: Precision at a rank is the best at this one or a later one: the area under the
      envelope of precision over recall.
  """
  if not positives:
    return float('nan')
  right = np.asarray(right, bool)
  last = np.flatnonzero(right)
  if scores is not None:
    last = np.searchsorted(-scores, -scores[last], side='right') - 1
  precision = np.cumsum(right)[last] / (last + 1)
  if interpolated:
    precision = np.maximum.accumulate(precision[::-1])
  return float(precision.sum() / positives)


def average_precisions(scores: _Array, labels: _Array) -> _Array:
  """Average precision of each class over all examples, float64 [K]; NaN where no example has it.

  Not interpolated; equal scores have one rank, so that the order of the examples does not matter, and
  NaN is the lowest score.

  Args:
    scores: [N, K] float.
    labels: [N, K] multi-hot.
  """
  scores = np.where(np.isnan(scores), -np.inf, scores)
  order = np.argsort(-scores, axis=0, kind='stable')
  ranked = np.take_along_axis(scores, order, 0)
  right = np.take_along_axis(labels > 0, order, 0)
  return np.array(
    [average_precision(r, int(r.sum()), s) for r, s in zip(right.T, ranked.T, strict=True)]
  )
