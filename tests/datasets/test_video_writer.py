"""What is written is a video that players know, and it is whole or not there."""

import numpy as np
import pytest

from datasets import video, video_writer
from errors import DataError
from tests.datasets.videos import number_in, picture


def test_frames_come_back(tmp_path):
  path = tmp_path / 'out.mp4'
  video_writer.write_mp4(path, (picture(n) for n in range(10)), 12.5)
  info = video.probe(path)
  assert (info.height, info.width, info.num_frames, info.frame_rate) == (48, 64, 10, 12.5)
  assert [number_in(f) for f in video.read_frames(path, info, range(10))] == list(range(10))
  assert [p.name for p in tmp_path.iterdir()] == ['out.mp4']


def test_one_frame_is_a_video(tmp_path):
  video_writer.write_mp4(tmp_path / 'out.mp4', [picture(3)], 4)
  assert video.probe(tmp_path / 'out.mp4').num_frames == 1


def test_without_h264_it_is_mpeg4(tmp_path, monkeypatch):
  monkeypatch.setattr(video_writer.av, 'codecs_available', {'mpeg4'})
  video_writer.write_mp4(tmp_path / 'out.mp4', [picture(3)] * 3, 4)
  with video_writer.av.open(str(tmp_path / 'out.mp4')) as container:
    assert container.streams.video[0].codec_context.name == 'mpeg4'


def test_nothing_is_left_of_what_fails(tmp_path):
  def frames():
    yield picture(0)
    raise RuntimeError

  with pytest.raises(RuntimeError):
    video_writer.write_mp4(tmp_path / 'out.mp4', frames(), 4)
  assert list(tmp_path.iterdir()) == []
  with pytest.raises(DataError, match=r'nowhere/out\.mp4 cannot be written: No such file'):
    video_writer.write_mp4(tmp_path / 'nowhere' / 'out.mp4', [picture(0)], 4)
  with pytest.raises(DataError, match=r'out\.mp4 cannot be written'):
    video_writer.write_mp4(tmp_path / 'out.mp4', [np.zeros((47, 64, 3), np.uint8)], 4)
