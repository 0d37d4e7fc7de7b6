"""Predictions for videos, by the step that evaluations are made with.

A `Predictor` cuts a video as an evaluation of its checkpoint does and runs the same compiled program
on it, in the same precision. On one device its numbers are those of an evaluation whose batches have
the same size, bit for bit, wherever in a batch the video stands. XLA compiles another program for
another size, which may round otherwise in the last bits.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from datasets import clips, patches
from datasets.batches import Loading, eval_batches
from datasets.box_config import BoxConfig
from datasets.clip_config import ClipConfig
from datasets.dataset import VideoDataset
from datasets.examples import PADDING_ROW, unreadable_row
from datasets.manifest import TaskLabels
from datasets.unlabelled import UnlabelledVideos
from datasets.video import VideoInfo
from errors import ConfigError, DataError
from train_lib import preprocessing
from train_lib.console import progress
from train_lib.eval_step import jit_eval_step
from train_lib.experiment import DatasetConfig, MeshConfig
from train_lib.labels import Batch
from train_lib.mesh import make_mesh, replicated
from train_lib.program import to_device
from train_lib.trained import Trained


@dataclasses.dataclass(frozen=True)
class Scores:
  """What a model says of a clip, or of a video over its views.

  Attributes:
    logits: float32 [K].
    probabilities: float32 [K], of one label together or of each class by itself, by the task's loss.
  """

  logits: np.ndarray
  probabilities: np.ndarray

  def best(self, count: int) -> np.ndarray:
    """The most probable classes, best first, int64 [count]; of equal ones the first."""
    return np.argsort(-self.probabilities, kind='stable')[:count]


@dataclasses.dataclass(frozen=True)
class VideoScores:
  """What a model says of a video.

  Attributes:
    tasks: task -> scores.
    indices: the frames of each temporal view, int64 [views, T].
  """

  tasks: Mapping[str, Scores]
  indices: np.ndarray


class Predictor:
  """A trained model that predicts as it was evaluated, on the first device there is."""

  def __init__(
    self, trained: Trained, *, views: tuple[int, int] | None = None, batch_size: int = 0
  ) -> None:
    """Prepares the model; it compiles when it is first used.

    Args:
      trained: from `trained.load(path, as_trained=True)`.
      views: temporal and spatial views of a video; None: those of the checkpoint's evaluations.
      batch_size: videos at a time; 0: as many as there are, at most as in the evaluations.

    Raises:
      ConfigError: The checkpoint's clips cannot have these views.
    """
    self.trained = trained
    self.experiment = trained.experiment
    if views is not None:
      self.experiment = dataclasses.replace(
        self.experiment,
        datasets={
          name: config if config.boxes else _with_views(config, *views)
          for name, config in self.experiment.datasets.items()
        },
      )
    self._batch_size = batch_size
    self._mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    self._step = jit_eval_step(self.experiment, trained.facts, trained.model, self._mesh)
    self._variables = jax.device_put(trained.variables, replicated(self._mesh))
    self._shown = preprocessing.of(self.experiment)

  def datasets_of(self, task: str = '') -> dict[str, list[str]]:
    """Dataset -> those of its tasks that are asked for: one, or for '' all.

    Raises:
      ConfigError: There is no such task.
    """
    tasks = self.experiment.tasks
    if task and task not in tasks:
      raise ConfigError(f'--task={task}: the checkpoint has {sorted(tasks)}.')
    found: dict[str, list[str]] = {}
    for name in [task] if task else tasks:
      found.setdefault(tasks[name].dataset, []).append(name)
    return found

  def clip(self, dataset: str) -> ClipConfig:
    """How clips of a dataset's videos are cut."""
    return self._shown[dataset].clip

  def on_boxes(self, dataset: str) -> bool:
    """Whether a dataset's clips are about keyframes with boxes."""
    return self.experiment.datasets[dataset].boxes is not None

  def views(self, dataset: str) -> str:
    """What is looked at: `'4 x 3 views of 32 frames at 224 x 224'`."""
    config, clip = self.experiment.datasets[dataset], self.clip(dataset)
    return (
      f'{config.temporal_views} x {config.spatial_views} views of {clip.frames} frames at '
      f'{clip.crop} x {clip.crop}'
    )

  def labels_of(self, dataset: str) -> dict[str, TaskLabels]:
    """The classes of a dataset's tasks, as an open split of it would have them."""
    names = self.trained.class_names
    return {
      task: TaskLabels(names[task], config.loss == 'sigmoid', 0, config.on_boxes)
      for task, config in self.experiment.tasks_of(dataset).items()
    }

  def predict(
    self, dataset: str, paths: Sequence[str | Path], infos: Sequence[VideoInfo]
  ) -> Iterator[VideoScores | DataError]:
    """Predicts the tasks of a dataset for videos, in order; memory is that of a few batches.

    Args:
      dataset: of the checkpoint, without boxes.
      paths: of the videos.
      infos: what `video.probe` says of them.

    Yields:
      The scores, or what is wrong with a video.
    """
    if not paths:
      return
    videos, config = UnlabelledVideos(paths, infos, self.labels_of(dataset)), self._of(dataset)
    for row, outputs, _ in self._evaluate(dataset, videos):
      if isinstance(outputs, DataError):
        yield outputs
        continue
      indices = clips.view_indices(videos, self.clip(dataset), row, config.temporal_views)
      try:
        yield VideoScores(_scores(outputs), indices)
      except DataError as error:
        yield error

  def predict_clips(
    self, dataset: str, pixels: Iterable[np.ndarray], batch_size: int
  ) -> Iterator[dict[str, Scores]]:
    """Predicts the tasks of a dataset for clips, each by itself, in order.

    Args:
      dataset: of the checkpoint, without boxes.
      pixels: uint8 [T, H, W, 3] each, as `clip(dataset)` says.
      batch_size: clips at a time.

    Raises:
      DataError: Probabilities are NaN.
    """
    shape, patch = self.clip(dataset).shape, self.experiment.host_patch
    for group in _grouped(pixels, batch_size):
      inputs: np.ndarray = np.zeros((batch_size, 1, *shape), np.uint8)
      inputs[: len(group), 0] = group
      if patch is not None:
        cut = np.empty(patches.patch_shape(inputs.shape, patch), np.uint8)
        patches.cut(inputs, patch, cut)
        inputs = cut
      outputs = self._outputs(self._clip_batch(dataset, inputs, len(group)))
      for i in range(len(group)):
        yield _scores(_at(outputs, i))

  def predict_boxes(
    self, dataset: str, keyframes: VideoDataset
  ) -> Iterator[tuple[int, dict[str, np.ndarray], np.ndarray]]:
    """Predicts the tasks of a dataset with boxes, keyframe after keyframe.

    Args:
      dataset: of the checkpoint, with boxes.
      keyframes: a row each, of the tasks `labels_of(dataset)`.

    Yields:
      Row; task on boxes -> probabilities float32 [M, K]; places of these M boxes among
      `keyframes.regions(row, task)`: those of the score that evaluations ask for, that are in sight.

    Raises:
      DataError: A frame cannot be read, or probabilities are NaN.
    """
    for row, outputs, index in self._evaluate(dataset, keyframes):
      if isinstance(outputs, DataError):
        raise outputs
      _check_numbers(outputs['probabilities'])
      there = index >= 0
      found = {task: p[there] for task, p in outputs['probabilities'].items() if p.ndim > 1}
      yield row, found, index[there]

  def _of(self, dataset: str) -> DatasetConfig:
    return self.experiment.datasets[dataset]

  def _evaluate(
    self, dataset: str, videos: VideoDataset
  ) -> Iterator[tuple[int, Mapping[str, Any] | DataError, Any]]:
    """(row, its part of the step's outputs, its places of boxes) in order, as evaluations run."""
    config = self._of(dataset)
    most = self._batch_size or min(len(videos), self.experiment.evaluation.batch_size)
    batches = eval_batches(
      videos,
      self.clip(dataset),
      batch_size=most,
      temporal_views=config.temporal_views,
      spatial_views=config.spatial_views,
      boxes=None if config.boxes is None else _with_room(config.boxes, videos),
      patch=self.experiment.host_patch,
      max_bad_records=len(videos),
      loading=Loading(self.experiment.loader_threads, self.experiment.loader_processes),
    )
    with batches:
      for batch in progress(batches, f'predicting {dataset}', -(-len(videos) // most)):
        outputs = self._outputs(batch)
        for i, row in enumerate(batch['row'].tolist()):
          if row < PADDING_ROW:
            yield unreadable_row(row), DataError(batches.skipped[unreadable_row(row)]), None
          elif row >= 0:
            yield row, _at(outputs, i), batch['box_index'][i] if 'box_index' in batch else None

  def _outputs(self, batch: Batch) -> dict[str, Any]:
    made = self._step(self._variables, to_device(self._mesh, batch))
    outputs: dict[str, Any] = jax.device_get({k: made[k] for k in ('logits', 'probabilities')})
    return outputs

  def _clip_batch(self, dataset: str, inputs: np.ndarray, count: int) -> dict[str, Any]:
    """A batch of evaluation whose first `count` places are clips."""
    size = len(inputs)
    labels = {
      task: np.zeros((size, group.num_classes), np.float32)
      if group.multi_label
      else np.zeros(size, np.int32)
      for task, group in self.labels_of(dataset).items()
    }
    place = np.arange(size)
    mask, rows = (place < count).astype(np.float32), np.where(place < count, place, PADDING_ROW)
    return {'inputs': inputs, 'label': labels, 'batch_mask': mask, 'row': rows}


def joint_scores(
  joint_tasks: Mapping[str, Sequence[str]], tasks: Mapping[str, Scores]
) -> dict[str, Scores]:
  """Scores of the combinations that evaluations count, such as an action of verb and noun.

  Args:
    joint_tasks: of the evaluation's config.
    tasks: task -> scores.

  Returns:
    Name of the combination -> scores of K1 * K2 * ... classes, the last task's counting fastest; of
    those combinations whose tasks are all in `tasks`.
  """
  found = {}
  for name, parts in joint_tasks.items():
    if all(part in tasks for part in parts):
      joint = np.ones(1, np.float32)
      for part in parts:
        joint = np.outer(joint, tasks[part].probabilities).ravel()
      with np.errstate(divide='ignore'):
        found[name] = Scores(np.log(joint), joint)
  return found


def joint_names(names: Sequence[Sequence[str]], index: int) -> tuple[str, ...]:
  """The classes of a combination by its number among `joint_scores`; `names` are each task's."""
  places = np.unravel_index(index, [len(own) for own in names])
  return tuple(own[int(place)] for own, place in zip(names, places))


def _with_room(boxes: BoxConfig, videos: VideoDataset) -> BoxConfig:
  """Boxes of which every keyframe's have room."""
  most = int(np.bincount(videos.box_table().rows).max())
  return dataclasses.replace(boxes, max_boxes=max(boxes.max_boxes, most))


def _with_views(config: DatasetConfig, temporal: int, spatial: int) -> DatasetConfig:
  return dataclasses.replace(config, temporal_views=temporal, spatial_views=spatial)


def _check_numbers(probabilities: Mapping[str, np.ndarray]) -> None:
  """Raises DataError where a model that went wrong gives NaN."""
  for task, found in probabilities.items():
    if np.isnan(found).any():
      raise DataError(
        f"the model's probabilities of {task} are NaN: look at its evaluation and the loss of its run."
      )


def _scores(outputs: Mapping[str, Any]) -> dict[str, Scores]:
  _check_numbers(outputs['probabilities'])
  return {
    task: Scores(logits, outputs['probabilities'][task])
    for task, logits in outputs['logits'].items()
  }


def _at(outputs: Mapping[str, Any], place: int) -> dict[str, Any]:
  return {part: {t: x[place] for t, x in values.items()} for part, values in outputs.items()}


def _grouped(items: Iterable[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
  group: list[np.ndarray] = []
  for item in items:
    group.append(item)
    if len(group) == size:
      yield group
      group = []
  if group:
    yield group
