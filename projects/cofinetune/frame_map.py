"""AVA's frame-mAP as the protocol of a detection task."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from datasets import label_map
from datasets.dataset import VideoDataset
from errors import ConfigError, DataError, check_range
from projects.cofinetune import ava, ava_chart, ava_csv, ava_report
from projects.cofinetune.ava_csv import BoxTable, ClassGroup, KeyframeName
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
    evaluated_classes: The classes that count, by id: a label map (pbtxt), `'ava'` for the 60 of AVA
      v2.2's 80 that its evaluation counts; '': all of the dataset.
  """

  METRICS: ClassVar[tuple[str, ...]] = (
    'mAP', 'mAP_head', 'mAP_mid', 'mAP_tail', 'mAP_annotated_boxes'
  )  # fmt: skip

  iou: float = 0.5
  class_groups: str = ''
  evaluated_classes: str = ''

  def __post_init__(self) -> None:
    check_range('protocol', 'iou', self.iou, 1e-6, 1.0)

  def __call__(
    self, predictions: BoxPredictions, dataset: VideoDataset, task: str, folder: Path | None
  ) -> ProtocolResult:
    """Scores the predictions of a whole split.

    Args:
      predictions: One entry per box.
      dataset: The split; its annotated boxes are the ground truth, its keys `video,seconds`.
      task: The detection task; class k of it has the id `dataset.class_ids(task)[k]` in files.
      folder: Where `detections_TASK.csv`, `groundtruth_TASK.csv`, `ava_TASK.json` and `ap_TASK.png`
        go; it exists. None: nothing is written.

    Returns:
      `mAP/TASK` (`mAP_head/TASK` and so on with groups) of detected boxes in [0, 1], and
      `mAP_annotated_boxes/TASK`, which is not comparable with it; a number that does not exist, for
      want of annotated boxes, is left out.

    Raises:
      DataError, ConfigError: As `check`.
    """
    keys, ids = _keys(dataset), dataset.class_ids(task)
    names, groups = self._classes(dataset, task)
    truth = _ground_truth(dataset, task, tuple(keys))
    tables = {
      annotated: _detections(predictions, annotated, truth.keyframes, ids, names)
      for annotated in (False, True)
    }
    results = {
      annotated: ava.evaluate(truth, table, names, known=ids, iou=self.iou)
      for annotated, table in tables.items()
    }
    metrics = ava_report.mean_aps(results[False], groups)
    metrics['mAP_annotated_boxes'] = results[True].mean_ap()
    files: list[Path] = []
    if folder is not None:
      title = f'{task}: {dataset.where}, {dataset.split}'
      files = _write(folder, task, keys, truth, tables[False], results, groups, title)
    return ProtocolResult(
      {f'{name}/{task}': value for name, value in metrics.items() if value is not None},
      files,
      _report(results, groups, truth, tables[False], names),
    )

  def check(self, dataset: VideoDataset, task: str) -> None:
    """Finds before any training what `__call__` could not score.

    Raises:
      DataError: A key is no `video,seconds`; a file of classes cannot be used, or the table of
        groups lacks an evaluated class.
      ConfigError: The dataset lacks an id of `evaluated_classes`, or has another class there.
    """
    _keys(dataset)
    self._classes(dataset, task)

  def _classes(
    self, dataset: VideoDataset, task: str
  ) -> tuple[dict[int, str], Mapping[str, ClassGroup]]:
    """Id -> name of the classes that count, and their groups."""
    names = dict(zip(dataset.class_ids(task), dataset.class_names(task), strict=True))
    if self.evaluated_classes:
      names = self._evaluated(names, dataset.where)
    return names, ava_csv.class_groups(self.class_groups, names.values())

  def _evaluated(self, there: Mapping[int, str], where: str) -> dict[int, str]:
    """The classes of `evaluated_classes`, which must be among those `there`."""
    own = self.evaluated_classes != 'ava'
    path = self.evaluated_classes if own else ava_csv.AVA_EVALUATED
    wanted = label_map.read(path)
    wrong = [number for number, name in wanted.items() if there.get(number) != name]
    if wrong:
      first = wrong[0]
      raise ConfigError(
        f'protocol.evaluated_classes: {len(wrong)} of the {len(wanted)} classes of {path} are not '
        f'in {where}, whose {len(there)} ids are {min(there)} to {max(there)}: the first, {first}, is '
        f'{wanted[first]!r}, there {there.get(first)!r}. Build the dataset with the label map of '
        "these ids, or name one of its own classes ('': all count)."
      )
    return wanted


def _keys(dataset: VideoDataset) -> dict[KeyframeName, str]:
  """The keyframe of each row -> the row's key."""
  keys = {}
  for key in (dataset.key(row) for row in range(len(dataset))):
    video, _, seconds = key.rpartition(',')
    try:
      keys[KeyframeName.parse(video, seconds)] = key
    except ValueError as error:
      raise DataError(
        f"{dataset.where}: the key {key!r} names no keyframe ({error}); expected 'VIDEO,SECONDS', as "
        '`python -m tools.build_records --layout=ava` writes it.'
      ) from error
  if len(keys) < len(dataset):
    raise DataError(
      f'{dataset.where}: {len(dataset)} rows, but {len(keys)} keyframes: some keys name the same '
      'time of a video. Write every keyframe once.'
    )
  return keys


def _ground_truth(
  dataset: VideoDataset, task: str, keyframes: tuple[KeyframeName, ...]
) -> BoxTable:
  """The annotated boxes of a split, a row per label."""
  ids = np.asarray(dataset.class_ids(task), np.int64)
  rows, boxes, labels = [], [], []
  for row in range(len(dataset)):
    regions = dataset.regions(row, task)
    box, label = np.nonzero(regions.labels * regions.annotated[:, None])
    rows.append(np.full(len(box), row))
    boxes.append(regions.boxes[box])
    labels.append(ids[label])
  count = sum(map(len, rows))
  return _table(
    dataset.where, keyframes, np.concatenate(rows), np.concatenate(boxes), np.concatenate(labels),
    np.ones(count),
  )  # fmt: skip


def _detections(
  predictions: BoxPredictions,
  annotated: bool,
  keyframes: tuple[KeyframeName, ...],
  ids: tuple[int, ...],
  names: Mapping[int, str],
) -> BoxTable:
  """A row per box and evaluated class of the detected or the annotated boxes, by row of the dataset."""
  chosen = np.flatnonzero(predictions.annotated == annotated)
  chosen = chosen[np.argsort(predictions.rows[chosen], kind='stable')]
  present, place = np.unique(predictions.rows[chosen], return_inverse=True)
  columns = [k for k, class_id in enumerate(ids) if class_id in names]
  scores = predictions.probabilities[chosen][:, columns]
  classes = len(columns)
  return _table(
    'the predictions', tuple(keyframes[row] for row in present), np.repeat(place, classes),
    np.repeat(predictions.boxes[chosen], classes, axis=0),
    np.tile(np.array(ids, np.int64)[columns], len(chosen)), scores.reshape(-1),
  )  # fmt: skip


def _table(
  source: str,
  keyframes: tuple[KeyframeName, ...],
  keyframe: _Array,
  boxes: _Array,
  labels: _Array,
  scores: _Array,
) -> BoxTable:
  """A table with the values that a reader of its csv file gets."""
  return BoxTable(
    source=source,
    keyframes=keyframes,
    keyframe=keyframe.astype(np.int64),
    boxes=ava_csv.rounded(boxes, ava_csv.BOX_DECIMALS),
    labels=labels,
    scores=ava_csv.rounded(scores, ava_csv.SCORE_DECIMALS),
    lines=np.arange(1, len(labels) + 1),
    rows_without_box=len(keyframes) - len(np.unique(keyframe)),
  )


def _write(
  folder: Path,
  task: str,
  keys: Mapping[KeyframeName, str],
  truth: BoxTable,
  detections: BoxTable,
  results: Mapping[bool, ava.Evaluation],
  groups: Mapping[str, ClassGroup],
  title: str,
) -> list[Path]:
  """Both tables as csv, the results as JSON and the picture of detected boxes."""
  names = ('groundtruth_{}.csv', 'detections_{}.csv', 'ava_{}.json', 'ap_{}.png')
  files = [folder / name.format(task) for name in names]
  ava_csv.write_boxes(files[0], truth, keys, with_scores=False)
  ava_csv.write_boxes(files[1], detections, keys)
  content = {
    'detected_boxes': ava_report.as_json(results[False], groups, ava_report.DETECTED),
    'annotated_boxes': ava_report.as_json(results[True], groups, ava_report.ANNOTATED),
  }
  write_atomically(files[2], json.dumps(content, indent=1, ensure_ascii=False) + '\n')
  ava_chart.class_chart_png(files[3], results[False], groups, title)
  return files


def _report(
  results: Mapping[bool, ava.Evaluation],
  groups: Mapping[str, ClassGroup],
  truth: BoxTable,
  detections: BoxTable,
  names: Mapping[int, str],
) -> str:
  parts = [ava_report.full(results[False], groups, ava_report.DETECTED)]
  if ava_report.nothing_found(results[False]):
    parts.append(ava_report.comparison(results[False], truth, detections, names))
  parts.append(ava_report.header(results[True], ava_report.ANNOTATED))
  parts.append(ava_report.summary(results[True], groups))
  return '\n\n'.join(parts)
