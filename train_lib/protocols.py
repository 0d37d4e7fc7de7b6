"""Protocols: what scores a detection task after an evaluation, on the host, in its field's own way.

A protocol is a callable `protocol(predictions, dataset, task, folder) -> ProtocolResult`, named in
the config of the task.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

_Array = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True)
class BoxPredictions:
  """Predictions for the boxes of a split, each box once, in any order.

  Attributes:
    rows: int64 [M], the dataset's row each box belongs to.
    boxes: float32 [M, 4] ymin, xmin, ymax, xmax, fractions of the frame.
    scores: float32 [M], the detector's; 1 for annotated boxes.
    annotated: bool [M]; False: a detected box.
    probabilities: float32 [M, K], of each class, in [0, 1].
  """

  rows: _Array
  boxes: _Array
  scores: _Array
  annotated: _Array
  probabilities: _Array


@dataclasses.dataclass(frozen=True)
class ProtocolResult:
  """What a protocol found.

  Attributes:
    metrics: Name -> value, for the logs.
    files: What was written.
    report: For people, several lines.
  """

  metrics: dict[str, float]
  files: list[Path]
  report: str
