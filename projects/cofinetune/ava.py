"""AVA's frame-mAP by the rules of its official evaluation, vectorised.

A keyframe is a video and a time. In each, the 50 detections with the highest scores over all
classes count. Per class, by descending score, a detection is right if the annotated box that it
overlaps most (the first of equals) has an IoU of at least 0.5 and no earlier detection took it. AP
is the area under the precision envelope of the ranking over all keyframes; a class without
annotated boxes has none.

DEVIATION: equal scores of different keyframes rank in the reverse of the file's order (a stable
sort, reversed); the official script leaves that to numpy's default sort, whose result depends on
the processor. Of two annotated boxes with exactly equal IoU the first in the file is taken; there,
the first in a heap by the eighth column, class and coordinates.
"""

import dataclasses
import heapq
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from errors import DataError
from projects.cofinetune.ava_csv import BoxTable, KeyframeName
from train_lib import average_precision as ranking

CAP = 50
"""Detections of a keyframe that count."""

USED = 'used'
OTHER_CLASSES = 'of classes outside the label map'
REVERSED = 'with x1 >= x2 or y1 >= y2'
OUT_OF_FRAME = 'reaching out of the frame (counted, not clipped)'
REPEATED = 'repeating a box and class of the keyframe (counted)'
NO_AREA = 'without area (counted, never found)'
_ROUNDING = 1e-3
"""AVA's coordinates have 3 decimals: what reaches out of the frame by less is rounding."""

_Array = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True)
class ClassScore:
  """How well one class was found.

  Attributes:
    class_id: Its id in the files.
    name: Its name in the label map.
    annotated: Annotated boxes that count.
    detected: Detections that count.
    found: Detections that are right.
    ap: Average precision in [0, 1]; NaN without annotated boxes.
  """

  class_id: int
  name: str
  annotated: int
  detected: int
  found: int
  ap: float


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
  """The scores, and what became of every row.

  Attributes:
    iou: What a detection must overlap an annotated box by.
    classes: One score per class of the label map, by id.
    annotation_rows: Fate -> rows of the ground truth; the first are used.
    detection_rows: Fate -> rows of the detections; the first are used.
    annotation_flaws: What is wrong -> lines [N] int64 of the ground truth, ascending: those of the
      fate `OTHER_CLASSES`, and of the used ones, which count all the same, `OUT_OF_FRAME`,
      `REPEATED` and `NO_AREA`.
    detection_flaws: The same of the detections, with the fate `REVERSED`.
    keyframes: Evaluated keyframes.
    empty_keyframes: Those of them without an annotated box of these classes.
    excluded_keyframes: Excluded ones that the ground truth names.
    known_classes: Classes that are known or in the ground truth, evaluated or not.
    on_annotated: Used detections whose box is an annotated one of the keyframe, to 3 decimals.
  """

  iou: float
  classes: tuple[ClassScore, ...]
  annotation_rows: Mapping[str, int]
  detection_rows: Mapping[str, int]
  annotation_flaws: Mapping[str, _Array]
  detection_flaws: Mapping[str, _Array]
  keyframes: int
  empty_keyframes: int
  excluded_keyframes: int
  known_classes: int
  on_annotated: int

  def mean_ap(self, names: Collection[str] | None = None) -> float | None:
    """Mean AP in [0, 1] of the classes that have annotated boxes; None if there are none.

    Args:
      names: Only classes of these names.
    """
    aps = [
      score.ap
      for score in self.classes
      if score.annotated and (names is None or score.name in names)
    ]
    return float(np.mean(aps)) if aps else None


def evaluate(
  groundtruth: BoxTable,
  detections: BoxTable,
  names: Mapping[int, str],
  *,
  excluded: Collection[KeyframeName] = (),
  known: Collection[int] = (),
  iou: float = 0.5,
) -> Evaluation:
  """Scores detections.

  Args:
    groundtruth: Annotated boxes; its keyframes are those evaluated.
    detections: Detected boxes, one row per class.
    names: Class id -> name of the classes that are evaluated.
    excluded: Keyframes to leave out of both.
    known: Class ids that there are besides.
    iou: What a detection must overlap an annotated box by, inclusive.

  Raises:
    DataError: An annotated box has x1 > x2 or y1 > y2.
  """
  _check_annotated(groundtruth)
  class_ids = np.array(sorted(names), np.int64)
  places = {keyframe: i for i, keyframe in enumerate(groundtruth.keyframes)}
  left_out = np.array([k in excluded for k in groundtruth.keyframes], bool)
  truth_fates, truth_flaws, truth = _annotations(groundtruth, class_ids, left_out)
  # The detections' keyframes, as places in the ground truth: -1 unknown, -2 excluded.
  keyframe = np.array(
    [-2 if k in excluded else places.get(k, -1) for k in detections.keyframes], np.int64
  )[detections.keyframe]
  fates, flaws, used = _detections(detections, class_ids, keyframe)
  classes = np.searchsorted(class_ids, detections.labels[used])
  truth_classes = np.searchsorted(class_ids, groundtruth.labels[truth])
  right = _matched(
    (keyframe[used] * len(class_ids) + classes, detections.boxes[used]),
    (groundtruth.keyframe[truth] * len(class_ids) + truth_classes, groundtruth.boxes[truth]),
    iou,
  )
  return Evaluation(
    iou=iou,
    classes=_class_scores(
      {int(i): names[i] for i in class_ids}, classes, detections.scores[used], right, truth_classes
    ),
    annotation_rows=truth_fates,
    detection_rows=fates,
    annotation_flaws=truth_flaws,
    detection_flaws=flaws,
    keyframes=int(np.sum(~left_out)),
    empty_keyframes=int(np.sum(~left_out)) - len(np.unique(groundtruth.keyframe[truth])),
    excluded_keyframes=int(np.sum(left_out)),
    known_classes=len({*known, *names, *groundtruth.labels.tolist()}),
    on_annotated=_on_annotated(groundtruth, keyframe[used], detections.boxes[used]),
  )


def _check_annotated(table: BoxTable) -> None:
  """Zero-area boxes count, and are never found; the official script refuses reversed ones too."""
  reversed_ = (table.boxes[:, :2] > table.boxes[:, 2:]).any(axis=1)
  if reversed_.any():
    row = int(np.argmax(reversed_))
    ymin, xmin, ymax, xmax = table.boxes[row]
    raise DataError(
      f'{table.source}, line {table.lines[row]}: annotated box x1 {xmin:g}, y1 {ymin:g}, x2 {xmax:g}, '
      f'y2 {ymax:g}; expected x1 <= x2 and y1 <= y2. Correct the row or remove it.'
    )


def _annotations(
  table: BoxTable, class_ids: _Array, left_out: _Array
) -> tuple[dict[str, int], dict[str, _Array], _Array]:
  """What becomes of the rows, lines with a flaw, and the rows [N] that count."""
  excluded = left_out[table.keyframe]
  others = ~excluded & ~np.isin(table.labels, class_ids)
  used = np.flatnonzero(~excluded & ~others)
  fates = {
    USED: len(used),
    OTHER_CLASSES: int(np.sum(others)),
    'in excluded keyframes': int(np.sum(excluded)),
    'naming a keyframe without a box': table.rows_without_box,
  }
  return fates, {OTHER_CLASSES: table.lines[others], **_used_flaws(table, used)}, used


def _detections(
  table: BoxTable, class_ids: _Array, keyframe: _Array
) -> tuple[dict[str, int], dict[str, _Array], _Array]:
  """As `_annotations`; the rows that count are by keyframe and descending score."""
  excluded, unknown = keyframe == -2, keyframe == -1
  others = (keyframe >= 0) & ~np.isin(table.labels, class_ids)
  candidates = np.flatnonzero((keyframe >= 0) & ~others)
  ranked = _ranked(table, candidates)
  good = (table.boxes[ranked, :2] < table.boxes[ranked, 2:]).all(axis=1)
  fates = {
    USED: int(np.sum(good)),
    f'beyond the {CAP} of a keyframe': len(candidates) - len(ranked),
    OTHER_CLASSES: int(np.sum(others)),
    REVERSED: int(np.sum(~good)),
    'in keyframes the ground truth does not name': int(np.sum(unknown)),
    'in excluded keyframes': int(np.sum(excluded)),
    'naming a keyframe without a box': table.rows_without_box,
  }
  flaws = {
    OTHER_CLASSES: table.lines[others],
    REVERSED: np.sort(table.lines[ranked[~good]]),
    **_used_flaws(table, ranked[good]),
  }
  return fates, flaws, ranked[good]


def _used_flaws(table: BoxTable, rows: _Array) -> dict[str, _Array]:
  """Lines, ascending, of rows [N] that count although something is odd about them."""
  rows = np.sort(rows)
  lines, boxes = table.lines[rows], table.boxes[rows]
  columns = (*boxes.T, table.labels[rows], table.keyframe[rows])
  order = np.lexsort(columns)  # Stable: the first of equal rows stays the first.
  repeated = np.ones(max(len(rows) - 1, 0), bool)
  for column in columns:
    repeated &= np.diff(column[order]) == 0
  return {
    OUT_OF_FRAME: lines[((boxes < -_ROUNDING) | (boxes > 1 + _ROUNDING)).any(axis=1)],
    REPEATED: np.sort(lines[order[1:][repeated]]),
    NO_AREA: lines[(boxes[:, :2] == boxes[:, 2:]).any(axis=1)],
  }


def _ranked(table: BoxTable, rows: _Array) -> _Array:
  """The rows that the cap leaves, keyframes in the file's order, by descending score in each."""
  if not len(rows):
    return rows
  _, first, inverse = np.unique(table.keyframe[rows], return_index=True, return_inverse=True)
  place = first[inverse]
  order = np.lexsort((-table.scores[rows], place))
  place, ranked = place[order], rows[order]
  scores = table.scores[ranked]
  starts = np.flatnonzero(np.diff(place, prepend=-1))
  ends = np.append(starts[1:], len(place))
  rank = np.arange(len(place)) - np.repeat(starts, ends - starts)
  # With equal scores among those that the cap leaves, or at it, the official heap decides.
  equal = np.flatnonzero((rank[1:] > 0) & (rank[1:] <= CAP) & (scores[1:] == scores[:-1])) + 1
  for k in np.unique(np.searchsorted(starts, equal, side='right') - 1):
    chosen = _heap_order(table, np.sort(ranked[starts[k] : ends[k]]))
    ranked[starts[k] : starts[k] + len(chosen)] = chosen
  return ranked[rank < CAP]


def _heap_order(table: BoxTable, rows: _Array) -> list[int]:
  """The rows of one keyframe, given in the file's order, as a heap with replacement leaves them.

  The official script keeps tuples of score, class and box in a heap of 50, replaces the least by a
  strictly larger score only, and sorts what is left by score: equal scores stay in the heap's order.
  """
  entries = list(
    zip(
      table.scores[rows].tolist(),
      table.labels[rows].tolist(),
      *table.boxes[rows].T.tolist(),
      strict=True,
    )
  )
  row_of = dict(zip(entries, rows.tolist(), strict=True))  # Equal entries are the same to a score.
  heap: list[tuple[Any, ...]] = []
  for entry in entries:
    if len(heap) < CAP:
      heapq.heappush(heap, entry)
    elif entry[0] > heap[0][0]:
      heapq.heapreplace(heap, entry)
  return [row_of[entry] for entry in sorted(heap, key=lambda entry: -entry[0])]


def _matched(
  detected: tuple[_Array, _Array], annotated: tuple[_Array, _Array], threshold: float
) -> _Array:
  """Which detections are right, bool [N].

  Args:
    detected: Cells [N] (keyframe and class in one integer) and boxes [N, 4], in ranked order.
    annotated: The same of M annotated boxes.
    threshold: IoU.
  """
  (cells, boxes), (truth_cells, truth_boxes) = detected, annotated
  order = np.argsort(truth_cells, kind='stable')
  truth_cells, truth_boxes = truth_cells[order], truth_boxes[order]
  first = np.searchsorted(truth_cells, cells)
  count = np.searchsorted(truth_cells, cells, side='right') - first
  partnered = np.flatnonzero(count)
  first, count = first[partnered], count[partnered]
  right = np.zeros(len(cells), bool)
  if not len(partnered):
    return right
  # All pairs of a detection and an annotated box of its cell, one detection after the other.
  starts = np.cumsum(count) - count
  pair = np.arange(count.sum())
  truth = pair - np.repeat(starts - first, count)
  overlap = _iou(boxes[np.repeat(partnered, count)], truth_boxes[truth])
  best = np.maximum.reduceat(overlap, starts)
  tops = np.where(overlap == np.repeat(best, count), pair, len(pair))
  claimed = truth[np.minimum.reduceat(tops, starts)]
  good = best >= threshold
  _, winners = np.unique(claimed[good], return_index=True)  # The first to claim a box has it.
  right[partnered[good][winners]] = True
  return right


def _iou(a: _Array, b: _Array) -> _Array:
  """IoU of boxes [N, 4] with boxes [N, 4], float64."""
  sides = np.maximum(0, np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]))
  shared = sides.prod(axis=1)
  areas = [(x[:, 2:] - x[:, :2]).prod(axis=1) for x in (a, b)]
  return shared / (areas[0] + areas[1] - shared)


def _class_scores(
  names: Mapping[int, str], classes: _Array, scores: _Array, right: _Array, truth_classes: _Array
) -> tuple[ClassScore, ...]:
  """Scores by class; `classes` and `truth_classes` are places in `names`."""
  # By class, then descending score, of equal ones the last first.
  order = np.lexsort((-np.arange(len(classes)), -scores, classes))
  bounds = np.searchsorted(classes[order], np.arange(len(names) + 1))
  annotated = np.bincount(truth_classes, minlength=len(names))
  result = []
  for place, (class_id, name) in enumerate(names.items()):
    own = right[order[bounds[place] : bounds[place + 1]]]
    ap = average_precision(own, int(annotated[place]))
    result.append(ClassScore(class_id, name, int(annotated[place]), len(own), int(own.sum()), ap))
  return tuple(result)


def average_precision(right: Sequence[bool] | _Array, annotated: int) -> float:
  """Area under the precision envelope over all points, in [0, 1]; NaN without annotated boxes.

  Args:
    right: bool [N], the detections of a class by rank.
    annotated: Annotated boxes of the class.
  """
  return ranking.average_precision(right, annotated, interpolated=True)


def _on_annotated(groundtruth: BoxTable, keyframe: _Array, boxes: _Array) -> int:
  """How many boxes [N, 4] are annotated boxes of their keyframe [N], to 3 decimals."""
  annotated = _packed(groundtruth.keyframe, groundtruth.boxes)
  return int(np.isin(_packed(keyframe, boxes), annotated).sum())


def _packed(keyframe: _Array, boxes: _Array) -> _Array:
  """KeyframeName and box in thousandths in one int64; what lies far outside the frame is clipped."""
  thousandths = np.clip(np.rint(boxes * 1000) + 512, 0, 2047).astype(np.int64)
  return (keyframe << 44) + thousandths @ (1 << np.array([33, 22, 11, 0]))
