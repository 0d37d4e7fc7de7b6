"""What scores the predictions of a task on boxes: the types between evaluation and projects.

A task names its protocol in the config, `tasks.NAME.protocol`, by import path and arguments.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from datasets.dataset import VideoDataset

_Array = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class BoxPredictions:
  """Predictions for the M boxes of a split, in the order of its rows and of each row's regions.

  Attributes:
    rows: [M] int64, the example of each box.
    boxes: [M, 4] float32, ymin, xmin, ymax, xmax in [0, 1] of the frame, as they are stored.
    scores: [M] float32, the detector's confidence; 1 for annotated boxes.
    annotated: [M] bool, whether a person drew the box rather than a detector.
    probabilities: [M, K] float32 in [0, 1], of each class.
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
    metrics: `'NAME/TASK'` -> value, for each name of the protocol's `METRICS`.
    files: what was written.
    report: for people to read.
  """

  metrics: Mapping[str, float]
  files: list[Path]
  report: str


class BoxProtocol(Protocol):
  """Scores a task on boxes.

  Attributes:
    METRICS: names of the metrics, without the task.
  """

  METRICS: ClassVar[tuple[str, ...]]

  def check(self, dataset: VideoDataset, task: str) -> None:
    """Raises a TubeletError if `__call__` could not score this split; runs call it at their start.

    Args:
      dataset: the split that will be evaluated.
      task: name of the task.
    """

  def __call__(
    self, predictions: BoxPredictions, dataset: VideoDataset, task: str, folder: Path | None
  ) -> ProtocolResult:
    """Scores predictions for all examples of a split; every process calls it with all of them.

    Args:
      predictions: of the model.
      dataset: the split, with the annotated boxes and their labels.
      task: name of the task.
      folder: where to write files; None: nothing is written.
    """
