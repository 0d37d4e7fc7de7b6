"""Predictions as they are told: as JSON, in words, and drawn on the video."""

import bisect
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.boxed_video import BoxedVideo
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


def told_boxes(
  predictor: Predictor, dataset: str, wanted: Sequence[str], video: BoxedVideo, count: int
) -> list[Told]:
  """For each keyframe `time`, in seconds, and `boxes`.

  A box has `box` (ymin, xmin, ymax, xmax in [0, 1] of the frame), `score` and for each task its best
  classes, as `top` gives them. Left out are those that evaluations of the checkpoint leave out.
  """
  names, found = predictor.trained.class_names, []
  for row, probabilities, index in predictor.predict_boxes(dataset, video):
    keyframe = video.keyframe(row)
    boxes = [
      {
        'box': [exact(x) for x in keyframe.boxes[i]],
        'score': exact(keyframe.scores[i]),
        'tasks': {
          task: top(Scores(np.zeros(0), probabilities[task][m]), names[task], count)
          for task in wanted
          if task in probabilities
        },
      }
      for m, i in enumerate(index.tolist())
    ]
    found.append({'time': video.keyframe_seconds(row), 'boxes': boxes})
  return found


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
