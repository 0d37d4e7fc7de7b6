"""What a model says of a stream, window after window of its newest frames."""

import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from datasets import windows
from datasets.camera import Camera, NewestFrames
from errors import ConfigError, DataError
from train_lib.predict import Predictor, Scores


class Glance(NamedTuple):
  """A prediction for the newest window of a stream.

  Attributes:
    tasks: task -> scores.
    seconds: since the stream was opened.
    lag: seconds from the window's last frame to this prediction.
    behind: frames that came in that time.
    dropped: frames so far that no window shows.
  """

  tasks: dict[str, Scores]
  seconds: float
  lag: float
  behind: int
  dropped: int


def watch(
  predictor: Predictor,
  dataset: str,
  camera: Camera,
  rate: float,
  *,
  window: float = 0.0,
  hop: float = 0.0,
  seconds: float = 0.0,
) -> Iterator[Glance]:
  """Predicts the newest window again and again, dropping the frames there is no time for.

  Args:
    predictor: of the model.
    dataset: of the checkpoint, without boxes.
    camera: to read; released in the end.
    rate: its frames per second.
    window: seconds of a window; 0: what a clip spans.
    hop: seconds from a window to the next, at least; 0: half a window.
    seconds: when to end, with or without new frames; 0: with the stream.

  Raises:
    ConfigError: As `window_frames`.
    DataError: As `NewestFrames.window`, or there were not the frames of one window in time.
  """
  clip = predictor.clip(dataset)
  try:
    span, step = window_frames(predictor, dataset, rate, window, hop)
  except ConfigError:
    camera.release()
    raise
  # Compiles before the first frame is read.
  next(predictor.predict_clips(dataset, [np.zeros(clip.shape, np.uint8)], 1))
  begin = time.monotonic()
  until = begin + seconds if seconds else math.inf
  with NewestFrames(camera, clip, rate, span, step) as frames:
    while (found := frames.window(until)) is not None:
      scores = next(predictor.predict_clips(dataset, [found.pixels], 1))
      now = time.monotonic()
      behind = frames.count - 1 - found.last
      yield Glance(scores, now - begin, now - found.taken, behind, frames.dropped)
      if now >= until:
        return
    if frames.count < span and time.monotonic() >= until:
      raise DataError(
        f'only {frames.count} frames came in {seconds:g} s, and a window has {span}: watch for longer, '
        'or look whether the stream stands still.'
      )


def window_frames(
  predictor: Predictor, dataset: str, rate: float, window: float, hop: float
) -> tuple[int, int]:
  """Frames of a window, and from one to the next.

  Args:
    predictor: of the model.
    dataset: of the checkpoint.
    rate: frames per second.
    window: seconds of a window, for clips that are spread over whatever they are cut from
      ('uniform', 'segments'); 0: what a clip spans.
    hop: seconds from a window to the next; 0: half a window.

  Raises:
    ConfigError: Clips need a `window` and there is none, or have their own and there is one.
  """
  own = windows.span_of(predictor.clip(dataset), rate)
  if own and window:
    raise ConfigError(
      f'--window={window:g}: clips of this checkpoint have a stride, so a window is what one spans, '
      f'{own / rate:.2f} s here. Leave --window out.'
    )
  if not own and not window:
    raise ConfigError(
      'This checkpoint spreads the frames of a clip over the whole video: say by --window=SECONDS '
      'what one prediction is to see.'
    )
  span = own or max(round(window * rate), 1)
  return span, max(round(hop * rate), 1) if hop else max(span // 2, 1)
