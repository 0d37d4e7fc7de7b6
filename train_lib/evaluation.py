"""Evaluation: every example once, (sum, count) metrics, predictions and pictures a person reads."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from datasets import clips
from datasets.clip_config import ClipConfig
from datasets.dataset import VideoDataset
from datasets.examples import PADDING_ROW, unreadable_row
from errors import PreemptedError, ShardingError
from train_lib import data, pictures
from train_lib.average_precision import average_precisions
from train_lib.console import progress
from train_lib.experiment import Experiment
from train_lib.files import write_atomically
from train_lib.program import Program
from train_lib.protocols import BoxPredictions, ProtocolResult
from train_lib.state import PyTree

# Clips of each kind, right and wrong, on the contact sheet.
SHEET_CLIPS = 8
# Of a clip's settings, those that evaluation goes by.
_SHOWN = ('frames', 'stride', 'fps', 'sampling', 'short_clip', 'resize', 'crop', 'fit')
# Fields of `TaskPredictions` by what the step calls them.
_PARTS = {
  'top_classes': 'top_classes',
  'top_probabilities': 'top_probabilities',
  'labels': 'label',
  'scores': 'label_scores',
  'ranks': 'label_ranks',
}


@dataclasses.dataclass(frozen=True)
class TaskPredictions:
  """Predictions of one task over the whole split, in index order.

  Of classes that score alike the first is predicted here, while the metrics count a tie as wrong.

  Attributes:
    top_classes: [N, <=5] int, best first.
    top_probabilities: [N, <=5] float32.
    labels: [N] int, or [N, K] multi-hot.
    scores: [N, K] float32 logits of all classes, of a task with several labels a clip; else None.
    ranks: [N] int, `losses.rank_of_label`, of a task with one label a clip; else None.
  """

  top_classes: np.ndarray
  top_probabilities: np.ndarray
  labels: np.ndarray
  scores: np.ndarray | None = None
  ranks: np.ndarray | None = None

  @property
  def correct(self) -> np.ndarray:
    """[N] bool: the best class is the label; of a task with one label a clip."""
    return np.asarray(self.top_classes[:, 0] == self.labels)

  def multi_hot(self, classes: int) -> np.ndarray:
    """[N, K] bool: which of the K classes are labels."""
    if self.labels.ndim > 1:
      return self.labels > 0
    return self.labels[:, None] == np.arange(classes)


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Results of one pass over a split.

  Attributes:
    metrics: Name -> value, such as `top1/label`.
    examples: Number of examples counted.
    unreadable: Number of records of the split that could not be used: nothing takes their place.
    rows: [N] rows of the index, each exactly once.
    predictions: Task on clips -> predictions, aligned with `rows`.
    boxes: Task on boxes -> predictions for the boxes of all rows.
  """

  metrics: dict[str, float]
  examples: int
  unreadable: int
  rows: np.ndarray
  predictions: Mapping[str, TaskPredictions]
  boxes: Mapping[str, BoxPredictions]


def evaluate(
  program: Program,
  variables: PyTree,
  name: str,
  dataset: VideoDataset,
  stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
  """Runs the model over every example of a split, logits averaged over its views.

  Args:
    program: The experiment's program.
    variables: `TrainState.eval_variables`.
    name: The dataset in the config.
    dataset: The open split of it.
    stop: Whether the run is asked to stop, looked at before every batch.

  Raises:
    PreemptedError: `stop` said so; nothing is known then.
  """
  outputs: list[dict[str, Any]] = []
  in_flight: dict[str, Any] | None = None
  steps = -(-len(dataset) // program.experiment.evaluation.batch_size)
  stream = data.eval_stream(program, name, dataset)
  for host_batch, batch in progress(stream, f'evaluating {name}', steps):
    if stop():
      stream.close()
      raise PreemptedError('Asked to stop while evaluating.')
    result = _kept(program, program.eval_step(variables, batch))
    result |= _known(program, host_batch, batch)
    if in_flight is not None:  # Fetched while the device works on the next batch.
      outputs.append(jax.device_get(in_flight))
    in_flight = result
  outputs.append(jax.device_get(in_flight))
  totals = jax.tree.map(lambda *x: np.sum(np.stack(x), 0), *[o['metrics'] for o in outputs])
  rows = np.concatenate([o['row'] for o in outputs])
  keep = rows >= 0
  unreadable = unreadable_row(rows[rows < PADDING_ROW])
  if sorted([*rows[keep], *unreadable]) != list(range(len(dataset))):
    raise ShardingError(
      f'Evaluation saw {int(keep.sum())} rows of the {len(dataset)} in split {dataset.split!r}, not '
      'each once: the processes do not read the parts of the batch that their devices hold.'
    )
  predictions = {
    task: TaskPredictions(
      **{
        field: np.concatenate([o[part][task] for o in outputs])[keep]
        for field, part in _PARTS.items()
        if task in outputs[0][part]
      }
    )
    for task in outputs[0]['top_classes']
  }
  boxes = {
    task: _box_predictions(dataset, task, rows, outputs) for task in outputs[0]['box_probabilities']
  }
  metrics = {k: float(s / max(n, 1)) for k, (s, n) in sorted(totals.items())}
  unusable = len(unreadable) + len(dataset.defects)
  return Evaluation(metrics, int(keep.sum()), unusable, rows[keep], predictions, boxes)


def _box_predictions(
  dataset: VideoDataset, task: str, rows: np.ndarray, outputs: list[dict[str, Any]]
) -> BoxPredictions:
  """Gathers the predictions of the boxes that are not padding."""
  probabilities = np.concatenate([o['box_probabilities'][task] for o in outputs])  # [R, N, K]
  index = np.concatenate([o['box_index'] for o in outputs])  # [R, N]
  shown, places = np.nonzero((index >= 0) & (rows >= 0)[:, None])
  regions = {int(row): dataset.regions(int(row), task) for row in np.unique(rows[shown])}
  found = [(regions[int(rows[i])], index[i, n]) for i, n in zip(shown, places)]
  return BoxPredictions(
    rows=rows[shown].astype(np.int64),
    boxes=np.array([r.boxes[j] for r, j in found], np.float32).reshape(-1, 4),
    scores=np.array([r.scores[j] for r, j in found], np.float32),
    annotated=np.array([r.annotated[j] for r, j in found], bool),
    probabilities=probabilities[shown, places],
  )


def _kept(program: Program, result: Mapping[str, Any]) -> dict[str, Any]:
  """What is gathered over the split: numbers of all classes only where they are scored."""
  tasks, probabilities = program.experiment.tasks, result['probabilities']
  return {
    **{key: result[key] for key in ('metrics', 'top_classes', 'top_probabilities', 'label_ranks')},
    # Not probabilities, which would tie: float32 rounds those of logits above 16.6 to 1.
    'label_scores': {k: v for k, v in result['logits'].items() if tasks[k].multi_label},
    'box_probabilities': {k: v for k, v in probabilities.items() if tasks[k].on_boxes},
  }


def _known(program: Program, host_batch: Mapping[str, Any], batch: Any) -> dict[str, Any]:
  """Rows, clips' labels and boxes' places of the global batch, which one host alone does not hold."""
  of_clips = [k for k in host_batch['label'] if not program.experiment.tasks[k].on_boxes]

  def known(source: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: source[key] for key in ('row', 'box_index') if key in source}
    return {**kept, 'label': {task: source['label'][task] for task in of_clips}}

  if jax.process_count() == 1:
    return known(host_batch)
  from jax.experimental import multihost_utils

  gathered: dict[str, Any] = multihost_utils.process_allgather(known(batch), tiled=True)
  return gathered


def score_boxes(
  evaluation: Evaluation, program: Program, dataset: VideoDataset, folder: Path | None
) -> tuple[Evaluation, list[Path], str]:
  """Adds what the protocols of tasks on boxes say of the predictions.

  Args:
    evaluation: Of one pass over the split.
    program: The experiment's program.
    dataset: The open split.
    folder: Where protocols may write; None: nowhere.

  Returns:
    The evaluation with the protocols' metrics, the files written, and reports for people.
  """
  metrics, files, reports = dict(evaluation.metrics), [], []
  for task, predictions in evaluation.boxes.items():
    protocol = program.experiment.tasks[task].protocol
    if protocol is not None:
      result: ProtocolResult = protocol.build()(predictions, dataset, task, folder)
      metrics.update(result.metrics)
      files += result.files
      reports.append(result.report)
  return dataclasses.replace(evaluation, metrics=metrics), files, '\n'.join(reports)


def write_results(
  evaluation: Evaluation, folder: Path, program: Program, name: str, dataset: VideoDataset
) -> list[Path]:
  """Writes `metrics.json`, `predictions.jsonl` and the pictures of a dataset's split.

  Returns:
    The files written.
  """
  files = [folder / 'metrics.json', folder / 'predictions.jsonl']
  counts = {'examples': evaluation.examples, 'unreadable': evaluation.unreadable}
  facts = {'data': dataset.fingerprint, 'shown': _how_shown(program.experiment, name)}
  summary = {**counts, **facts, **evaluation.metrics}
  write_atomically(files[0], json.dumps(summary, indent=2) + '\n')
  lines = _prediction_lines(evaluation, dataset)
  write_atomically(files[1], ''.join(json.dumps(line) + '\n' for line in lines))
  if program.experiment.evaluation.pictures:
    files += _write_pictures(evaluation, folder, program, name, dataset)
  return files


def _how_shown(experiment: Experiment, name: str) -> str:
  """How the videos were shown, and what was averaged over their views."""
  config, average = experiment.datasets[name], experiment.evaluation.average
  shown = {field: getattr(config.clip, field) for field in _SHOWN}
  return f'{config.temporal_views} x {config.spatial_views} views, mean of {average}, ' + ', '.join(
    f'{field} {value}' for field, value in shown.items()
  )


def _prediction_lines(evaluation: Evaluation, dataset: VideoDataset) -> list[dict[str, Any]]:
  lines = []
  boxes = {task: np.argsort(p.rows, kind='stable') for task, p in evaluation.boxes.items()}
  for i, row in enumerate(evaluation.rows):
    line: dict[str, Any] = {'id': dataset.key(int(row))}
    for task, predictions in evaluation.predictions.items():
      names = dataset.class_names(task)
      line[task] = {
        **_label(predictions, i, names),
        'top5': _top(names, predictions.top_classes[i], predictions.top_probabilities[i]),
      }
    for task, order in boxes.items():
      of_row = evaluation.boxes[task].rows[order]
      first, last = np.searchsorted(of_row, [row, row + 1])
      line[task] = [
        _box_line(evaluation.boxes[task], int(m), dataset.class_names(task))
        for m in order[first:last]
      ]
    lines.append(line)
  return lines


def _label(predictions: TaskPredictions, i: int, names: Sequence[str]) -> dict[str, Any]:
  """What is true of an example: from it and `top5` alone the accuracies can be computed again."""
  label = predictions.labels[i]
  if label.ndim:
    own = [int(k) for k in np.flatnonzero(label)]
    return {'label': own, 'name': [names[k] for k in own]}
  known = {} if predictions.ranks is None else {'rank': int(predictions.ranks[i])}
  return {'label': int(label), 'name': names[int(label)], **known}


def _top(names: Sequence[str], classes: np.ndarray, probabilities: np.ndarray) -> list[Any]:
  return [
    {'class': int(k), 'name': names[int(k)], 'probability': round(float(p), 6)}
    for k, p in zip(classes, probabilities)
  ]


def _box_line(predictions: BoxPredictions, m: int, names: Sequence[str]) -> dict[str, Any]:
  """A box with its best five classes; ymin, xmin, ymax, xmax in [0, 1] of the frame."""
  probabilities = predictions.probabilities[m]
  best = np.argsort(-probabilities, kind='stable')[:5]
  return {
    'box': [round(float(x), 6) for x in predictions.boxes[m]],
    'annotated': bool(predictions.annotated[m]),
    'detector': round(float(predictions.scores[m]), 6),
    'top5': _top(names, best, probabilities[best]),
  }


def _write_pictures(
  evaluation: Evaluation, folder: Path, program: Program, name: str, dataset: VideoDataset
) -> list[Path]:
  files = []
  clip = program.experiment.datasets[name].clip
  for task, predictions in evaluation.predictions.items():
    names = dataset.class_names(task)
    if predictions.scores is None:
      confusion = np.zeros((len(names), len(names)), np.int64)
      np.add.at(confusion, (predictions.labels, predictions.top_classes[:, 0]), 1)
      files.append(folder / f'confusion_{task}.png')
      pictures.confusion_matrix_png(files[-1], confusion, names)
      chosen, titles = _wrong_and_right(predictions), ('Wrong', 'Right')
    else:  # A confusion matrix needs one label a clip.
      chosen, titles = _worst_and_best(predictions, len(names)), ('Worst', 'Best')
    files.append(folder / f'clips_{task}.png')
    shown = [
      _sheet_clip(evaluation, task, int(place), good, clip, dataset)
      for good, places in zip((False, True), chosen)
      for place in places
    ]
    pictures.contact_sheet_png(files[-1], shown, titles)
  return files


def _wrong_and_right(predictions: TaskPredictions) -> tuple[np.ndarray, np.ndarray]:
  """The most confident mistakes, and right clips spread over the split."""
  correct = predictions.correct
  wrong = np.flatnonzero(~correct)
  wrong = wrong[np.argsort(-predictions.top_probabilities[wrong, 0], kind='stable')][:SHEET_CLIPS]
  right = np.flatnonzero(correct)
  return wrong, right[np.linspace(0, len(right) - 1, min(SHEET_CLIPS, len(right))).astype(int)]


def _worst_and_best(predictions: TaskPredictions, classes: int) -> tuple[np.ndarray, np.ndarray]:
  """Of the clips with labels, by the average precision of those among all classes."""
  scores = np.asarray(predictions.scores)
  precision = average_precisions(scores.T, predictions.multi_hot(classes).T)
  order = np.argsort(precision, kind='stable')[: np.sum(~np.isnan(precision))]
  shown = min(2 * SHEET_CLIPS, len(order))
  return order[: (shown + 1) // 2], order[::-1][: shown // 2]


def _sheet_clip(
  evaluation: Evaluation,
  task: str,
  place: int,
  good: bool,
  clip: ClipConfig,
  dataset: VideoDataset,
) -> pictures.Clip:
  """The clip at a place of the predictions, with its first view's frames."""
  predictions, names = evaluation.predictions[task], dataset.class_names(task)
  row = int(evaluation.rows[place])
  labels = [names[k] for k in np.flatnonzero(predictions.multi_hot(len(names))[place])]
  best = zip(predictions.top_classes[place], predictions.top_probabilities[place])
  return pictures.Clip(
    clips.view_clips(dataset, clip, row, 1, 1)[0],
    ', '.join(labels),
    [(names[int(k)], float(p)) for k, p in best],
    good,
    dataset.key(row),
    labels,
  )
