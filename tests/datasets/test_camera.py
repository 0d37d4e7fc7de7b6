"""A stream's windows are of its newest frames; the others are dropped, not queued."""

import threading
import time

import cv2
import numpy as np
import pytest

from datasets import camera
from datasets.camera import NewestFrames
from datasets.clip_config import ClipConfig
from errors import DataError
from tests.datasets.videos import number_in, picture

CLIP = ClipConfig(frames=4, stride=2, resize=48, crop=48)


class FakeCamera:
  """Gives `total` frames, as many as it is allowed to, at once."""

  def __init__(self, total):
    self.total, self.number, self.released = total, 0, False
    self._allowed = threading.Semaphore(0)

  def allow(self, frames):
    self._allowed.release(frames)

  def read(self):
    self._allowed.acquire()
    if self.number == self.total:
      return False, None
    self.number += 1
    return True, picture(self.number - 1, 48, 48)[..., ::-1]

  def release(self):
    self.released = True


def wait_for(frames, count):
  with frames._changed:
    assert frames._changed.wait_for(lambda: frames.count == count, timeout=60)


def test_a_camera_faster_than_the_model():
  fake = FakeCamera(107)
  with NewestFrames(fake, CLIP, 30.0, 7, 3) as frames:
    fake.allow(7)
    first = frames.window()
    assert [number_in(frame) for frame in first.pixels] == [0, 2, 4, 6]
    seen = [first.last]
    for count in (27, 47, 67):  # 20 frames come while a window of 7 is computed.
      fake.allow(20)
      wait_for(frames, count)
      assert len(frames._kept) == 7
      window = frames.window()
      seen.append(window.last)
      assert [number_in(frame) for frame in window.pixels] == [count - 7 + i for i in (0, 2, 4, 6)]
    assert seen == [6, 26, 46, 66]  # Never behind by a frame when it is taken.
    assert frames.dropped == 3 * 13
    fake.allow(3)  # As many as `hop` asks for.
    assert frames.window().last == 69
    assert frames.dropped == 3 * 13
    fake.allow(38)  # The rest, and the end.
    wait_for(frames, 107)
    assert frames.window().last == 106
    assert frames.window() is None
  assert fake.released


def test_the_end_of_a_stream():
  fake = FakeCamera(3)
  fake.allow(4)
  with NewestFrames(fake, CLIP, 30.0, 7, 3) as frames:
    window = frames.window()
    assert [number_in(frame) for frame in window.pixels] == [0, 2, 1, 0]
    assert frames.window() is None
    assert (frames.count, frames.dropped) == (3, 0)


class BrokenCamera(FakeCamera):
  """Fails after its frames."""

  def read(self):
    there, frame = super().read()
    if not there:
      raise cv2.error('the cable is out')
    return there, frame


def test_a_camera_that_fails_is_told_and_not_waited_for():
  fake = BrokenCamera(3)
  fake.allow(4)
  frames = NewestFrames(fake, CLIP, 30.0, 7, 3)
  with frames, pytest.raises(DataError, match=r'^frame 3 cannot be read: the cable is out\.$'):
    frames.window()
  assert fake.released


def test_a_stream_without_a_frame():
  fake = FakeCamera(0)
  fake.allow(1)
  frames = NewestFrames(fake, CLIP, 30.0, 7, 3)
  with frames, pytest.raises(DataError, match='it ended without a frame'):
    frames.window()


def test_a_stream_that_stands_still_is_waited_for_until_a_time(monkeypatch):
  monkeypatch.setattr(camera, '_LONGEST_READ', 0.01)
  fake = FakeCamera(9)
  fake.allow(6)
  with NewestFrames(fake, CLIP, 30.0, 7, 3) as frames:
    wait_for(frames, 6)
    assert frames.window(time.monotonic()) is None
  assert not fake.released  # It is still reading.
  fake.allow(4)


def test_names_of_streams():
  assert [camera.is_live(name) for name in ('rtsps://host/cam', 'srt://host:9000')] == [True] * 2
  assert not camera.is_live('file:///a.mp4')
  live = ('0', '12', 'rtsp://10.0.0.7/cam', 'HTTP://host/a.mp4')
  assert [camera.is_live(name) for name in live] == [True] * 4
  assert [camera.is_live(name) for name in ('a.mp4', '0.mp4', 'folder', './0')] == [False] * 4


def test_a_webcam_that_is_not_there():
  with pytest.raises(DataError, match=r'^97: there is no such webcam, .*`ls /dev/video\*`'):
    camera.open_camera('97')
  with pytest.raises(DataError, match=r'^99999999999: there is no such webcam'):
    camera.open_camera('99999999999')
  with pytest.raises(DataError, match=r'^http://127\.0\.0\.1:9/no: there is no such stream'):
    camera.open_camera('http://127.0.0.1:9/no')


def test_a_file_is_read_as_a_stream(tmp_path):
  from tests.datasets.videos import write_video

  path = write_video(tmp_path / 'a.mp4', 12)
  opened, rate = camera.open_camera(str(path))
  assert rate == 25
  with NewestFrames(opened, CLIP, rate, 7, 1) as frames:
    last = -1
    while (window := frames.window()) is not None:
      assert window.last > last
      last = window.last
      assert window.pixels.dtype == np.uint8
  assert last == 11
