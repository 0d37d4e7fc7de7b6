"""Predictions as they are told: as JSON, in words, and drawn on the video."""

import bisect
import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datasets.boxed_video import BoxedVideo
from errors import ConfigError
from train_lib.labelled_video import Draw, draw_box
from train_lib.predict import Predictor, Scores, VideoScores, joint_names, joint_scores
from train_lib.timeline import Timeline

HOLD = 0.5
"""Seconds before and after a keyframe for which its boxes are drawn."""

_BAR = 24  # characters of a probability of 1
_DRAWN = 3  # classes written on a frame or a box
_LONGEST = 120  # bytes of a video's name in a file's, which may have 255
_BOX = (60, 220, 90)  # RGB

Told = dict[str, Any]
"""What there is to say, ready for JSON."""


def told(
  predictor: Predictor, dataset: str, wanted: Sequence[str], scores: VideoScores, count: int
) -> Told:
  """Task or combination of tasks -> `views`, `frames` (numbers, of each temporal view) and `top`.

  `top` has the best `count` classes, each with `name` and `probability`, and for a task its number
  `class`.
  """
  names = predictor.trained.class_names
  shared = {'views': predictor.views(dataset), 'frames': scores.indices.tolist()}
  tasks = {task: scores.tasks[task] for task in wanted}
  found = {task: {**shared, 'top': top(own, names[task], count)} for task, own in tasks.items()}
  joint_tasks = predictor.experiment.evaluation.joint_tasks
  for name, own in joint_scores(joint_tasks, tasks).items():
    parts = [names[part] for part in joint_tasks[name]]
    best = [
      {'name': ' + '.join(joint_names(parts, k)), 'probability': exact(own.probabilities[k])}
      for k in own.best(count).tolist()
    ]
    found[name] = {**shared, 'top': best}
  return found


def every_class(predictor: Predictor, wanted: Sequence[str], scores: VideoScores) -> Told:
  """Task -> `classes`, `probabilities` and `logits` of all of them, in label order."""
  return {
    task: {
      'classes': list(predictor.trained.class_names[task]),
      'probabilities': [exact(p) for p in scores.tasks[task].probabilities],
      'logits': [exact(x) for x in scores.tasks[task].logits],
    }
    for task in wanted
  }


def top(scores: Scores, names: Sequence[str], count: int) -> list[Told]:
  """The best `count` classes."""
  return [
    {'class': k, 'name': names[k], 'probability': exact(scores.probabilities[k])}
    for k in scores.best(count).tolist()
  ]


class BoxScores(NamedTuple):
  """What a model says of the M boxes of a keyframe that evaluations of it would look at.

  Attributes:
    seconds: when it is in the video.
    boxes: float32 [M, 4], ymin, xmin, ymax, xmax in [0, 1] of the frame.
    scores: float32 [M], of the detector.
    probabilities: task -> float32 [M, K].
  """

  seconds: float
  boxes: np.ndarray
  scores: np.ndarray
  probabilities: Mapping[str, np.ndarray]


def box_scores(
  predictor: Predictor, dataset: str, wanted: Sequence[str], video: BoxedVideo
) -> list[BoxScores]:
  """Predicts the wanted tasks, all on boxes, for the boxes of each keyframe."""
  found = []
  for row, probabilities, index in predictor.predict_boxes(dataset, video):
    keyframe, seconds = video.keyframe(row), video.keyframe_seconds(row)
    own = {task: probabilities[task] for task in wanted}
    found.append(BoxScores(seconds, keyframe.boxes[index], keyframe.scores[index], own))
  return found


def told_boxes(
  found: Sequence[BoxScores], names: Mapping[str, Sequence[str]], count: int
) -> list[Told]:
  """For each keyframe `time`, in seconds, and `boxes`.

  A box has `box` (ymin, xmin, ymax, xmax in [0, 1] of the frame), `score` and for each task its best
  classes, as `top` gives them.
  """
  return [
    {
      'time': keyframe.seconds,
      'boxes': [
        {
          'box': [exact(x) for x in box],
          'score': exact(keyframe.scores[m]),
          'tasks': {
            task: top(Scores(np.zeros(0), own[m]), names[task], count)
            for task, own in keyframe.probabilities.items()
          },
        }
        for m, box in enumerate(keyframe.boxes)
      ],
    }
    for keyframe in found
  ]


def box_rows(
  video_id: str, found: Sequence[BoxScores], task: str, ids: Sequence[int | None]
) -> str:
  """AVA's csv of detections: `video_id,timestamp,x1,y1,x2,y2,action_id,score`, without a header.

  As evaluations write it, with 6 decimals of the box and 9 of the score, which is the class' probability.

  Args:
    video_id: first column.
    found: the keyframes.
    task: of them.
    ids: number of each class, in label order; None: the class is left out.
  """
  text = io.StringIO()
  table = csv.writer(text, lineterminator='\n')
  for keyframe in found:
    time = f'{keyframe.seconds:.6f}'.rstrip('0').rstrip('.')
    for (y0, x0, y1, x1), own in zip(keyframe.boxes.tolist(), keyframe.probabilities[task]):
      place = [f'{at:.6f}' for at in (x0, y0, x1, y1)]
      table.writerows(
        (video_id, time, *place, number, f'{p:.9f}')
        for number, p in zip(ids, own.tolist(), strict=True)
        if number is not None
      )
  return text.getvalue()


def class_numbers(names: Sequence[str], numbers: Mapping[int, str] | None) -> list[int | None]:
  """The number of each class; None for one that `numbers` does not have.

  Args:
    names: of the classes, in label order.
    numbers: number -> name; None: the classes are 1, 2, ... in label order.

  Raises:
    ConfigError: `numbers` has a class that is not among the names.
  """
  if numbers is None:
    return list(range(1, len(names) + 1))
  unknown = sorted(set(numbers.values()) - set(names))
  if unknown:
    raise ConfigError(
      f"--labelmap: {len(unknown)} of {len(numbers)} classes are not the checkpoint's: {unknown[:5]}. "
      f'It has {sorted(names)[:5]}, {len(names)} in all.'
    )
  known = {name: number for number, name in numbers.items()}
  return [known.get(name) for name in names]


def exact(value: Any) -> float:
  """A float32 as the shortest decimal number that is it."""
  return float(str(np.float32(value)))


def lines_of(video: str, found: Mapping[str, Any]) -> list[str]:
  """What `told` says, for a terminal."""
  lines = [video]
  for task, own in found.items():
    lines.append(f'  {task}: {own["views"]}')
    for one in own['top']:
      bar = '█' * round(one['probability'] * _BAR)
      lines.append(f'    {one["probability"]:6.1%}  {bar:<{_BAR}}  {one["name"]}')
  return lines


def lines_of_timeline(over: Mapping[str, Sequence[Told]]) -> list[str]:
  """A line for each time that the best class of a task changes, of the rows of a timeline."""
  lines = []
  for task, rows in over.items():
    lines.append(f'  {task}: {len(rows)} windows of {rows[0]["end"] - rows[0]["start"]:.2f} s')
    for before, row in zip([None, *rows], rows):
      best = row['top'][0]
      if before is None or before['top'][0]['name'] != best['name']:
        lines.append(f'    {row["start"]:8.2f} s  {best["probability"]:6.1%}  {best["name"]}')
  return lines


def lines_of_boxes(keyframes: Sequence[Told], threshold: float) -> list[str]:
  """A line for each box: its time, place and the classes from `threshold` on."""
  lines = []
  for keyframe in keyframes:
    for one in keyframe['boxes']:
      y0, x0, y1, x1 = one['box']
      said = ', '.join(words_of_box(one, threshold)) or f'nothing from {threshold:.0%}'
      lines.append(
        f'    {keyframe["time"]:8.2f} s  x {x0:.2f} to {x1:.2f}, y {y0:.2f} to {y1:.2f}  {said}'
      )
  return lines


def words_of_box(box: Told, threshold: float) -> list[str]:
  """`'stand 97%'` for each class of a box from `threshold` on."""
  return [
    f'{one["name"]} {one["probability"]:.0%}'
    for best in box['tasks'].values()
    for one in best
    if one['probability'] >= threshold
  ]


def drawn(found: Mapping[str, Any]) -> Draw:
  """Writes the best classes of each task on every frame."""
  lines = [
    f'{one["name"]}  {one["probability"]:.1%}'
    for own in found.values()
    for one in own['top'][:_DRAWN]
  ]
  return lambda frame, time: lines


def drawn_timeline(timeline: Timeline, names: Mapping[str, Sequence[str]]) -> Draw:
  """Writes the best class of each task in the window about a frame."""

  def draw(frame: np.ndarray, seconds: float) -> list[str]:
    at, lines = timeline.at(seconds), []
    for task, probabilities in timeline.probabilities.items():
      best = int(probabilities[at].argmax())
      lines.append(f'{names[task][best]}  {probabilities[at][best]:.1%}')
    return lines

  return draw


def drawn_boxes(keyframes: Sequence[Told], threshold: float) -> Draw:
  """Draws the boxes of the nearest keyframe, if it is within half a second, with their classes."""
  times = [keyframe['time'] for keyframe in keyframes]

  def draw(frame: np.ndarray, seconds: float) -> list[str]:
    after = bisect.bisect_left(times, seconds)
    near = min(
      range(max(after - 1, 0), min(after + 1, len(times))), key=lambda i: abs(times[i] - seconds)
    )
    if abs(times[near] - seconds) <= HOLD:
      for one in keyframes[near]['boxes']:
        draw_box(frame, one['box'], words_of_box(one, threshold)[:_DRAWN], _BOX)
    return []

  return draw


def unique_names(paths: Sequence[Path]) -> list[str]:
  """What files about each video are called: its name without suffix, before it its folder's or after
  it a number where others have that name too."""
  stems = Counter(path.stem for path in paths)
  names, taken = [], Counter[str]()
  for path in paths:
    name = path.stem if stems[path.stem] == 1 else f'{path.absolute().parent.name}_{path.stem}'
    name = name.encode(errors='replace')[:_LONGEST].decode(errors='ignore')
    taken[name] += 1
    while taken[name] > 1:
      name = f'{name}_{taken[name]}'
      taken[name] += 1
    names.append(name)
  return names
