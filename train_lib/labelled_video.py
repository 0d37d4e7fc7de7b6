"""Videos with what a model says of them written on their frames, streamed from file to file."""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from datasets import video
from datasets.video import VideoInfo
from datasets.video_writer import write_mp4

_LEAST = 224  # px; smaller frames are enlarged by a whole number, or no label could be read
_DPI = 100
_LINE, _FONT = 0.05, 0.034  # heights of a line and of its letters, of the picture's
_SMALLEST = 14, 10  # px of a line and of its letters
_OPACITY = 0.6

Draw = Callable[[np.ndarray, float], Sequence[str]]
"""(frame to draw on, uint8 [H, W, 3]; its time in seconds) -> lines to write above."""


def write(path: Path, source: str | Path, info: VideoInfo, draw: Draw) -> None:
  """Writes a video at its own speed and size with lines of text; memory stays flat.

  Frames below 224 px are enlarged, and an odd row or column at the edge is left out.

  Args:
    path: The mp4 file; its folder exists.
    source: The video.
    info: What `video.probe` says of it.
    draw: What to write and draw.

  Raises:
    DataError: The video cannot be read, or the other not written.
  """
  write_mp4(path, _drawn(source, info, draw), info.frame_rate)


def _drawn(source: str | Path, info: VideoInfo, draw: Draw) -> Iterator[np.ndarray]:
  frames = video.read_frames(source, info, np.arange(info.num_frames))
  for frame, time in zip(frames, info.times.tolist()):
    times = max(1, -(-_LEAST // min(frame.shape[:2])))
    large = np.array(frame.repeat(times, 0).repeat(times, 1))
    large = large[: large.shape[0] // 2 * 2, : large.shape[1] // 2 * 2]
    write_lines(large, draw(large, time))
    yield large


def write_lines(frame: np.ndarray, lines: Sequence[str], top: int = 0, left: int = 0) -> None:
  """Writes lines from a place of a frame on, uint8 [H, W, 3], on a darkened ground; in place."""
  if not lines:
    return
  letters = _letters(tuple(lines), *frame.shape[:2])  # [h, w]
  part = frame[top : top + letters.shape[0], left : left + letters.shape[1]]
  ink = letters[: part.shape[0], : part.shape[1], None]
  part[...] = np.round((1 - ink) * part * (1 - _OPACITY) + ink * 255).astype(np.uint8)


@functools.lru_cache(maxsize=64)
def _letters(lines: tuple[str, ...], height: int, width: int) -> np.ndarray:
  """Lines for a frame of this size as float32 [h, w], 1 where there is a letter.

  By matplotlib, whose font has more letters than OpenCV's ASCII.
  """
  line = max(_SMALLEST[0], round(height * _LINE))
  size = max(_SMALLEST[1], round(height * _FONT))
  tall = min(height, line * len(lines) + line // 3)
  figure = Figure(figsize=(width / _DPI, tall / _DPI), dpi=_DPI, facecolor='black')
  canvas = FigureCanvasAgg(figure)
  style: dict[str, Any] = {
    'color': 'white',
    'fontsize': size * 72 / _DPI,
    'va': 'center',
    'parse_math': False,
  }
  margin = 0.4 * line
  for number, text in enumerate(lines):
    figure.text(margin / width, 1 - line * (number + 0.65) / tall, text, **style)
  canvas.draw()
  letters = np.asarray(canvas.buffer_rgba())[..., 0].astype(np.float32) / 255
  written = np.flatnonzero(letters.any(0))
  return letters[:, : int(written.max(initial=0) + margin)]


def draw_box(
  frame: np.ndarray, box: Sequence[float], lines: Sequence[str], color: tuple[int, int, int]
) -> None:
  """Draws a box, ymin, xmin, ymax, xmax in [0, 1] of the frame, and lines at its top left; in place."""
  height, width = frame.shape[:2]
  y0, x0, y1, x1 = (round(at * side) for at, side in zip(box, (height, width) * 2))
  y1, x1 = min(y1, height - 1), min(x1, width - 1)
  cv2.rectangle(frame, (x0, y0), (x1, y1), color, max(1, height // 240))
  write_lines(frame, lines, y0, x0)
