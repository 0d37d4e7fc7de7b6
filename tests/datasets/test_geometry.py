import cv2
import numpy as np
import pytest

from datasets import geometry
from datasets.geometry import Window
from errors import DataError


class FixedRng:
  """A generator whose uniforms are given."""

  def __init__(self, *uniforms):
    self.uniforms = list(uniforms)

  def random(self, size):
    values = np.array(self.uniforms.pop(0))
    assert values.size == np.prod(size)
    return values.reshape(size)


def rng(seed=0):
  return np.random.default_rng(seed)


def random_frame(height, width, seed=0):
  """A smooth random picture, uint8 [H, W, 3]."""
  coarse = rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
  return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def cut(frame, window, crop):
  out = np.full((crop, crop, 3), 77, np.uint8)
  geometry.cut(frame, window, out)
  return out


def square(top, left, size, crop, flip=False):
  return Window(top, left, size, size, crop, crop, flip)


def draw(uniforms, height, width, **settings):
  """uniforms: use jitter, jitter, top, left, flip, side."""
  return geometry.random_window(FixedRng(uniforms), height, width, **settings)


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
  crops = geometry.spatial_crops(height, width, 224, n)
  assert crops == tuple(square(top, left, 224, 224) for top, left in wanted)


def test_spatial_crops_refuse():
  with pytest.raises(DataError, match='expected 1 or 3, got 2'):
    geometry.spatial_crops(256, 256, 224, 2)
  with pytest.raises(DataError, match='200x300 frame is smaller than the crop 224'):
    geometry.spatial_crops(200, 300, 224, 1)


def test_resized_and_padded_shapes():
  assert geometry.resized_shape(240, 320, 256) == (256, 341)
  assert geometry.resized_shape(321, 240, 256) == (342, 256)
  assert geometry.resized_shape(100, 100, 64) == (64, 64)
  assert geometry.padded_shape(240, 320, 224) == (168, 224)
  assert geometry.padded_shape(321, 240, 224) == (224, 167)
  assert geometry.padded_shape(4000, 1, 224) == (224, 1)


def test_window_without_resize_is_a_plain_crop():
  window = draw([0, 0, 0.5, 0.999, 0.5, 0], 256, 340, resize=256, crop=224)
  assert window == square(16, 116, 224, 224)
  frame = random_frame(256, 340)
  np.testing.assert_array_equal(cut(frame, window, 224), frame[16:240, 116:340])


def test_window_of_resize_and_jitter():
  # 120 px -> 64 px, times 1.25: one output pixel is 1.5 source pixels, 48 px are 72.
  settings = {'resize': 64, 'crop': 48, 'scale_jitter': (0.75, 1.75), 'scale_jitter_prob': 0.8}
  assert draw([0.79, 0.5, 0.0, 0.5, 0, 0], 120, 160, **settings) == square(0, 44, 72, 48)
  assert draw([0.8, 0.5, 0.0, 0.5, 0, 0], 120, 160, **settings).height == 90


def test_jitter_never_leaves_the_frame():
  window = draw([0, 0, 0.9, 0.9, 0, 0], 120, 160, resize=64, crop=60, scale_jitter=(0.5, 1.0))
  assert window == square(0, 36, 120, 60)


def test_short_side_jitter_draws_every_size():
  # 100 px to 50, 51 .. 60 px; a crop of 40 px is 80, 78 .. 67 source pixels.
  sizes = {
    draw([0, 0, 0, 0, 1, u], 100, 160, resize=(50, 60), crop=40).height
    for u in np.linspace(0, 0.9999, 40)
  }
  assert sizes == {round(40 / (side / 100)) for side in range(50, 61)}


def test_flip_probability():
  windows = [
    geometry.random_window(rng(i), 64, 64, resize=64, crop=32, flip_prob=0.3) for i in range(500)
  ]
  assert 0.2 < np.mean([window.flip for window in windows]) < 0.4
  assert not draw([0, 0, 0, 0, 0.0, 0], 8, 8, resize=8, crop=4).flip


def test_windows_reach_all_positions():
  windows = [geometry.random_window(rng(i), 10, 12, resize=10, crop=9) for i in range(200)]
  assert {(w.top, w.left) for w in windows} == {(y, x) for y in range(2) for x in range(4)}


def test_pad_shows_the_whole_frame_and_zeros():
  # 60 x 120 to a longer side of 40: 20 rows of picture, 20 of zeros below.
  window = draw([0, 0, 0.5, 0.5, 0.5, 0], 60, 120, resize=40, crop=40, fit='pad')
  assert window == Window(0, 0, 60, 120, 20, 40)
  frame = random_frame(60, 120)
  found = cut(frame, window, 40)
  wanted = cv2.resize(frame, (40, 20), interpolation=cv2.INTER_AREA)
  np.testing.assert_array_equal(found[:20], wanted)
  assert (found[20:] == 0).all()


def test_pad_with_jitter_crops_or_shrinks():
  settings = {'resize': 40, 'crop': 40, 'fit': 'pad', 'scale_jitter': (0.5, 2.0)}
  # Twice as large: 40 x 80 px, of which a random 40 columns are 60 source pixels.
  large = draw([0, 1.0, 0.5, 0.5, 0.5, 0], 60, 120, **settings)
  assert large == Window(0, 30, 60, 60, 40, 40)
  small = draw([0, 0.0, 0.5, 0.5, 0.5, 0], 60, 120, **settings)
  assert small == Window(0, 0, 60, 120, 10, 20)
  found = cut(random_frame(60, 120), small, 40)
  assert (found[10:] == 0).all()
  assert (found[:, 20:] == 0).all()


def test_inception_window():
  # 100 x 200 px, a quarter of the area at aspect 2: 100 x 50 px... drawn on a log scale.
  settings = {'crop': 32, 'area': (0.25, 0.25), 'aspect': (0.5, 2.0)}
  draws = np.zeros((10, 2))
  draws[0, 1] = 1.0
  window = geometry.inception_window(FixedRng(draws, [0.5, 0.5, 1.0]), 100, 200, **settings)
  assert window == Window(25, 50, 50, 100, 32, 32)
  draws[0, 1] = 0.5  # aspect 1: 71 x 71 px
  window = geometry.inception_window(FixedRng(draws, [0.0, 0.0, 1.0]), 100, 200, **settings)
  assert (window.height, window.width) == (71, 71)


def test_inception_takes_the_first_draw_that_fits():
  # The whole area only fits at the frame's own aspect, 2.
  settings = {'crop': 8, 'area': (1.0, 1.0), 'aspect': (0.5, 2.0)}
  draws = np.zeros((10, 2))
  draws[3, 1] = 1.0
  window = geometry.inception_window(FixedRng(draws, [0.9, 0.9, 1.0]), 100, 200, **settings)
  assert window == Window(0, 0, 100, 200, 8, 8)
  # None fits: the largest centred window of the range.
  settings['aspect'] = (0.5, 1.0)
  window = geometry.inception_window(
    FixedRng(np.zeros((10, 2)), [0.9, 0.9, 1.0]), 100, 200, **settings
  )
  assert window == Window(0, 50, 100, 100, 8, 8)


def test_inception_areas_and_aspects_are_in_range():
  windows = [
    geometry.inception_window(rng(i), 240, 320, crop=32, area=(0.08, 1.0), aspect=(0.75, 4 / 3))
    for i in range(300)
  ]
  areas = np.array([w.height * w.width / (240 * 320) for w in windows])
  assert 0.075 < areas.min() < 0.15
  assert areas.max() > 0.8
  assert all(0.72 < w.width / w.height < 1.38 for w in windows)
  assert all(w.top + w.height <= 240 and w.left + w.width <= 320 for w in windows)


def test_window_agrees_with_resizing_the_whole_frame():
  # Factor 2 with a window at even pixels: both ways name the same pixels.
  frame = random_frame(128, 192)
  whole = cv2.resize(frame, (96, 64), interpolation=cv2.INTER_LINEAR)
  np.testing.assert_array_equal(cut(frame, square(20, 40, 96, 48), 48), whole[10:58, 20:68])
  flipped = cut(frame, square(20, 40, 96, 48, flip=True), 48)
  np.testing.assert_array_equal(flipped, whole[10:58, 20:68][:, ::-1])


@pytest.mark.parametrize('flip', [False, True])
@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('size', [64, 63, 17])
def test_crops_and_flips_are_exact(seed, flip, size):
  random = rng(seed)
  frame = random.integers(0, 256, (90, 120, 3), dtype=np.uint8)
  top, left = int(random.integers(0, 27)), int(random.integers(0, 57))
  found = cut(frame, square(top, left, size, size, flip), size)
  wanted = frame[top : top + size, left : left + size]
  np.testing.assert_array_equal(found, wanted[:, ::-1] if flip else wanted)


def bilinear(image, height, width):
  """Bilinear resize with half-pixel centres and weights of 11 bits, uint8.

  The arithmetic is OpenCV's: columns first, 4 bits dropped between the passes, borders repeated.
  """

  def taps(size, source):
    where = ((np.arange(size) + 0.5) * (source / size) - 0.5).astype(np.float32)
    low = np.floor(where).astype(int)
    return low, where - low

  def weights(fraction):
    return np.rint((1 - fraction) * 2048).astype(int), np.rint(fraction * 2048).astype(int)

  low, fraction = taps(width, image.shape[1])
  fraction[(low < 0) | (low >= image.shape[1] - 1)] = 0
  at = np.clip([low, low + 1], 0, image.shape[1] - 1)
  first, second = (w[:, None] for w in weights(fraction))
  rows = image[:, at[0]] * first + image[:, at[1]] * second
  low, fraction = taps(height, image.shape[0])
  at = np.clip([low, low + 1], 0, image.shape[0] - 1)
  first, second = (w[:, None, None] for w in weights(fraction))
  upper, lower = first * (rows[at[0]] >> 4) >> 16, second * (rows[at[1]] >> 4) >> 16
  return ((upper + lower + 2) >> 2).astype(np.uint8)


def box_mean(image, height, width):
  """Mean over the source pixels of each output pixel; sizes must divide."""
  rows, columns = image.shape[0] // height, image.shape[1] // width
  return image.reshape(height, rows, width, columns, 3).mean(axis=(1, 3))


@pytest.mark.parametrize('seed', range(20))
def test_resized_windows_are_exact(seed):
  random = rng(seed)
  frame = random.integers(0, 256, (100, 120, 3), dtype=np.uint8)
  height, width = (int(x) for x in random.integers(31, 79, 2))
  top, left = int(random.integers(0, 100 - height)), int(random.integers(0, 120 - width))
  flip = bool(seed % 2)
  found = cut(frame, Window(top, left, height, width, 40, 40, flip), 40)
  wanted = bilinear(frame[top : top + height, left : left + width], 40, 40)
  np.testing.assert_array_equal(found, wanted[:, ::-1] if flip else wanted)


def test_strong_shrinking_averages():
  frame = rng().integers(0, 256, (120, 160, 3), dtype=np.uint8)
  found = cut(frame, Window(0, 0, 120, 120, 40, 40), 40)
  assert np.abs(found - box_mean(frame[:, :120], 40, 40)).max() <= 0.5 + 1e-9
  assert np.abs(geometry.resize(frame, 30, 40) - box_mean(frame, 30, 40)).max() <= 0.5 + 1e-9


@pytest.mark.parametrize('shape', [(60, 81), (81, 60), (45, 60), (39, 77)])
def test_resize_of_whole_frames_is_exact(shape):
  frame = rng().integers(0, 256, (*shape, 3), dtype=np.uint8)
  assert geometry.resize(frame, *shape) is frame
  height, width = geometry.resized_shape(*shape, 38)
  np.testing.assert_array_equal(
    geometry.resize(frame, height, width), bilinear(frame, height, width)
  )


# --- Boxes ---


def mask_of(box, height, width):
  """A frame, black but for the box; the box's borders lie on pixels."""
  frame = np.zeros((height, width, 3), np.uint8)
  top, left, bottom, right = np.round(box * [height, width, height, width]).astype(int)
  frame[top:bottom, left:right] = 255
  return frame


def box_of(picture):
  """Normalised box of what is lit in a picture."""
  lit = picture[..., 0] > 127
  rows, columns = np.flatnonzero(lit.any(1)), np.flatnonzero(lit.any(0))
  crop = len(picture)
  return np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]) / crop


@pytest.mark.parametrize(
  'window',
  [
    square(0, 0, 60, 60),
    square(10, 30, 40, 40),
    square(10, 30, 40, 40, flip=True),
    square(5, 25, 50, 100),
    square(5, 25, 50, 100, flip=True),
    Window(0, 0, 60, 120, 20, 40),
    Window(0, 0, 60, 120, 20, 40, flip=True),
    Window(10, 20, 30, 60, 40, 40),
  ],
)
@pytest.mark.parametrize('box', [(20, 40, 40, 60), (0, 0, 30, 70), (12, 36, 60, 120)])
def test_boxes_follow_the_pixels(window, box):
  crop = max(window.out_height, window.out_width)
  box = np.array(box) / [60, 120, 60, 120]
  picture = cut(mask_of(box, 60, 120), window, crop)
  moved, visible = geometry.transform_boxes(box[None], 60, 120, window, crop)
  assert moved.dtype == np.float32
  assert visible.tolist() == [bool(picture.any())]
  if visible[0]:
    assert np.abs(moved[0] - box_of(picture)).max() <= 1 / crop


def test_boxes_outside_and_empty():
  boxes = np.array([[0.0, 0.0, 0.1, 0.1], [0.5, 0.5, 0.5, 0.9], [0.4, 0.4, 0.6, 0.6]])
  moved, visible = geometry.transform_boxes(boxes, 100, 100, square(30, 30, 40, 40), 40)
  assert visible.tolist() == [False, False, True]
  assert moved[:2].tolist() == [[0, 0, 0, 0]] * 2
  np.testing.assert_allclose(moved[2], [0.25, 0.25, 0.75, 0.75], rtol=1e-6)
  empty, none = geometry.transform_boxes(np.zeros((0, 4)), 10, 10, square(0, 0, 10, 10), 10)
  assert empty.shape == (0, 4)
  assert none.shape == (0,)
