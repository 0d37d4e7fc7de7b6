"""The boxes of an example: chosen, moved with the pixels, padded, with their labels."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from datasets import flips, geometry, regions
from datasets.box_config import BoxConfig
from datasets.clip_config import ClipConfig, require
from datasets.clips import Clip
from datasets.dataset import VideoDataset
from errors import ConfigError

_Array = np.ndarray[Any, np.dtype[Any]]
Part = dict[str, Any]
"""`boxes` float32 [max_boxes, 4], `box_mask` float32 [max_boxes], `label` {task: float32 [max_boxes, K]},
in evaluation `box_index` int32 [max_boxes]."""


def check(dataset: VideoDataset, clip: ClipConfig, boxes: BoxConfig | None) -> None:
  """Raises ConfigError unless dataset, clip and settings agree about whether there are boxes."""
  tasks = dataset.region_tasks
  if boxes is None:
    problem = f'a BoxConfig, because the labels of {list(tasks)} in {dataset.where} belong to boxes'
    require(not tasks, 'boxes', problem, boxes)
    return
  problem = f'a task whose labels belong to boxes in {dataset.where}, or no `boxes`'
  require(bool(tasks), 'tasks', problem, list(dataset.tasks))
  keyframe = clip.sampling == 'keyframe'
  require(keyframe, 'clip.sampling', "'keyframe', which the boxes are of", clip.sampling)


def check_room(dataset: VideoDataset, boxes: BoxConfig) -> None:
  """Raises ConfigError if a keyframe has more boxes to evaluate than fit."""
  table = dataset.box_table()
  chosen = regions.evaluated(table.scores, table.annotated, boxes)
  counts = np.bincount(table.rows[chosen], minlength=len(dataset))
  row = int(counts.argmax())
  if counts[row] > boxes.max_boxes:
    raise ConfigError(
      f'boxes.max_boxes: {boxes.max_boxes} do not hold the {counts[row]} boxes to evaluate of '
      f'{dataset.key(row)!r} (row {row} of {dataset.split!r} in {dataset.where}), the most of all '
      f'keyframes. Set it to {counts[row]}, or raise boxes.eval_min_score ({boxes.eval_min_score}).'
    )


def train_part(
  dataset: VideoDataset,
  boxes: BoxConfig,
  row: int,
  clip: Clip,
  rng: np.random.Generator,
  swaps: Mapping[str, _Array],
) -> Part:
  """The boxes of a training clip: jittered, where its window put them; a random part if too many.

  Args:
    dataset: where the keyframe is.
    boxes: which boxes.
    row: the keyframe.
    clip: what was cut.
    rng: random numbers of these boxes alone.
    swaps: what a flip makes of classes, from `flips.label_permutations`.
  """
  keyframe = dataset.keyframe(row)
  chosen, source = regions.trained(keyframe.boxes, keyframe.scores, keyframe.annotated, boxes)
  placed, visible = _placed(regions.jittered(rng, keyframe.boxes[chosen], boxes.jitter), clip)
  left = np.flatnonzero(visible)
  if len(left) > boxes.max_boxes:
    left = np.sort(rng.choice(left, boxes.max_boxes, replace=False))
  part = _padded(dataset, boxes, row, placed[left], source[left])
  if clip.window.flip:
    part['label'] = flips.swap_labels(part['label'], swaps)
  return part


def eval_part(dataset: VideoDataset, boxes: BoxConfig, row: int, clip: Clip) -> Part:
  """All boxes to evaluate that the clip shows, in the order of `dataset.regions`."""
  keyframe = dataset.keyframe(row)
  chosen = regions.evaluated(keyframe.scores, keyframe.annotated, boxes)
  placed, visible = _placed(keyframe.boxes[chosen], clip)
  chosen = chosen[visible]
  part = _padded(dataset, boxes, row, placed[visible], chosen)
  part['box_index'] = _filled(boxes.max_boxes, chosen.astype(np.int32), -1)
  return part


def empty_part(dataset: VideoDataset, boxes: BoxConfig) -> Part:
  """The part of an example of evaluation that has no keyframe."""
  label = {
    task: np.zeros((boxes.max_boxes, dataset.num_classes(task)), np.float32)
    for task in dataset.region_tasks
  }
  return {
    'boxes': np.zeros((boxes.max_boxes, 4), np.float32),
    'box_mask': np.zeros(boxes.max_boxes, np.float32),
    'label': label,
    'box_index': np.full(boxes.max_boxes, -1, np.int32),
  }


def _placed(boxes: _Array, clip: Clip) -> tuple[_Array, _Array]:
  """Boxes of the frame as boxes of the model's input, and which of them it shows."""
  return geometry.transform_boxes(boxes, *clip.shape, clip.window, clip.pixels.shape[-2])


def _padded(
  dataset: VideoDataset, config: BoxConfig, row: int, boxes: _Array, source: _Array
) -> Part:
  """The part of boxes [N, 4] that have the labels of the boxes `source` [N] of the keyframe."""
  room = config.max_boxes
  labels = {task: dataset.regions(row, task).labels[source] for task in dataset.region_tasks}
  return {
    'boxes': _filled(room, boxes),
    'box_mask': _filled(room, np.ones(len(boxes), np.float32)),
    'label': {task: _filled(room, label) for task, label in labels.items()},
  }


def _filled(room: int, values: _Array, padding: int = 0) -> _Array:
  """Values [N, ...] followed by padding, [room, ...]."""
  result = np.full((room, *values.shape[1:]), padding, values.dtype)
  result[: len(values)] = values
  return result
