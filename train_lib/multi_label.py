"""Scores tasks that give whole clips several labels: mean average precision over the whole split.

The rules are those of the official evaluation of Charades (Charades_v1_classify.m): AP of a class is
the mean, over the examples that have it, of the precision at each one's rank, not interpolated; mAP is
the plain mean over classes. Examples without any label are left out: there they score -inf in every
class, so that they rank below all others, which comes to the same.

DEVIATION: equal scores have one rank, the last of them, whatever the order of the examples; there a
stable sort ranks them by the order of the file. Classes that no example has are left out of the mean;
there they make it NaN. Examples that cannot be read are left out; there, videos without scores rank
last.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.dataset import VideoDataset
from train_lib import class_chart
from train_lib.average_precision import average_precisions
from train_lib.evaluation import Evaluation, TaskPredictions
from train_lib.files import write_atomically
from train_lib.program import Program

_Array = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class LabelScores:
  """How well the classes of a task were found.

  Attributes:
    names: K class names.
    positives: [K] int, examples of each class.
    ap: [K] float64, average precision in [0, 1]; NaN without positives.
    examples: Examples that count.
    unlabelled: Examples left out because they have no label.
  """

  names: Sequence[str]
  positives: _Array
  ap: _Array
  examples: int
  unlabelled: int

  @property
  def mean_ap(self) -> float | None:
    """Mean over the classes with positives; None if there are none."""
    scored = self.ap[self.positives > 0]
    return float(scored.mean()) if len(scored) else None

  @property
  def without_positives(self) -> int:
    """Classes that no example has."""
    return int(np.sum(self.positives == 0))


def score(predictions: TaskPredictions, names: Sequence[str]) -> LabelScores:
  """Scores the predictions of a task with `scores` for a whole split.

  Args:
    predictions: Of all examples.
    names: Class names.
  """
  labels, scores = predictions.multi_hot(len(names)), np.asarray(predictions.scores)
  labelled = labels.any(1)
  return LabelScores(
    names=names,
    positives=labels.sum(0),
    ap=average_precisions(scores[labelled], labels[labelled]),
    examples=int(labelled.sum()),
    unlabelled=int(np.sum(~labelled)),
  )


def score_labels(
  evaluation: Evaluation, program: Program, dataset: VideoDataset, folder: Path | None
) -> tuple[Evaluation, list[Path], str]:
  """Adds `mAP/TASK` of the tasks with several labels a clip; left out where no example has a label.

  Args:
    evaluation: Of one pass over the split.
    program: The experiment's program.
    dataset: The open split.
    folder: Where `ap_TASK.json` and, with pictures, `ap_TASK.png` go; None: nowhere.

  Returns:
    The evaluation with the metrics, the files written, and reports for people.
  """
  metrics, files, reports = dict(evaluation.metrics), [], []
  for task, predictions in evaluation.predictions.items():
    if not program.experiment.tasks[task].multi_label:
      continue
    scores = score(predictions, dataset.class_names(task))
    if scores.mean_ap is not None:
      metrics[f'mAP/{task}'] = scores.mean_ap
    reports.append(report(task, scores))
    if folder is not None:
      files.append(folder / f'ap_{task}.json')
      content = json.dumps(as_json(scores), indent=1, ensure_ascii=False)
      write_atomically(files[-1], content + '\n')
      if program.experiment.evaluation.pictures:
        files.append(folder / f'ap_{task}.png')
        _chart_png(files[-1], scores, f'{task}: {dataset.where}, {dataset.split}')
  return dataclasses.replace(evaluation, metrics=metrics), files, '\n'.join(reports)


def report(task: str, scores: LabelScores) -> str:
  """A line: mAP, how many classes and examples it is of, and how many were left out."""
  classes, missing = len(scores.names), scores.without_positives
  scored = f'{classes - missing} of {classes} classes, {scores.examples:,} examples'
  left_out = [
    f'{count:,} {kind}{plural * (count > 1)} without {what}'
    for count, kind, plural, what in (
      (missing, 'class', 'es', 'an example'),
      (scores.unlabelled, 'example', 's', 'a label'),
    )
    if count
  ]
  parts = [scored, *(['left out: ' + ', '.join(left_out)] if left_out else [])]
  return f'mAP of {task}: {_text(scores.mean_ap)}; {"; ".join(parts)}'


def as_json(scores: LabelScores) -> dict[str, Any]:
  """Everything there is to know, classes in label order; null where there is no number."""
  return {
    'metric': 'mean average precision, not interpolated',
    'mAP': scores.mean_ap,
    'examples': scores.examples,
    'examples_without_label': scores.unlabelled,
    'classes_without_positives': scores.without_positives,
    'classes': [
      {'name': name, 'positives': int(count), 'ap': float(ap) if count else None}
      for name, count, ap in zip(scores.names, scores.positives, scores.ap, strict=True)
    ],
  }


def _chart_png(path: Path, scores: LabelScores, title: str) -> None:
  order = np.argsort(-scores.positives, kind='stable')
  class_chart.class_chart_png(
    path,
    [
      class_chart.Bar(scores.names[k], float(scores.ap[k]), int(scores.positives[k])) for k in order
    ],
    [(f'mAP {_text(scores.mean_ap)}', class_chart.COLOR)],
    title=title,
    precision='AP',
    counts='examples',
  )


def _text(value: float | None) -> str:
  return 'n/a' if value is None else f'{value:.4f}'
