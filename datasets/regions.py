"""Boxes of a keyframe as they are trained on and evaluated. Pure functions on arrays."""

from typing import Any, NamedTuple

import numpy as np

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
