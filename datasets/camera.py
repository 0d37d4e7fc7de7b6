"""Live pictures: a webcam or a network stream of which only the newest frames are kept."""

import math
import re
import threading
import time
from collections import deque
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import cv2
import numpy as np

from datasets import clips, windows
from datasets.clip_config import ClipConfig
from errors import DataError

_Array = np.ndarray[Any, np.dtype[Any]]
_ADDRESS = re.compile(r'(?!file:)[a-z][a-z0-9+.-]+://')
_LONGEST_READ = 2.0  # Seconds to wait for a frame that is being read.
_LAST_WEBCAM = 2**31 - 1  # What OpenCV can be asked for.
_USUAL_RATE = 30.0  # Frames per second of a camera that does not say.
_FASTEST = 240.0  # What claims more, such as a stream's clock of 90,000 ticks, does not know.


class Camera(Protocol):
  """What OpenCV's `VideoCapture` is."""

  def read(self) -> tuple[bool, Any]:
    """Waits for the next frame: whether there is one, and BGR uint8 [H, W, 3]."""

  def release(self) -> None:
    """Closes it."""


class LiveWindow(NamedTuple):
  """The newest frames of a stream, as a clip.

  Attributes:
    pixels: uint8 [T, crop, crop, 3].
    last: number of the newest frame in it, counted from 0.
    taken: when that frame was read, of `time.monotonic`.
  """

  pixels: _Array
  last: int
  taken: float


def is_live(source: str) -> bool:
  """Whether this names a webcam by its number, or a stream by its address."""
  return source.isdecimal() or _ADDRESS.match(source.lower()) is not None


def open_camera(source: str) -> tuple[Camera, float]:
  """Opens a webcam ('0') or a stream ('rtsp://...', 'http://...').

  Returns:
    The camera and its frames per second.

  Raises:
    DataError: It is not there, or cannot be opened.
  """
  cv2.utils.logging.setLogLevel(
    cv2.utils.logging.LOG_LEVEL_SILENT
  )  # Its own warnings name neither the cause nor what to do.
  camera = cv2.VideoCapture(min(int(source), _LAST_WEBCAM) if source.isdecimal() else source)
  if not camera.isOpened():
    camera.release()
    kind = 'webcam' if source.isdecimal() else 'stream'
    advice = (
      'Connect it, close the programs that use it, or try another number (`ls /dev/video*`)'
      if source.isdecimal()
      else 'Check the address by playing it, for example with ffplay'
    )
    raise DataError(f'{source}: there is no such {kind}, or it cannot be opened. {advice}.')
  rate = float(camera.get(cv2.CAP_PROP_FPS))
  return camera, rate if 0 < rate <= _FASTEST else _USUAL_RATE


class NewestFrames:
  """Reads a camera in a thread and keeps the newest frames, cropped; `with` ends the thread.

  Frames are dropped, never queued: memory is that of one window, and a window is always of the newest
  frames, however slow its user is.

  Attributes:
    span: frames of a window.
    count: frames read.
    dropped: frames read before the newest window that no window shows.
  """

  def __init__(self, camera: Camera, clip: ClipConfig, rate: float, span: int, hop: int) -> None:
    """Starts reading.

    Args:
      camera: to read; released in the end.
      clip: what to cut from a window.
      rate: frames per second.
      span: frames of a window.
      hop: new frames from a window to the next, at least.
    """
    self.span, self.count, self.dropped = span, 0, 0
    self._camera, self._clip, self._rate, self._hop = camera, clip, rate, hop
    self._kept: deque[_Array] = deque(maxlen=span)
    self._taken = 0.0
    self._last = -1  # newest frame of the newest window
    self._ended = False
    self._error: Exception | None = None
    self._changed = threading.Condition()
    self._thread = threading.Thread(target=self._read, daemon=True)
    self._thread.start()

  def _read(self) -> None:
    try:
      while not self._ended and self._read_one():
        pass
    except (cv2.error, ValueError) as error:
      self._error = error
    finally:  # Whatever happened, nobody shall wait for more.
      with self._changed:
        self._ended = True
        self._changed.notify_all()

  def _read_one(self) -> bool:
    there, frame = self._camera.read()
    if there:
      pixels = clips.cut_crops(np.ascontiguousarray(frame[..., ::-1]), self._clip, 1)[0]
      with self._changed:
        self._kept.append(pixels)
        self._taken, self.count = time.monotonic(), self.count + 1
        self._changed.notify_all()
    return there

  def window(self, until: float = math.inf) -> LiveWindow | None:
    """Waits for a window with enough new frames, of the newest there are; None after the end.

    A stream that ends with frames not yet shown gives one more.

    Args:
      until: when to wait no longer and give None, of `time.monotonic`.

    Raises:
      DataError: The stream ended without a frame, or a frame cannot be used.
    """
    with self._changed:
      wanted = max(self._last + self._hop, self.span - 1)
      # In pieces: a wait without end could not be interrupted on every system.
      while not self._ended and self.count <= wanted:
        left = until - time.monotonic()
        if left <= 0:
          return None
        self._changed.wait(min(left, 0.2))
      self._check()
      newest = self.count - 1
      if newest <= self._last:
        return None
      kept, taken = list(self._kept), self._taken
      self.dropped += max(0, newest - len(kept) - self._last)
      self._last = newest
    found = windows.windows(len(kept), self._clip, 1, self._rate, self.span)
    within = windows.indices(found, self._clip, self._rate)[0]
    return LiveWindow(np.stack([kept[index] for index in within]), newest, taken)

  def _check(self) -> None:
    if self._error:
      raise DataError(f'frame {self.count} cannot be read: {self._error}.') from self._error
    if not self.count:
      raise DataError('the stream was opened, but it ended without a frame.')

  def close(self) -> None:
    """Ends the thread with the frame that it waits for, and releases the camera."""
    self._ended = True
    self._thread.join(_LONGEST_READ)
    # It may wait for a picture for ever; to release the camera then crashes.
    if not self._thread.is_alive():
      self._camera.release()

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    self.close()
