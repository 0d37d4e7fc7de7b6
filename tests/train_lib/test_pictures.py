"""The pictures open, show what they should, and are written whole or not at all."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from errors import DataError
from train_lib import pictures


def load(path) -> np.ndarray:
  return np.asarray(Image.open(path).convert('RGB'))


def clip_of(color, correct: bool, frames: int = 10, size=(20, 30)) -> pictures.Clip:
  pixels = np.empty((frames, *size, 3), np.uint8)
  pixels[:] = color
  predictions = [('opening', 0.75), ('closing', 0.2)]
  return pictures.Clip(pixels, 'opening', predictions, correct, 'video-7')


def has_color(image: np.ndarray, color, at_least: int = 20) -> bool:
  close = np.all(np.abs(image.astype(int) - np.array(color)) <= 3, axis=-1)
  return int(close.sum()) >= at_least


@pytest.mark.parametrize('classes', [1, 8, 36, 60])
def test_confusion_matrix_opens(tmp_path, classes):
  confusion = np.random.default_rng(0).integers(0, 5, (classes, classes)) + 9 * np.eye(
    classes, dtype=int
  )
  path = tmp_path / 'confusion.png'
  pictures.confusion_matrix_png(path, confusion, [f'class {i}' for i in range(classes)])
  height, width, _ = load(path).shape
  assert 250 < height < 2000 and 250 < width < 2500
  assert [p.name for p in tmp_path.iterdir()] == ['confusion.png']


def test_rows_are_normalised(tmp_path):
  names = ['a', 'b']
  small, large = np.array([[1, 1], [0, 4]]), np.array([[50, 50], [0, 2]])
  pictures.confusion_matrix_png(tmp_path / 'a.png', small, names)
  pictures.confusion_matrix_png(tmp_path / 'b.png', large, names)
  a, b = load(tmp_path / 'a.png'), load(tmp_path / 'b.png')
  title = 60  # pixels at the top, where the number of examples stands
  assert a.shape == b.shape
  np.testing.assert_array_equal(a[title:], b[title:])


def test_a_class_without_examples_is_drawn(tmp_path):
  pictures.confusion_matrix_png(tmp_path / 'c.png', np.zeros((3, 3), int), ['a', 'b', 'c'])
  assert load(tmp_path / 'c.png').shape[0] > 250


def test_top_confusions_are_the_largest_off_the_diagonal():
  confusion = np.array([[90, 2, 0], [7, 80, 1], [0, 2, 70]])
  assert pictures.top_confusions(confusion, 3) == [(1, 0), (0, 1), (2, 1)]
  assert pictures.top_confusions(confusion, 10) == [(1, 0), (0, 1), (2, 1), (1, 2)]
  assert pictures.top_confusions(np.eye(3, dtype=int), 10) == []


@pytest.mark.parametrize('confusion', [np.zeros((2, 3), int), np.array([[1, -1], [0, 1]])])
def test_bad_confusion_is_refused(tmp_path, confusion):
  with pytest.raises(DataError, match=r'expected counts of shape \[2, 2\]'):
    pictures.confusion_matrix_png(tmp_path / 'c.png', confusion, ['a', 'b'])
  assert not list(tmp_path.iterdir())


def test_contact_sheet_shows_frames_and_borders(tmp_path):
  blue, orange = (10, 20, 240), (240, 160, 20)
  red, green = (0xD7, 0x30, 0x27), (0x1A, 0x98, 0x50)
  path = tmp_path / 'sheet.png'
  pictures.contact_sheet_png(path, [clip_of(blue, True), clip_of(orange, False)])
  image = load(path)
  assert all(has_color(image, c) for c in (blue, orange, red, green))
  rows = [np.argwhere(np.all(image == np.array(c), axis=-1))[:, 0].mean() for c in (orange, blue)]
  assert rows[0] < rows[1]  # wrong ones first
  pictures.contact_sheet_png(path, [clip_of(blue, True)])
  alone = load(path)
  assert not has_color(alone, red) and has_color(alone, green)
  assert alone.shape[0] < image.shape[0]


def test_contact_sheet_grows_with_the_clips(tmp_path):
  heights = []
  for count in (0, 1, 5):
    pictures.contact_sheet_png(tmp_path / 's.png', [clip_of((9, 9, 9), False)] * count)
    heights.append(load(tmp_path / 's.png').shape[0])
  assert heights[0] < heights[1] < heights[2] < 1200


def test_sample_sheet_shows_frames_and_grows_with_the_samples(tmp_path):
  path, heights = tmp_path / 'samples.png', []
  for colors in ([(10, 20, 240)], [(10, 20, 240), (240, 160, 20)]):
    samples = [
      pictures.Sample(clip_of(c, True).frames, [f'{i}' for i in range(10)], 'opening', ['video-7'])
      for c in colors
    ]
    pictures.sample_sheet_png(path, 'data/demo', 'as they are', samples)
    image = load(path)
    assert all(has_color(image, c, at_least=5000) for c in colors)
    heights.append(image.shape[0])
  assert heights[1] > heights[0] + 100
  bad = samples[0]._replace(frames=samples[0].frames.astype(np.float32))
  with pytest.raises(DataError, match='clip 0: expected frames'):
    pictures.sample_sheet_png(path, 'data/demo', '', [bad])


def test_strip_spans_the_clip():
  np.testing.assert_array_equal(pictures.strip_indices(3), [0, 1, 2])
  np.testing.assert_array_equal(pictures.strip_indices(8), range(8))
  np.testing.assert_array_equal(pictures.strip_indices(32), [0, 4, 9, 13, 18, 22, 27, 31])


def test_bad_frames_are_refused(tmp_path):
  good, bad = clip_of((1, 2, 3), True), clip_of((1, 2, 3), True)
  bad = bad._replace(frames=bad.frames.astype(np.float32))
  with pytest.raises(DataError, match=r'clip 1: expected frames \[T, H, W, 3\] uint8.*float32'):
    pictures.contact_sheet_png(tmp_path / 's.png', [good, bad])


def test_a_failed_write_leaves_the_old_picture(tmp_path, monkeypatch):
  path = tmp_path / 'confusion.png'
  pictures.confusion_matrix_png(path, np.eye(2, dtype=int), ['a', 'b'])
  before = path.read_bytes()

  def fail(*args, **kwargs):
    raise OSError('disk full')

  monkeypatch.setattr('PIL.Image.Image.save', fail)
  with pytest.raises(OSError, match='disk full'):
    pictures.confusion_matrix_png(path, np.ones((2, 2), int), ['a', 'b'])
  assert path.read_bytes() == before
  assert [p.name for p in tmp_path.iterdir()] == ['confusion.png']


def test_pyplot_is_not_used():
  code = 'import sys, train_lib.pictures; sys.exit("matplotlib.pyplot" in sys.modules)'
  assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
