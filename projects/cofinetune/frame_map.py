"""AVA's frame-mAP as the protocol of a detection task."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datasets.dataset import VideoDataset
from errors import ConfigError, DataError, check_range
from projects.cofinetune import ava, ava_chart, ava_csv, ava_report
from projects.cofinetune.ava_csv import BoxTable, ClassGroup, Keyframe
from train_lib.files import write_atomically
from train_lib.protocols import BoxPredictions, ProtocolResult

_Array = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True)
class FrameMAP:
  """Scores detected boxes, and annotated ones beside them, by AVA's official rules.

  The score of a detection is the class's probability, not multiplied by the detector's confidence
  (SlowFast's convention). Writes what the stand-alone command `evaluate_ava` scores to the same
  number.

  Attributes:
    iou: What a detection must overlap an annotated box by, in (0, 1].
    class_groups: Head, mid and tail classes: a csv file `label,group,train_labels`, `'ava'` for AVA
      v2.2's; '': AVA's if it has all the evaluated classes, else no groups.
    evaluated_classes: A label map (pbtxt) with the classes that count; '': all of the dataset.
  """

  iou: float = 0.5
  class_groups: str = ''
  evaluated_classes: str = ''

  def __post_init__(self) -> None:
    check_range('protocol', 'iou', self.iou, 1e-6, 1.0)

  def __call__(
    self, predictions: BoxPredictions, dataset: VideoDataset, task: str, folder: Path
  ) -> ProtocolResult:
    """Scores the predictions of a whole split.

    Args:
      predictions: One entry per box.
      dataset: The split; its annotated boxes are the ground truth, its keys `video,seconds`.
      task: The detection task; class k of it has the id `dataset.class_ids(task)[k]` in files.
      folder: Where `detections_TASK.csv`, `groundtruth_TASK.csv`, `ava_TASK.json` and `ap_TASK.png`
        go; it exists.

    Returns:
      `mAP/TASK` (`mAP_head/TASK` and so on with groups) of detected boxes in [0, 1], and
      `mAP_annotated_boxes/TASK`, which is not comparable with it; a number that does not exist, for
      want of annotated boxes, is left out.

    Raises:
      DataError: A key is no `video,seconds`; a file of classes cannot be used.
      ConfigError: `evaluated_classes` names an id that the dataset lacks.
    """
    keyframes = _keyframes(dataset)
    names = self._classes(dataset, task)
    groups = ava_csv.class_groups(self.class_groups, names.values())
    class_ids = np.asarray(dataset.class_ids(task), np.int64)
    truth = _ground_truth(keyframes, dataset, task, class_ids)
    parts: dict[str, Any] = {}
    reports = []
    for boxes, wanted in ((ava_report.DETECTED, False), (ava_report.ANNOTATED, True)):
      table = _detections(keyframes, predictions, predictions.annotated == wanted, class_ids)
      result = ava.evaluate(truth, table, names, iou=self.iou)
      parts[boxes] = table, result
      reports.append(_report(result, groups, boxes, truth, table, names))
    return _written(parts, truth, [dataset.key(r) for r in range(len(dataset))], groups, reports, task, folder)
