"""Videos, read with PyAV: which frames there are, chosen frames by number, and frames by time.

Only this module, `picture` and `video_writer` import `av`. Every failure of libav is a DataError that
names the file. Times count from the container's start, as a player's clock does and as annotations
mean them: a file whose time stamps begin at 5 s starts at 0, and so does one whose sound begins before
its picture.
"""

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any, TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from datasets.picture import Layout, Picture
from errors import DataError

_Array = np.ndarray[Any, np.dtype[Any]]
_T = TypeVar('_T')

# Only local files: a playlist in a file named .mp4 must not open network addresses.
_OPTIONS = {'protocol_whitelist': 'file'}
# How far to go back, in seconds, when a seek came out behind the frame wanted.
_BACK_OFF = (0, 1, 4, 16, 64)


@dataclasses.dataclass(frozen=True, eq=False)
class VideoInfo:
  """What `probe` finds out about a video of N frames.

  Attributes:
    height: of the frames as displayed (rotation and non-square pixels applied), px.
    width: as displayed, px.
    frame_rate: average, frames per second.
    times: float64 [N], when each frame appears, seconds from the container's start, ascending.
    stamps: int64 [N], the same in the file's own unit; frame numbers if not `seekable`.
    keyframes: int64 [K], the frame numbers that decoding can start at.
    seekable: False where the file has no usable time stamps (AVI, raw streams): frames are then
      counted from the beginning, `frame_rate` a second.
  """

  height: int
  width: int
  frame_rate: float
  times: _Array
  stamps: _Array
  keyframes: _Array
  seekable: bool

  @property
  def num_frames(self) -> int:
    """N."""
    return len(self.times)


def probe(path: str | os.PathLike[str]) -> VideoInfo:
  """Reads a file's packets, and decodes only the first frame unless time stamps are missing.

  Raises:
    DataError: missing, empty or truncated file, no video, no video stream, no decoder for it, or
      no frame that can be decoded.
  """
  with _open(path) as (container, stream):
    first: av.VideoFrame | None = None
    stamps: list[int | None] = []
    keys: list[bool] = []
    for packet in _packets(container, stream):
      if packet.size and not packet.is_discard:
        stamps.append(packet.pts)
        keys.append(packet.is_keyframe)
      if first is None:
        first = next(iter(packet.decode()), None)
    if first is None:
      raise _no_frame(path)
    layout = Layout.of(first, stream, path)
    if _must_count(container) or None in stamps:
      return _counted_info(layout, _count_frames(path), _header_rate(stream))
    return _timed_info(layout, container, stream, np.array(stamps), np.array(keys))


def _count_frames(path: str | os.PathLike[str]) -> int:
  with _open(path) as (container, stream):
    return sum(1 for _ in _decoded(container, stream))


def _counted_info(layout: Layout, frames: int, rate: float) -> VideoInfo:
  numbers = np.arange(frames, dtype=np.int64)
  height, width = layout.displayed
  return VideoInfo(height, width, rate, numbers / rate, numbers, numbers[:1], False)


def _timed_info(
  layout: Layout, container: InputContainer, stream: VideoStream, stamps: _Array, keys: _Array
) -> VideoInfo:
  order = np.argsort(stamps, kind='stable')
  stamps = stamps[order].astype(np.int64)
  times = stamps * float(_unit(stream)) - _zero(container)
  span = times[-1] - times[0]
  rate = (len(times) - 1) / span if span > 0 else _header_rate(stream)
  height, width = layout.displayed
  return VideoInfo(height, width, rate, times, stamps, np.flatnonzero(keys[order]), True)


def read_frames(
  path: str | os.PathLike[str], info: VideoInfo, indices: Sequence[int] | _Array
) -> Iterator[_Array]:
  """Decodes chosen frames as displayed: RGB uint8 [info.height, info.width, 3] each.

  Decoding starts at the keyframe before the first one, and again at a later keyframe where that
  saves frames. A frame that cannot be decoded gives the one before it, as a player would show.

  Args:
    path: the file that `info` describes.
    info: what `probe` said.
    indices: ascending, distinct frame numbers.

  Raises:
    DataError: a number is out of range or order, or the file cannot be decoded.
  """
  wanted = np.asarray(indices, np.int64)
  inside = len(wanted) == 0 or 0 <= wanted[0] <= wanted[-1] < info.num_frames
  if not inside or (np.diff(wanted) <= 0).any():
    raise DataError(
      f'{path}: frame numbers must be ascending, distinct and in [0, {info.num_frames - 1}], '
      f'got {wanted.tolist()[:10]}.'
    )
  with _open(path) as (container, stream):
    seeker = _Seeker(container, stream, info)
    reformatter = VideoReformatter()
    for index in wanted.tolist():
      frame = seeker.shown(index)
      if frame is None:
        raise _no_frame(path)
      picture = Picture(frame, Layout.of(frame, stream, path), reformatter)
      yield picture.rgb(info.height, info.width)


class _Seeker:
  """Finds frames of an open video by number, in ascending order."""

  def __init__(self, container: InputContainer, stream: VideoStream, info: VideoInfo):
    self._container = container
    self._stream = stream
    self._info = info
    self._frames: Iterator[tuple[int, av.VideoFrame]] | None = None
    self._last = -1  # the frame number asked for last
    self._shown: tuple[int, av.VideoFrame] | None = None
    self._ahead: tuple[int, av.VideoFrame] | None = None

  def shown(self, index: int) -> av.VideoFrame | None:
    """The frame with the index' time stamp, else the last before it; None if none is decoded."""
    stamp = int(self._info.stamps[index])
    keys = self._info.keyframes
    later_key = bool(((keys > self._last) & (keys <= index)).any())
    if self._frames is None or (later_key and self._info.seekable):
      self._frames = self._start(stamp)
      self._shown = self._ahead = None
    self._last = index
    while self._shown is None or self._shown[0] < stamp:
      following = self._ahead or next(self._frames, None)
      self._ahead = None
      if following is None:
        break
      if self._shown is not None and following[0] > stamp:
        self._ahead = following
        break
      self._shown = following
    return self._shown[1] if self._shown else None

  def _start(self, stamp: int) -> Iterator[tuple[int, av.VideoFrame]]:
    if not self._info.seekable:
      return enumerate(_decoded(self._container, self._stream))
    first = int(self._info.stamps[0])
    return _stamped(_decoded_from(self._container, self._stream, stamp, first))


class Video:
  """An open video to stream frames from by time; use as `with open_video(path) as video`.

  Attributes:
    frame_rate: average, frames per second.
  """

  def __init__(self, path: str, container: InputContainer, stream: VideoStream):
    """Use `open_video`."""
    self._path = path
    self._container = container
    self._stream = stream
    # A table of samples (MP4, AVI) knows the average; elsewhere the header's rate is a guess.
    if stream.frames > 0 and stream.average_rate:
      self.frame_rate, self._counted = _header_rate(stream), _must_count(container)
    else:
      info = probe(path)
      self.frame_rate, self._counted = info.frame_rate, not info.seekable

  def frames_at(
    self, times: Iterable[float], render: Callable[[Picture], _T]
  ) -> Iterator[tuple[float, _T]]:
    """Yields (time, rendered) of the frame displayed at each time; ends where the video ends.

    Before the first frame the first counts as displayed. A frame that is displayed at several times
    is rendered once. Memory stays flat however long the video is.

    Args:
      times: ascending, in seconds from the container's start; may be endless.
      render: makes the result of a frame.

    Raises:
      DataError: the file cannot be decoded, or no frame of it can.
    """
    times = iter(times)
    begin = next(times, None)
    if begin is None:
      return
    frames = self._frames_from(begin)
    shown = next(frames, None)
    if shown is None:
      raise _no_frame(self._path)
    reformatter = VideoReformatter()
    ahead = next(frames, None)
    fresh = True
    for time in itertools.chain([begin], times):
      while ahead is not None and ahead[0] <= time:
        shown, ahead, fresh = ahead, next(frames, None), True
      if ahead is None and time >= shown[0] + self._seconds(shown[1]):
        return
      if fresh:
        layout = Layout.of(shown[1], self._stream, self._path)
        rendered = render(Picture(shown[1], layout, reformatter))
        fresh = False
      yield time, rendered

  def _frames_from(self, time: float) -> Iterator[tuple[float, av.VideoFrame]]:
    """(time, frame) from a keyframe at or before the time on."""
    if self._counted:
      for number, frame in enumerate(_decoded(self._container, self._stream)):
        yield number / self.frame_rate, frame
      return
    unit, zero = float(_unit(self._stream)), _zero(self._container)
    first = self._stream.start_time or 0
    frames = _decoded_from(self._container, self._stream, int((time + zero) / unit), first)
    for stamp, frame in _stamped(frames):
      yield stamp * unit - zero, frame

  def _seconds(self, frame: av.VideoFrame) -> float:
    """How long a frame is displayed."""
    given = float((frame.duration or 0) * (frame.time_base or 0))
    return given if given > 0 and not self._counted else 1 / self.frame_rate


@contextlib.contextmanager
def open_video(path: str | os.PathLike[str]) -> Iterator[Video]:
  """Opens a video for `Video.frames_at`.

  Raises:
    DataError: as `probe`, also for what fails later while it is open.
  """
  with _open(path) as (container, stream):
    yield Video(os.fspath(path), container, stream)


@contextlib.contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[tuple[InputContainer, VideoStream]]:
  """Opens a file's video stream; errors of libav in the `with` body name the file."""
  name = os.fspath(path)
  if not os.path.isfile(name):
    raise DataError(f'{name}: no such video file.')
  if os.path.getsize(name) == 0:
    raise DataError(f'{name}: the file is empty (0 bytes). Copy or download it again.')
  try:
    # 'file:' lets names contain colons.
    with av.open(f'file:{name}', options=_OPTIONS, metadata_errors='replace') as container:
      yield container, _video_stream(container, name)
  except av.FFmpegError as error:
    raise DataError(
      f'{name}: cannot be read as a video ({error.strerror}): it is truncated, damaged or no '
      'video. Copy or download it again.'
    ) from error


def _video_stream(container: InputContainer, path: str) -> VideoStream:
  """The video stream, with one decoder thread. Cover pictures and text files do not count."""
  if container.format.name == 'tty':
    raise DataError(f'{path}: is a text file, no video.')
  cover = av.stream.Disposition.attached_pic
  streams = [s for s in container.streams.video if not s.disposition & cover]
  if not streams:
    kinds = ', '.join(sorted({s.type for s in container.streams}))
    found = f'only {kinds}' if kinds else 'nothing at all: it is truncated or no video'
    raise DataError(f'{path}: has no video stream, {found}.')
  best = container.streams.best('video')
  stream = best if best in streams and isinstance(best, VideoStream) else streams[0]
  if stream.codec_context is None:
    raise DataError(
      f'{path}: no decoder for its codec. Convert it, for example by ffmpeg -i IN -c:v libx264 OUT.'
    )
  stream.codec_context.thread_count = 1
  return stream


def _packets(container: InputContainer, stream: VideoStream) -> Iterator['av.Packet[VideoStream]']:
  """Packets from the next keyframe on, and at the end the empty one that flushes the decoder."""
  started = False
  for packet in container.demux(stream):
    # MPEG-TS marks packets around a seek, too.
    if packet.is_corrupt and container.format.name != 'mpegts':
      at = '' if packet.pts is None else f' at {float(packet.pts * _unit(stream)):.2f} s'
      raise DataError(f'{container.name[5:]}: truncated or damaged{at}. Download it again.')
    started = started or packet.is_keyframe or not packet.size
    if started:
      yield packet


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
  for packet in _packets(container, stream):
    yield from packet.decode()


def _decoded_from(
  container: InputContainer, stream: VideoStream, stamp: int, first: int
) -> Iterator[av.VideoFrame]:
  """Frames from a keyframe at or before `stamp` on; `first` is the stamp of the first frame.

  Seeking is inexact in some containers: what comes out is checked, and if it lies behind the stamp
  the search begins further back, in the end at the start of the file.
  """
  seconds = 1 / _unit(stream)
  for back in _BACK_OFF:
    target = int(stamp - back * seconds)
    if target <= first:
      break
    container.seek(target, stream=stream)
    frames = _decoded(container, stream)
    head = next(frames, None)
    if head is not None and head.pts is not None and head.pts <= stamp:
      return itertools.chain([head], frames)
  # Well before the start, since MPEG-TS would otherwise land behind the first keyframe.
  container.seek(int(first - _BACK_OFF[-1] * seconds), stream=stream)
  return _decoded(container, stream)


def _stamped(frames: Iterable[av.VideoFrame]) -> Iterator[tuple[int, av.VideoFrame]]:
  """(time stamp, frame) of the frames that have one."""
  for frame in frames:
    if frame.pts is not None:
      yield frame.pts, frame


def _must_count(container: InputContainer) -> bool:
  """Whether time stamps cannot be trusted: AVI has none for reordered frames, raw streams none."""
  return container.format.name == 'avi' or container.start_time is None


def _unit(stream: VideoStream) -> Fraction:
  """Seconds of one unit of the stream's time stamps."""
  return stream.time_base or Fraction(1, av.time_base)


def _zero(container: InputContainer) -> float:
  """The container's start, in seconds."""
  return (container.start_time or 0) / av.time_base


def _header_rate(stream: VideoStream) -> float:
  return float(stream.average_rate or stream.guessed_rate or 25)


def _no_frame(path: str | os.PathLike[str]) -> DataError:
  return DataError(f'{path}: no frame of it can be decoded. Download it again.')
