"""A video file as a dataset of one row."""

import pytest

from datasets import clips
from datasets.clip_config import ClipConfig
from datasets.one_video import OneVideo
from errors import DataError
from tests.datasets import videos


def test_clips_are_cut_as_from_any_dataset(tmp_path):
  path = videos.write_video(tmp_path / 'a.mp4', 40)
  video = OneVideo(path)
  assert (len(video), video.key(0), video.num_frames.tolist()) == (1, 'a.mp4', [40])
  assert video.frame_rate.tolist() == [25]
  views = clips.view_clips(video, ClipConfig(4, 2, 48, 32), 0, 2, 3)
  assert views.shape == (6, 4, 32, 32, 3)
  frames = list(video.frames(0, clips.view_indices(video, ClipConfig(4, 2, 48, 32), 0, 2)[1]))
  assert [videos.number_in(frame) for frame in frames] == [33, 35, 37, 39]


def test_a_file_that_is_none(tmp_path):
  with pytest.raises(DataError, match='no such video file'):
    OneVideo(tmp_path / 'a.mp4')
