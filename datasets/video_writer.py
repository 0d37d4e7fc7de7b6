"""Writes videos that players and browsers show: H.264 in MP4, with PyAV."""

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.video.stream import VideoStream

from errors import DataError

_Array = np.ndarray[Any, np.dtype[Any]]

# PyAV's wheels have libx264; builds of FFmpeg without it have at least their own MPEG-4.
_CODECS = 'libx264', 'mpeg4'


def write_mp4(path: str | os.PathLike[str], frames: Iterable[_Array], rate: float) -> None:
  """Writes a video that appears when it is complete.

  Args:
    path: The file, replaced if it exists; its folder exists.
    frames: RGB uint8 [H, W, 3], all of one size, H and W even; at least one.
    rate: Frames per second.

  Raises:
    DataError: The file cannot be written.
  """
  path = Path(path)
  partial = path.with_name(f'.{path.stem}.{os.getpid()}.partial.mp4')
  codec = next(name for name in _CODECS if name in av.codecs_available)
  try:
    with av.open(f'file:{partial}', 'w') as container:
      exact = Fraction(rate).limit_denominator(1000)
      stream = cast(VideoStream, container.add_stream(codec, rate=exact))
      stream.pix_fmt = 'yuv420p'
      for number, frame in enumerate(frames):
        if number == 0:
          stream.height, stream.width = frame.shape[:2]
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), 'rgb24')
        container.mux(stream.encode(picture))
      container.mux(stream.encode(None))
    partial.replace(path)
  except (av.FFmpegError, OSError) as error:
    raise DataError(f'{path} cannot be written: {error.strerror}.') from error
  finally:
    partial.unlink(missing_ok=True)
