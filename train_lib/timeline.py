"""What a model says of a long video over time: windows that slide over it, as a table and a picture."""

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from datasets import windows
from datasets.one_video import OneVideo
from train_lib.files import write_atomically
from train_lib.pictures import save_png, shorten
from train_lib.predict import Predictor
from train_lib.watch import window_frames

# Okabe and Ito's palette, which colour-blind people can tell apart.
_COLORS = '#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#f0e442', '#000000'
_STYLES = '-', '--', '-.', ':'
_BATCH = 4


@dataclasses.dataclass(frozen=True)
class Timeline:
  """Predictions for the N windows of a video.

  Attributes:
    starts: seconds at which the first frame of each window appears, float64 [N].
    ends: seconds at which its last frame has been shown, float64 [N].
    probabilities: task -> float32 [N, K].
  """

  starts: np.ndarray
  ends: np.ndarray
  probabilities: Mapping[str, np.ndarray]

  def of(self, tasks: Sequence[str]) -> 'Timeline':
    """The same with some of its tasks."""
    return dataclasses.replace(self, probabilities={t: self.probabilities[t] for t in tasks})

  def at(self, seconds: float) -> int:
    """The window whose middle is nearest to a time."""
    return int(np.abs((self.starts + self.ends) / 2 - seconds).argmin())

  def peaks(self, task: str, count: int) -> np.ndarray:
    """The classes that are most probable at some time, best first, int64 [count]."""
    return np.argsort(-self.probabilities[task].max(0), kind='stable')[:count]


def make_timeline(
  predictor: Predictor, dataset: str, path: str | Path, *, window: float = 0.0, hop: float = 0.0
) -> Timeline:
  """Predicts each window of a video by its centre crop, decoding every frame at most once.

  Args:
    predictor: of the model.
    dataset: of the checkpoint, without boxes.
    path: of the video.
    window: as `window_frames` takes it.
    hop: likewise.

  Raises:
    ConfigError: As `window_frames`.
    DataError: The video cannot be read.
  """
  video, clip = OneVideo(path), predictor.clip(dataset)
  rate, frames = float(video.frame_rate[0]), int(video.num_frames[0])
  span, step = window_frames(predictor, dataset, rate, window, hop)
  found = windows.windows(frames, clip, step, rate, span)
  scores = list(
    predictor.predict_clips(
      dataset, windows.cut(video, 0, clip, found), min(len(found.starts), _BATCH)
    )
  )
  times = video.times(0)  # Which need not be evenly spaced.
  starts, ends = times[found.starts], times[found.starts + found.span - 1] + 1 / rate
  probabilities = {t: np.stack([s[t].probabilities for s in scores]) for t in scores[0]}
  return Timeline(starts, ends, probabilities)


def rows_of(
  timeline: Timeline, task: str, names: Sequence[str], count: int
) -> list[dict[str, Any]]:
  """A row for each window: `start` and `end` in seconds, and its best classes with probabilities."""
  rows = []
  for i, probabilities in enumerate(timeline.probabilities[task]):
    best = np.argsort(-probabilities, kind='stable')[:count]
    top = [{'name': names[k], 'probability': float(str(probabilities[k]))} for k in best.tolist()]
    start, end = round(float(timeline.starts[i]), 3), round(float(timeline.ends[i]), 3)
    rows.append({'start': start, 'end': end, 'top': top})
  return rows


def write(
  timeline: Timeline, stem: Path, class_names: Mapping[str, Sequence[str]], count: int
) -> list[Path]:
  """Writes `STEM.timeline.csv`, `.json` and a picture for each task.

  The csv has a row for each window, task and one of its best classes: start, end, task, class,
  probability.

  Returns:
    The files written; their folder exists.
  """
  tasks = {t: rows_of(timeline, t, class_names[t], count) for t in timeline.probabilities}
  text = io.StringIO()
  table = csv.writer(text, lineterminator='\n')
  table.writerow(('start', 'end', 'task', 'class', 'probability'))
  for task, rows in tasks.items():
    for row in rows:
      for one in row['top']:
        table.writerow((row['start'], row['end'], task, one['name'], one['probability']))
  files = [stem.with_name(f'{stem.name}.timeline{suffix}') for suffix in ('.csv', '.json')]
  write_atomically(files[0], text.getvalue())
  write_atomically(files[1], json.dumps(tasks, indent=1) + '\n')
  for task in tasks:
    files.append(stem.with_name(f'{stem.name}.timeline.{task}.png'))
    timeline_png(files[-1], timeline, task, class_names[task], stem.name)
  return files


def timeline_png(
  path: Path, timeline: Timeline, task: str, names: Sequence[str], title: str, count: int = 8
) -> None:
  """Draws the probability over time of the classes that are most probable at some time.

  Args:
    path: The PNG file; its folder exists.
    timeline: What to draw.
    task: Of it.
    names: Of the task's classes.
    title: Stands above.
    count: Number of classes.
  """
  figure = Figure(figsize=(9, 3.2), layout='constrained')
  axes = figure.add_subplot()
  middle = (timeline.starts + timeline.ends) / 2
  peaks = timeline.peaks(task, count).tolist()
  for number, k in enumerate(peaks):
    axes.plot(
      middle,
      timeline.probabilities[task][:, k],
      color=_COLORS[number % len(_COLORS)],
      linestyle=_STYLES[number % len(_STYLES)],
      marker='o',
      markersize=3,
      label=str(k),
    )
  axes.set_xlim(timeline.starts[0], timeline.ends[-1])
  axes.set_ylim(-0.02, 1.02)
  axes.set_xlabel('seconds')
  axes.set_ylabel('probability')
  title = shorten(f'{title} · {task}', 90)
  axes.set_title(title, loc='left', fontsize=10)
  axes.grid(alpha=0.25)
  legend = axes.legend(loc='center left', bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
  # Set here, names may begin with an underscore.
  for text, k in zip(legend.get_texts(), peaks, strict=True):
    text.set_text(shorten(names[k], 32))
  save_png(figure, path)
