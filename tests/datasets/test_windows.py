"""Windows cover a video, and each is cut like a video of its own."""

import numpy as np
import pytest

from datasets import clips, windows
from datasets.clip_config import ClipConfig
from datasets.one_video import OneVideo
from errors import ConfigError, DataError
from tests.datasets.videos import write_video

DENSE = ClipConfig(frames=4, stride=2, resize=8, crop=8)


def test_the_last_window_ends_with_the_video():
  found = windows.windows(20, DENSE, 5, 10.0)
  assert found.span == 7
  assert found.starts.tolist() == [0, 5, 10, 13]
  assert found.starts.dtype == np.int64
  np.testing.assert_allclose(found.centres, [0.3, 0.8, 1.3, 1.6])
  assert windows.indices(found, DENSE, 10.0)[[0, 3]].tolist() == [[0, 2, 4, 6], [13, 15, 17, 19]]


def test_windows_that_fit_exactly_are_not_repeated():
  assert windows.windows(17, DENSE, 5, 10.0).starts.tolist() == [0, 5, 10]
  assert windows.windows(7, DENSE, 5, 10.0).starts.tolist() == [0]


@pytest.mark.parametrize(('short', 'expected'), [('loop', [0, 2, 1, 0]), ('hold', [0, 2, 2, 2])])
def test_a_short_video_is_one_window(short, expected):
  clip = ClipConfig(frames=4, stride=2, resize=8, crop=8, short_clip=short)
  found = windows.windows(3, clip, 5, 10.0)
  assert (found.starts.tolist(), found.span, found.centres.tolist()) == ([0], 3, [0.1])
  assert windows.indices(found, clip, 10.0).tolist() == [expected]


def test_frames_per_second_of_the_clip_set_the_span():
  clip = ClipConfig(frames=4, stride=1, resize=8, crop=8, fps=5)
  assert windows.span_of(clip, 25.0) == 16
  found = windows.windows(40, clip, 12, 25.0)
  assert found.starts.tolist() == [0, 12, 24]
  assert windows.indices(found, clip, 25.0)[1].tolist() == [12, 17, 22, 27]
  with pytest.raises(DataError, match='frame rate is not known'):
    windows.windows(40, clip, 12, 0.0)


@pytest.mark.parametrize(
  ('sampling', 'expected'), [('uniform', [10, 13, 16, 19]), ('segments', [11, 13, 16, 18])]
)
def test_clips_of_whole_videos_need_a_span(sampling, expected):
  clip = ClipConfig(frames=4, stride=1, resize=8, crop=8, sampling=sampling)
  assert windows.span_of(clip, 10.0) == 0
  assert windows.windows(30, clip, 5, 10.0).span == 30
  found = windows.windows(30, clip, 10, 10.0, span=10)
  assert found.starts.tolist() == [0, 10, 20]
  assert windows.indices(found, clip, 10.0)[1].tolist() == expected


def test_numbers_out_of_range_are_named():
  with pytest.raises(ConfigError, match='hop_frames: expected at least 1, got 0'):
    windows.windows(30, DENSE, 0, 10.0)
  with pytest.raises(ConfigError, match='span: expected at least 0, got -1'):
    windows.windows(30, DENSE, 1, 10.0, span=-1)


def test_a_window_is_cut_as_a_video_of_its_own(tmp_path):
  path = write_video(tmp_path / 'a.mp4', 20)
  clip = ClipConfig(frames=4, stride=2, resize=40, crop=32)
  found = windows.windows(20, clip, 3, 25.0)
  decoded = []

  class Counting(OneVideo):
    def frames(self, row, indices):
      for index, frame in zip(indices, super().frames(row, indices)):
        decoded.append(int(index))
        yield frame

  pixels = list(windows.cut(Counting(path), 0, clip, found))
  assert decoded == sorted(set(decoded))
  assert [w.shape for w in pixels] == [(4, 32, 32, 3)] * 6
  for start, window in zip(found.starts.tolist(), pixels, strict=True):
    part = Part(path, start, found.span)
    np.testing.assert_array_equal(window, clips.view_clips(part, clip, 0, 1, 1)[0])
  views = list(windows.cut_views(OneVideo(path), 0, clip, found, 3))
  np.testing.assert_array_equal(
    views[2], clips.view_clips(Part(path, int(found.starts[2]), found.span), clip, 0, 1, 3)
  )


class Part(OneVideo):
  """Some frames of a video."""

  def __init__(self, path, start, frames):
    super().__init__(path)
    self.start, self.num_frames = start, np.array([frames])

  def frames(self, row, indices):
    return super().frames(row, self.start + np.asarray(indices))
