import numpy as np
import pytest

from datasets import sampling


def rng(seed=0):
  return np.random.default_rng(seed)


def test_dense_train_indices_cover_every_offset_and_no_other():
  # span (4 - 1) * 3 + 1 = 10: offsets 0, 1, 2 of a video of 12 frames.
  found = {tuple(sampling.dense_train_indices(rng(i), 12, 4, 3)) for i in range(60)}
  assert found == {(0, 3, 6, 9), (1, 4, 7, 10), (2, 5, 8, 11)}


def test_dense_train_indices_of_exactly_the_span():
  assert sampling.dense_train_indices(rng(), 10, 4, 3).tolist() == [0, 3, 6, 9]


def test_dense_train_indices_of_short_videos():
  assert sampling.dense_train_indices(rng(), 5, 6, 2, 'loop').tolist() == [0, 2, 4, 1, 3, 0]
  assert sampling.dense_train_indices(rng(), 5, 6, 2, 'hold').tolist() == [0, 2, 4, 4, 4, 4]
  assert sampling.dense_train_indices(rng(), 1, 3, 2, 'loop').tolist() == [0, 0, 0]


def test_dense_view_indices():
  # span 5, 12 frames: offsets 0..7; three views at 0, 3 (3.5 down), 7; one at the centre, 3.
  views = sampling.dense_view_indices(12, 3, 2, 3)
  assert views.tolist() == [[0, 2, 4], [3, 5, 7], [7, 9, 11]]
  assert sampling.dense_view_indices(12, 3, 2, 1).tolist() == [[3, 5, 7]]
  assert sampling.dense_view_indices(5, 3, 2, 2).tolist() == [[0, 2, 4], [0, 2, 4]]


def test_dense_view_indices_of_the_vivit_paper():
  # 250 frames, 32 x 2, 4 views: offsets i * 187 / 3 rounded down.
  indices = sampling.dense_view_indices(250, 32, 2, 4)
  assert indices[:, 0].tolist() == [0, 62, 124, 187]
  assert indices[-1, -1] == 249


def test_dense_view_indices_of_short_videos():
  assert sampling.dense_view_indices(3, 4, 1, 2, 'loop').tolist() == [[0, 1, 2, 0]] * 2
  assert sampling.dense_view_indices(3, 4, 1, 1, 'hold').tolist() == [[0, 1, 2, 2]]


def test_stride_in_seconds():
  # A stride of 2 at 25 fps is 80 ms: 4.8 frames at 60 fps, 1 frame at 12.5.
  assert sampling.frame_step(2, 25.0, 60.0) == pytest.approx(4.8)
  assert sampling.frame_step(2, 25.0, 12.5) == 1.0
  assert sampling.frame_step(2, 0.0, 60.0) == 2
  # Span floor(3 * 4.8) + 1 = 15 frames, which a video of 15 holds once.
  assert sampling.dense_train_indices(rng(), 15, 4, 4.8).tolist() == [0, 4, 9, 14]
  assert sampling.dense_view_indices(16, 4, 4.8, 2).tolist() == [[0, 4, 9, 14], [1, 5, 10, 15]]
  # Below one frame a step, frames repeat.
  assert sampling.dense_train_indices(rng(), 3, 4, 0.5).min() >= 0
  assert np.diff(sampling.dense_train_indices(rng(), 9, 4, 0.5)).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
  ('num_frames', 'frames', 'wanted'),
  [
    (10, 4, [0, 3, 6, 9]),
    (11, 4, [0, 3, 7, 10]),  # thirds of 10: 3.33, 6.67
    (6, 3, [0, 3, 5]),  # a half goes up
    (7, 1, [3]),
    (2, 4, [0, 0, 1, 1]),
    (1, 3, [0, 0, 0]),
  ],
)
def test_uniform_indices(num_frames, frames, wanted):
  assert sampling.uniform_indices(num_frames, frames).tolist() == wanted


def test_segment_train_indices_stay_in_their_segments():
  # 10 frames in 4 segments of 2.5: 0..2, 2..4, 5..7, 7..9 (a frame on the border is in both).
  draws = np.stack([sampling.segment_train_indices(rng(i), 10, 4) for i in range(300)])
  assert [sorted(set(column)) for column in draws.T] == [
    [0, 1, 2], [2, 3, 4], [5, 6, 7], [7, 8, 9],
  ]  # fmt: skip


def test_segments_of_a_short_video_repeat_frames():
  draws = np.stack([sampling.segment_train_indices(rng(i), 2, 4) for i in range(20)])
  assert (draws == [0, 0, 1, 1]).all()


def test_segment_view_indices():
  # Segments of 4 frames: one view takes frame 2 of each, two views frames 1 and 3.
  assert sampling.segment_view_indices(12, 3, 1).tolist() == [[2, 6, 10]]
  assert sampling.segment_view_indices(12, 3, 2).tolist() == [[1, 5, 9], [3, 7, 11]]
  assert sampling.segment_view_indices(3, 8, 1).tolist() == [[0, 0, 0, 1, 1, 2, 2, 2]]
