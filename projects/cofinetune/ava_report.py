"""What an evaluation by AVA's rules says to people, and as JSON: the protocol before the numbers."""

import csv
import io
import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from projects.cofinetune.ava import CAP, ClassScore, Evaluation
from projects.cofinetune.ava_csv import GROUPS, BoxTable, ClassGroup

DETECTED = 'detected boxes'
ANNOTATED = 'ANNOTATED BOXES (ground truth): not comparable with results on detected boxes'

_EXAMPLES = 3
_LABEL = 14  # Width of what a line of the header begins with.
_Lines = Mapping[str, np.ndarray[Any, np.dtype[Any]]]


def boxes_found(evaluation: Evaluation) -> str:
  """Which boxes were scored, judged by how many of them lie exactly on annotated ones."""
  used = max(evaluation.detection_rows['used'], 1)
  share = evaluation.on_annotated / used
  kind = ANNOTATED if share > 0.5 else DETECTED
  return f'{kind}; {share:.1%} lie on annotated boxes to 3 decimals'


def mean_aps(evaluation: Evaluation, groups: Mapping[str, ClassGroup]) -> dict[str, float | None]:
  """`mAP`, and with groups `mAP_head`, `mAP_mid` and `mAP_tail`, in [0, 1]; None without a class."""
  means = {'mAP': evaluation.mean_ap()}
  for group in GROUPS if groups else ():
    members = {name for name, entry in groups.items() if entry.group == group}
    means[f'mAP_{group}'] = evaluation.mean_ap(members)
  return means


def by_frequency(
  evaluation: Evaluation, groups: Mapping[str, ClassGroup]
) -> list[tuple[ClassScore, ClassGroup]]:
  """Classes with their group, most training labels first; without groups, most annotated first."""
  rows = [(s, groups.get(s.name, ClassGroup('', s.annotated))) for s in evaluation.classes]
  return sorted(rows, key=lambda row: -row[1].train_labels)


def header(evaluation: Evaluation, boxes: str) -> str:
  """The protocol: which boxes, classes and keyframes, and what became of every row.

  Args:
    evaluation: What was evaluated.
    boxes: `DETECTED`, `ANNOTATED` or what `boxes_found` says.
  """
  e = evaluation
  annotated = sum(score.annotated > 0 for score in e.classes)
  lines = [
    f'AVA frame-mAP at IoU {e.iou:g}, at most {CAP} detections a keyframe',
    _line('boxes', boxes),
    _line('classes', f'{len(e.classes)} of {e.known_classes}; {annotated} have annotated boxes'),
    _line(
      'keyframes',
      f'{e.keyframes:,} evaluated, {e.empty_keyframes:,} of them without annotated boxes of these '
      f'classes; {e.excluded_keyframes:,} excluded',
    ),
    _line('annotations', _fates(e.annotation_rows)),
    *_oddities(e.annotation_rows, e.annotation_flaws),
    _line('detections', _fates(e.detection_rows)),
    *_oddities(e.detection_rows, e.detection_flaws),
  ]
  return '\n'.join(lines)


def full(evaluation: Evaluation, groups: Mapping[str, ClassGroup], boxes: str) -> str:
  """`header`, `summary` and `class_table`, one below the other."""
  parts = (
    header(evaluation, boxes),
    summary(evaluation, groups),
    class_table(evaluation, groups),
  )
  return '\n\n'.join(parts)


def _line(label: str, text: str) -> str:
  return f'{label:<{_LABEL}}{text}'


def _fates(rows: Mapping[str, int]) -> str:
  """`12 rows: 9 used, 3 in excluded keyframes`: the parts sum to the whole."""
  parts = [f'{count:,} {fate}' for fate, count in rows.items() if count or fate == 'used']
  return f'{sum(rows.values()):,} rows: {", ".join(parts)}'


def _oddities(rows: Mapping[str, int], flaws: _Lines) -> list[str]:
  """A line with the flaws of used rows, if any; the other flaws are fates."""
  of_used = {flaw: len(lines) for flaw, lines in flaws.items() if len(lines) and flaw not in rows}
  parts = ', '.join(f'{count:,} {flaw}' for flaw, count in of_used.items())
  return [_line('', f'of those used: {parts}')] if parts else []


def flawed(evaluation: Evaluation, groundtruth: BoxTable, detections: BoxTable) -> str:
  """The first lines of each file with each flaw; '' if there are none."""
  files = (groundtruth, evaluation.annotation_flaws), (detections, evaluation.detection_flaws)
  return '\n'.join(
    f'{table.source}: {len(lines):,} {flaw}: line{"s" * (len(lines) > 1)} {_examples(lines.tolist())}'
    for table, flaws in files
    for flaw, lines in flaws.items()
    if len(lines)
  )


def flawed_csv(evaluation: Evaluation, groundtruth: BoxTable, detections: BoxTable) -> str:
  """All flawed lines of both files as the text of a csv file `file,line,reason`."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(('file', 'line', 'reason'))
  files = (groundtruth, evaluation.annotation_flaws), (detections, evaluation.detection_flaws)
  for table, flaws in files:
    for flaw, lines in flaws.items():
      writer.writerows((table.source, line, flaw) for line in lines.tolist())
  return text.getvalue()


def summary(evaluation: Evaluation, groups: Mapping[str, ClassGroup]) -> str:
  """Overall mAP and that of each group, with the number of classes in it."""
  scored = [row for row in by_frequency(evaluation, groups) if row[0].annotated]
  lines = []
  for metric, value in mean_aps(evaluation, groups).items():
    group = metric.partition('_')[2]
    count = sum(not group or entry.group == group for _, entry in scored)
    lines.append(
      _line(
        '  ' * bool(group) + (group or metric),
        f'{_number(value)}  {count} class{"es" * (count != 1)}',
      )
    )
  return '\n'.join(lines)


def class_table(evaluation: Evaluation, groups: Mapping[str, ClassGroup]) -> str:
  """A line per class: group, annotated boxes, detections, right ones and AP."""
  rows = by_frequency(evaluation, groups)
  width = max(len('class'), *(len(score.name) for score, _ in rows))
  lines = [f'{"class":<{width}}  group  annotated  detections      right      AP']
  for score, entry in rows:
    lines.append(
      f'{score.name:<{width}}  {entry.group or "-":<5}  {score.annotated:>9,}  '
      f'{score.detected:>10,}  {score.found:>9,}  {_number(score.ap)}'
    )
  return '\n'.join(lines)


def _number(value: float | None) -> str:
  return '   n/a' if value is None or math.isnan(value) else f'{value:.4f}'


def as_json(evaluation: Evaluation, groups: Mapping[str, ClassGroup], boxes: str) -> dict[str, Any]:
  """Everything that `header`, `summary` and `class_table` say; null where there is no number."""
  return {
    'metric': 'AVA frame-mAP',
    'iou': evaluation.iou,
    'detections_per_keyframe': CAP,
    'boxes': boxes,
    'evaluated_classes': len(evaluation.classes),
    'known_classes': evaluation.known_classes,
    'keyframes': {
      'evaluated': evaluation.keyframes,
      'without_annotated_boxes': evaluation.empty_keyframes,
      'excluded': evaluation.excluded_keyframes,
    },
    'annotation_rows': dict(evaluation.annotation_rows),
    'detection_rows': dict(evaluation.detection_rows),
    'annotation_flaws': _first_lines(evaluation.annotation_flaws),
    'detection_flaws': _first_lines(evaluation.detection_flaws),
    'detections_on_annotated_boxes': evaluation.on_annotated,
    **mean_aps(evaluation, groups),
    'classes': [
      {
        'id': score.class_id,
        'name': score.name,
        'group': entry.group or None,
        'train_labels': entry.train_labels if groups else None,
        'annotated': score.annotated,
        'detections': score.detected,
        'right': score.found,
        'ap': None if math.isnan(score.ap) else score.ap,
      }
      for score, entry in by_frequency(evaluation, groups)
    ],
  }


def _first_lines(flaws: _Lines) -> dict[str, Any]:
  return {
    flaw: {'rows': len(lines), 'first_lines': lines[:_EXAMPLES].tolist()}
    for flaw, lines in flaws.items()
  }


def nothing_found(evaluation: Evaluation) -> bool:
  """Whether no detection is right: then `comparison` says why."""
  return not any(score.found for score in evaluation.classes)


def comparison(
  evaluation: Evaluation, groundtruth: BoxTable, detections: BoxTable, names: Mapping[int, str]
) -> str:
  """What was compared with what if nothing is right: ids, times and classes on each side and in both.

  Args:
    evaluation: What came of it.
    groundtruth: Annotated boxes.
    detections: Detected boxes.
    names: The label map.
  """
  rows: dict[str, tuple[set[Any], set[Any]]] = {
    title: ({part(k) for k in groundtruth.keyframes}, {part(k) for k in detections.keyframes})
    for title, part in (
      ('videos', lambda k: k.video),
      ('times (s)', lambda k: _short(k.seconds)),
      ('keyframes', lambda k: f'{k.video},{_short(k.seconds)}'),
    )
  }
  annotated = set(groundtruth.labels.tolist()) & set(names)
  rows['classes'] = annotated, set(detections.labels.tolist())
  result = 'mAP is 0: no detection is right'
  if evaluation.mean_ap() is None:
    result = 'There is no mAP: no annotated box of an evaluated class counts'
  lines = [
    f'{result}. What was compared with what:',
    f'  {"":<12}{"ground truth":>14}{"detections":>14}{"in common":>14}',
  ]
  for title, (left, right) in rows.items():
    sizes = ''.join(f'{len(side):>14,}' for side in (left, right, left & right))
    lines.append(f'  {title:<12}{sizes}')
  lines.append(f'  {"coordinates":<12}{_extent(groundtruth):>14}{_extent(detections):>14}')
  for title, (left, right) in rows.items():
    for place, alone in (('ground truth', left - right), ('detections', right - left)):
      if alone:
        lines.append(f'  {title} only in the {place}: {_examples(alone)}')
  lines.append(
    f'  {len(names)} classes are evaluated; boxes are x1,y1,x2,y2 as fractions of the frame.'
  )
  return '\n'.join(lines)


def _extent(table: BoxTable) -> str:
  return f'{table.boxes.min():.3g} .. {table.boxes.max():.3g}' if len(table.boxes) else 'no boxes'


def _short(seconds: str) -> str:
  return seconds.rstrip('0').rstrip('.')


def _examples(values: Collection[Any]) -> str:
  shown = sorted(values)[:_EXAMPLES]
  more = len(values) - len(shown)
  return ', '.join(map(str, shown)) + (f' and {more:,} more' if more else '')
