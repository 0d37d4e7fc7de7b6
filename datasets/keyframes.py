"""The annotated keyframe of a record: its time, its boxes with labels, and detected boxes."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from datasets import records
from datasets import region_records as names
from datasets.manifest import TaskLabels
from datasets.records import ParsedExample
from errors import DataError

_Array = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class Keyframe:
  """A keyframe with its N boxes: annotated ones first, then detected ones by descending score.

  Attributes:
    microseconds: where it stands in the video.
    times: where the record's frames stand in the video, in microseconds, int64 [frames], ascending.
    boxes: ymin, xmin, ymax, xmax in [0, 1] of the frame, float32 [N, 4].
    labels: global class indices of each box, () for detected ones.
    scores: float32 [N] in [0, 1], 1 for annotated ones.
    annotated: bool [N].
  """

  microseconds: int
  times: _Array
  boxes: _Array
  labels: tuple[tuple[int, ...], ...]
  scores: _Array
  annotated: _Array


class BoxTable(NamedTuple):
  """All boxes of a split's R keyframes, keyframe after keyframe, in the order of `Keyframe`.

  Attributes:
    start: where each keyframe's begin, int64 [R + 1].
    boxes: float32 [B, 4].
    scores: float32 [B].
    annotated: bool [B].
    labels: global class indices of all boxes, int32 [...].
  """

  start: _Array
  boxes: _Array
  scores: _Array
  annotated: _Array
  labels: _Array

  @property
  def rows(self) -> _Array:
    """The keyframe of each box, int64 [B]."""
    return np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))


def read(example: ParsedExample) -> Keyframe:
  """The keyframe of a record; annotated boxes that are equal become one, with all their labels.

  Raises:
    DataError: there is not exactly one keyframe, a list does not fit the others, or frames lack
      times. Ranges are `problems`' business.
  """
  step, microseconds = _annotated_step(example)
  labels: dict[tuple[float, ...], dict[int, None]] = {}
  for *box, label in _rows(example, '', step, names.LABEL_INDEX):
    labels.setdefault(tuple(box), {})[int(label)] = None
  detected = _detected(example, microseconds)
  order = np.argsort([-score for *_, score in detected], kind='stable')
  boxes = [*labels, *(detected[i][:4] for i in order)]
  scores = [1.0] * len(labels) + [detected[i][4] for i in order]
  return Keyframe(
    microseconds=microseconds,
    times=_times(example),
    boxes=np.array(boxes, np.float32).reshape(-1, 4),
    labels=tuple(map(tuple, labels.values())) + ((),) * len(detected),
    scores=np.array(scores, np.float32),
    annotated=np.arange(len(boxes)) < len(labels),
  )


def problems(example: ParsedExample, tasks: Mapping[str, TaskLabels]) -> Iterator[str]:
  """Yields what is wrong with the keyframe of a record, in words.

  Args:
    example: a record that has `region/timestamp`.
    tasks: label groups of the manifest.
  """
  try:
    keyframe = read(example)
  except DataError as error:
    yield str(error)
    return
  times = keyframe.times
  # The last frame is shown for as long as any other.
  end = times[-1] + max(np.diff(times).max(initial=0), 1)
  if not times[0] <= keyframe.microseconds < end:
    yield (
      f'the keyframe, {names.KEYFRAME}, is at {keyframe.microseconds / 1e6:g} s, outside the frames '
      f'from {times[0] / 1e6:g} to {times[-1] / 1e6:g} s. Write the record again.'
    )
  low, high = keyframe.boxes[:, :2], keyframe.boxes[:, 2:]
  good = ((low >= 0) & (low < high) & (high <= 1)).all(1)
  good &= (keyframe.scores >= 0) & (keyframe.scores <= 1)
  for i in np.flatnonzero(~good)[:1]:
    kind = 'annotated' if keyframe.annotated[i] else 'detected'
    yield (
      f'{(~good).sum()} of {len(good)} boxes are no boxes; box {i} ({kind}) is '
      f'{_listed(keyframe.boxes[i])} with score {keyframe.scores[i]:g}; expected 0 <= ymin < ymax '
      '<= 1, 0 <= xmin < xmax <= 1 and a score in [0, 1]. Write the record again.'
    )
  groups = {
    name: (t.offset, t.offset + t.num_classes - 1) for name, t in tasks.items() if t.regions
  }
  found = {label for labels in keyframe.labels for label in labels}
  wrong = sorted(x for x in found if not any(a <= x <= b for a, b in groups.values()))
  if wrong:
    yield (
      f'{names.LABEL_INDEX} holds {wrong[:5]}, expected labels of boxes (groups, first to last: '
      f'{groups}). Correct the class list of the manifest or write the record again.'
    )


def _annotated_step(example: ParsedExample) -> tuple[int, int]:
  """Number of the keyframe's step in the lists, and its time in microseconds."""
  stamps = example.list_values(names.KEYFRAME)
  steps = list(range(len(stamps)))
  if names.IS_ANNOTATED in example.lists:
    marks = example.list_values(names.IS_ANNOTATED)
    steps = [i for i, mark in enumerate(marks) if mark == [1]]
  valid = len(steps) == 1 and steps[0] < len(stamps) and len(stamps[steps[0]]) == 1
  if not valid or not isinstance(stamps[steps[0]][0], int):
    raise DataError(
      f'{len(steps)} annotated keyframes in {names.KEYFRAME} and {names.IS_ANNOTATED}, expected '
      'exactly one with a time. Write a record for each keyframe.'
    )
  return steps[0], stamps[steps[0]][0]


def _rows(
  example: ParsedExample, prefix: str, step: int, last: str
) -> list[tuple[float, float, float, float, float]]:
  """(ymin, xmin, ymax, xmax, label or score) of each box at a step."""
  wanted = [f'{prefix}{name}' for name in (*names.BOX, last)]
  columns = []
  for name in wanted:
    steps = example.list_values(name) if name in example.lists else []
    columns.append(steps[step] if step < len(steps) else [])
  kinds = [float] * 4 + [int if last == names.LABEL_INDEX else float]
  for name, column, kind in zip(wanted, columns, kinds, strict=True):
    if not all(isinstance(value, kind) for value in column):
      raise DataError(f'{name} holds {column[:4]}, expected {kind.__name__}s. Write it again.')
  if len(set(map(len, columns))) > 1:
    sizes = dict(zip(wanted, map(len, columns), strict=True))
    raise DataError(f'the lists of boxes differ in length: {sizes}. Write the record again.')
  return list(zip(*columns, strict=True))  # type: ignore[arg-type]


def _detected(
  example: ParsedExample, microseconds: int
) -> list[tuple[float, float, float, float, float]]:
  """(ymin, xmin, ymax, xmax, score) of the detected boxes."""
  stamps = f'{names.PREDICTED}{names.KEYFRAME}'
  if stamps not in example.lists:
    return []
  found = example.list_values(stamps)
  if [microseconds] not in found:
    raise DataError(
      f'{stamps} holds {found[:4]}, but the keyframe is at [{microseconds}]. Write the record again.'
    )
  return _rows(example, names.PREDICTED, found.index([microseconds]), names.SCORE)


def _times(example: ParsedExample) -> _Array:
  """Times of the frames, int64 microseconds."""
  steps = example.list_values(records.TIMESTAMP) if records.TIMESTAMP in example.lists else []
  times = list(itertools.chain(*steps))
  frames = len(example.frames or ())
  valid = len(times) == len(steps) == frames and all(isinstance(x, int) for x in times)
  if not valid or any(a > b for a, b in itertools.pairwise(times)):
    raise DataError(
      f'{records.TIMESTAMP} has {len(times)} times for {frames} frames; a clip around a keyframe '
      'needs one a frame, ascending, in microseconds. Write the record again.'
    )
  return np.array(times, np.int64)


def _listed(box: _Array) -> str:
  return '[' + ', '.join(f'{value:.4g}' for value in box) + ']'
