import cv2
import numpy as np
import pytest
import simplejpeg
import tensorflow as tf

from datasets import clips
from errors import DataError


class FixedRng:
  """A generator whose uniforms are given."""

  def __init__(self, *uniforms):
    self.uniforms = np.array(uniforms)

  def random(self, size):
    assert size == len(self.uniforms)
    return self.uniforms


def rng(seed=0):
  return np.random.default_rng(seed)


def random_frame(height, width, seed=0):
  """A smooth random picture, uint8 [H, W, 3]."""
  coarse = rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
  return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def test_train_indices_cover_every_offset_and_no_other():
  # span (4 - 1) * 3 + 1 = 10: offsets 0, 1, 2 of a video of 12 frames.
  found = {tuple(clips.train_frame_indices(rng(i), 12, 4, 3)) for i in range(60)}
  assert found == {(0, 3, 6, 9), (1, 4, 7, 10), (2, 5, 8, 11)}


def test_train_indices_of_exactly_the_span():
  assert clips.train_frame_indices(rng(), 10, 4, 3).tolist() == [0, 3, 6, 9]


def test_train_indices_of_short_videos():
  assert clips.train_frame_indices(rng(), 5, 6, 2, 'loop').tolist() == [0, 2, 4, 1, 3, 0]
  assert clips.train_frame_indices(rng(), 5, 6, 2, 'hold').tolist() == [0, 2, 4, 4, 4, 4]
  assert clips.train_frame_indices(rng(), 1, 3, 2, 'loop').tolist() == [0, 0, 0]


def test_view_indices():
  # span 5, 12 frames: offsets 0..7; three views at 0, 3 (3.5 down), 7; one at the centre, 3.
  assert clips.view_frame_indices(12, 3, 2, 3).tolist() == [[0, 2, 4], [3, 5, 7], [7, 9, 11]]
  assert clips.view_frame_indices(12, 3, 2, 1).tolist() == [[3, 5, 7]]
  assert clips.view_frame_indices(5, 3, 2, 2).tolist() == [[0, 2, 4], [0, 2, 4]]


def test_view_indices_of_the_paper():
  # 250 frames, 32 x 2, 4 views: offsets i * 187 / 3 rounded down.
  indices = clips.view_frame_indices(250, 32, 2, 4)
  assert indices[:, 0].tolist() == [0, 62, 124, 187]
  assert indices[-1, -1] == 249


def test_view_indices_of_short_videos():
  assert clips.view_frame_indices(3, 4, 1, 2, 'loop').tolist() == [[0, 1, 2, 0]] * 2
  assert clips.view_frame_indices(3, 4, 1, 1, 'hold').tolist() == [[0, 1, 2, 2]]


@pytest.mark.parametrize(
  ('height', 'width', 'n', 'wanted'),
  [
    (256, 340, 3, ((16, 0), (16, 58), (16, 116))),
    (340, 256, 3, ((0, 16), (58, 16), (116, 16))),
    (256, 341, 1, ((16, 59),)),
    (224, 224, 3, ((0, 0),) * 3),
  ],
)
def test_spatial_crops(height, width, n, wanted):
  assert clips.spatial_crops(height, width, 224, n) == wanted


def test_spatial_crops_refuse():
  with pytest.raises(DataError, match='expected 1 or 3, got 2'):
    clips.spatial_crops(256, 256, 224, 2)
  with pytest.raises(DataError, match='200x300 frame is smaller than the crop 224'):
    clips.spatial_crops(200, 300, 224, 1)


def test_resized_shape():
  assert clips.resized_shape(240, 320, 256) == (256, 341)
  assert clips.resized_shape(321, 240, 256) == (342, 256)
  assert clips.resized_shape(100, 100, 64) == (64, 64)


def test_window_without_resize_is_a_plain_crop():
  window = clips.train_window(FixedRng(0, 0, 0.5, 0.999, 0.5), 256, 340, resize=256, crop=224)
  assert window == clips.Window(top=16, left=116, size=224, flip=False)
  frame = random_frame(256, 340)
  np.testing.assert_array_equal(clips.cut_window(frame, window, 224), frame[16:240, 116:340])


def test_window_of_resize_and_jitter():
  # 120 px -> 64 px, times 1.25: one output pixel is 1.5 source pixels, 48 px are 72.
  settings = {'resize': 64, 'crop': 48, 'scale_jitter': (0.75, 1.75), 'scale_jitter_prob': 0.8}
  window = clips.train_window(FixedRng(0.79, 0.5, 0.0, 0.5, 0), 120, 160, **settings)
  assert window == clips.Window(top=0, left=44, size=72, flip=False)
  unjittered = clips.train_window(FixedRng(0.8, 0.5, 0.0, 0.5, 0), 120, 160, **settings)
  assert unjittered.size == 90


def test_jitter_never_leaves_the_frame():
  window = clips.train_window(
    FixedRng(0, 0, 0.9, 0.9, 0), 120, 160, resize=64, crop=60, scale_jitter=(0.5, 1.0)
  )
  assert window == clips.Window(top=0, left=36, size=120, flip=False)


def test_flip_probability():
  draws = [
    clips.train_window(rng(i), 64, 64, resize=64, crop=32, flip_prob=0.3).flip for i in range(500)
  ]
  assert 0.2 < np.mean(draws) < 0.4
  assert not clips.train_window(FixedRng(0, 0, 0, 0, 0.0), 8, 8, resize=8, crop=4).flip


def test_windows_reach_all_positions():
  found = {
    (w.top, w.left)
    for w in (clips.train_window(rng(i), 10, 12, resize=10, crop=9) for i in range(200))
  }
  assert found == {(top, left) for top in range(2) for left in range(4)}


def test_window_agrees_with_resizing_the_whole_frame():
  # Factor 2 with a window at even pixels: both ways name the same pixels.
  frame = random_frame(128, 192)
  whole = cv2.resize(frame, (96, 64), interpolation=cv2.INTER_LINEAR)
  window = clips.Window(top=20, left=40, size=96, flip=False)
  cut = clips.cut_window(frame, window, 48)
  np.testing.assert_array_equal(cut, whole[10:58, 20:68])
  flipped = clips.cut_window(frame, clips.Window(20, 40, 96, True), 48)
  np.testing.assert_array_equal(flipped, whole[10:58, 20:68][:, ::-1])


def bilinear(image, size):
  """Plain bilinear resize to [size, size, 3] with half-pixel centres and clamped edges."""
  where = np.clip((np.arange(size) + 0.5) * len(image) / size - 0.5, 0, len(image) - 1)
  low = np.floor(where).astype(int)
  high = np.minimum(low + 1, len(image) - 1)
  weight = where - low
  image = image.astype(np.float64)
  rows = image[low] * (1 - weight)[:, None, None] + image[high] * weight[:, None, None]
  columns = weight[None, :, None]
  return rows[:, low] * (1 - columns) + rows[:, high] * columns


@pytest.mark.parametrize('size', [31, 48, 90])
def test_window_against_a_plain_bilinear_resize(size):
  frame = random_frame(100, 120, seed=size)
  window = clips.Window(top=5, left=21, size=size, flip=False)
  wanted = bilinear(frame[5 : 5 + size, 21 : 21 + size], 40)
  found = clips.cut_window(frame, window, 40)
  assert found.dtype == np.uint8
  assert np.abs(found - wanted).max() <= 1.0


def test_resize_short_side():
  frame = random_frame(60, 81)
  assert clips.resize_short_side(frame, 60) is frame
  np.testing.assert_array_equal(
    clips.resize_short_side(frame, 40), cv2.resize(frame, (54, 40), interpolation=cv2.INTER_LINEAR)
  )


def test_decode_jpeg_png_and_grey():
  frame = random_frame(32, 40)
  jpeg = simplejpeg.encode_jpeg(frame, quality=90, colorsubsampling='420')
  png = cv2.imencode('.png', frame[:, :, ::-1])[1].tobytes()
  grey = simplejpeg.encode_jpeg(frame[:, :, :1].copy(), colorspace='GRAY', quality=100)
  decoded = clips.decode_frames([jpeg, png, grey])
  np.testing.assert_array_equal(decoded[0], tf.io.decode_jpeg(jpeg).numpy())
  np.testing.assert_array_equal(decoded[1], frame)
  assert decoded[2].shape == frame.shape
  np.testing.assert_array_equal(decoded[2][..., 0], decoded[2][..., 2])


@pytest.mark.parametrize('data', [b'', b'garbage', b'\xff\xd8 garbage', b'\x89PNG\r\n\x1a\n'])
def test_undecodable_frames(data):
  good = simplejpeg.encode_jpeg(random_frame(16, 16))
  with pytest.raises(DataError, match='frame 1 of x: cannot be decoded'):
    clips.decode_frames([good, data], lambda i: f'frame {i} of x')


def test_truncated_jpeg():
  good = simplejpeg.encode_jpeg(random_frame(64, 64))
  with pytest.raises(DataError, match='0: cannot be decoded'):
    clips.decode_frames([good[: len(good) // 2]])


def test_frames_of_two_sizes():
  encoded = [simplejpeg.encode_jpeg(random_frame(16, size)) for size in (16, 24)]
  with pytest.raises(DataError, match="1: is 16x24 px, the clip's first frame 16x16"):
    clips.decode_frames(encoded)
