"""Boxes drawn into frames, and what there is to say about them, for people to look at."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from datasets.dataset import VideoDataset

_Array = np.ndarray[Any, np.dtype[Any]]

ANNOTATED, DETECTED = (60, 220, 90), (255, 150, 30)
"""Colours of boxes, RGB."""

_SHOWN = 8  # Frames of a strip.
_SIDE = 224  # Least height of a frame with boxes, in px.
_LINES = 4


class Mark(NamedTuple):
  """A box as it is shown.

  Attributes:
    box: ymin, xmin, ymax, xmax in [0, 1] of the frame or of the model's input.
    annotated: annotated or detected.
    text: names of its classes, or its score.
  """

  box: tuple[float, float, float, float]
  annotated: bool
  text: str


class KeyframeMarks(NamedTuple):
  """Which frame of a sample is its keyframe, and the boxes of it."""

  frame: int
  marks: tuple[Mark, ...]


def marks_of_keyframe(dataset: VideoDataset, row: int) -> tuple[Mark, ...]:
  """All boxes of a keyframe, in the frame."""
  labels = {task: dataset.regions(row, task).labels for task in dataset.region_tasks}
  keyframe = dataset.keyframe(row)
  return _marks(dataset, keyframe.boxes, keyframe.annotated, keyframe.scores, labels)


def marks_of_example(
  dataset: VideoDataset, part: Mapping[str, Any], row: int = -1, detected: bool = False
) -> tuple[Mark, ...]:
  """The boxes of an example, in the model's input.

  Args:
    dataset: where it is from.
    part: the example.
    row: its keyframe, in evaluation.
    detected: whether all boxes are detected ones, in training.
  """
  count = int(part['box_mask'].sum())
  annotated, scores = np.full(count, not detected), np.ones(count)
  if 'box_index' in part:
    keyframe, index = dataset.keyframe(row), part['box_index'][:count]
    annotated, scores = keyframe.annotated[index], keyframe.scores[index]
  labels = {task: part['label'][task][:count] for task in dataset.region_tasks}
  return _marks(dataset, part['boxes'][:count], annotated, scores, labels)


def _marks(
  dataset: VideoDataset,
  boxes: _Array,
  annotated: _Array,
  scores: _Array,
  labels: Mapping[str, _Array],
) -> tuple[Mark, ...]:
  marks = []
  for i, box in enumerate(boxes.tolist()):
    names = [
      dataset.class_names(task)[k] for task in labels for k in np.flatnonzero(labels[task][i])
    ]
    text = ', '.join(names) or ('no label' if annotated[i] else f'detected, {scores[i]:.2f}')
    marks.append(Mark(tuple(box), bool(annotated[i]), text))
  return tuple(marks)


def lines(marks: Sequence[Mark]) -> list[str]:
  """`'1: stand, talk'`, a line for each of the first boxes, by their numbers in the frame."""
  told = [f'{number}: {mark.text}' for number, mark in enumerate(marks[:_LINES], start=1)]
  return told + [f'and {len(marks) - _LINES} more boxes'] * (len(marks) > _LINES)


def strip_places(num_frames: int, keyframe: int) -> _Array:
  """Up to 8 of a clip's frames, evenly spread, the keyframe in the place of the nearest of them."""
  places = np.round(np.linspace(0, num_frames - 1, min(num_frames, _SHOWN))).astype(np.int64)
  places[np.abs(places - keyframe).argmin()] = keyframe
  return places


def draw(frame: _Array, marks: Sequence[Mark]) -> _Array:
  """A frame uint8 [H, W, 3] with numbered boxes, enlarged to at least 224 px."""
  enlarged = enlarge(frame)
  height, width = enlarged.shape[:2]
  for number, mark in reversed(list(enumerate(marks, start=1))):
    color = ANNOTATED if mark.annotated else DETECTED
    y0, x0, y1, x1 = (round(at * side) for at, side in zip(mark.box, (height, width) * 2))
    cv2.rectangle(enlarged, (x0, y0), (min(x1, width - 1), min(y1, height - 1)), color, 2)
    place = (x0 + 5, min(y0 + 22, height - 4))
    cv2.putText(enlarged, f'{number}', place, cv2.FONT_HERSHEY_SIMPLEX, 0.7, color, 2, cv2.LINE_AA)
  return enlarged


def enlarge(frame: _Array) -> _Array:
  """A copy with every pixel repeated until the frame has at least 224 px."""
  factor = -(-_SIDE // frame.shape[0])
  return np.ascontiguousarray(frame.repeat(factor, 0).repeat(factor, 1))
