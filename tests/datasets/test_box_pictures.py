"""Boxes drawn into samples: on the keyframe, in their colours, with what there is to say."""

import numpy as np
import pytest

from datasets import box_pictures, samples
from datasets.box_config import BoxConfig
from datasets.box_pictures import Mark
from datasets.clip_config import ClipConfig
from tests.datasets.detections import FIRST, SECOND, THIRD, dataset, example, proposal

CLIP = ClipConfig(frames=4, stride=1, resize=32, crop=32, sampling='keyframe', fit='pad')


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  seen = [proposal(THIRD, 0.5), proposal(SECOND, 0.9)]
  return dataset(tmp_path_factory.mktemp('boxes'), [example(proposals=seen)])


def colors(frame, box):
  """The colours of the four sides of a box in a frame."""
  height, width = frame.shape[:2]
  y0, x0, y1, x1 = (round(at * side) for at, side in zip(box, (height, width) * 2))
  y1, x1 = min(y1, height - 1), min(x1, width - 1)
  y, x = (y0 + y1) // 2, (x0 + x1) // 2
  return {tuple(frame[at].tolist()) for at in ((y, x0), (y, x1), (y0, x), (y1, x))}


def test_a_plain_sample_has_its_boxes_on_the_keyframe(made):
  (sample,) = samples.plain_samples(made, 1, 0)
  assert sample.indices.tolist() == [0, 1, 2, 4, 5, 6, 7, 8]
  assert sample.labels == (
    '1: stand, walk',
    '2: wave right',
    '3: detected, 0.90',
    '4: detected, 0.50',
  )
  shown = sample.strip()
  assert shown.boxes.frame == shown.indices.tolist().index(4)
  assert [mark[0] == '[' for mark in shown.marks] == [i == 4 for i in shown.indices]
  assert shown.pixels.shape[1:] == (240, 320, 3)
  keyframe = shown.pixels[shown.boxes.frame]
  assert colors(keyframe, FIRST) == colors(keyframe, SECOND) == {box_pictures.ANNOTATED}
  assert colors(keyframe, THIRD) == {box_pictures.DETECTED}
  other = shown.pixels[0]
  assert other.std() < 1


def test_views_of_an_evaluation(made):
  boxes = BoxConfig(max_boxes=4)
  (sample,) = samples.evaluation_samples(made, CLIP, 4, boxes=boxes)
  assert sample.labels == ('1: stand, walk', '2: wave right', '3: detected, 0.90')
  assert sample.boxes.frame == 2
  shown = sample.strip()
  assert shown.indices.tolist() == [2, 3, 4, 5]
  scale = np.array([0.75, 1, 0.75, 1])
  assert colors(shown.pixels[2], FIRST * scale) == {box_pictures.ANNOTATED}
  assert shown.lines[:2] == ['2: wave right', '3: detected, 0.90']


def test_boxes_of_a_training_example(made):
  part = {
    'boxes': np.array([FIRST, FIRST, (0, 0, 0, 0)], np.float32),
    'box_mask': np.array([1, 1, 0], np.float32),
    'label': {'actions': np.array([[1, 0, 0, 1], [0] * 4, [0] * 4], np.float32)},
  }
  assert box_pictures.marks_of_example(made, part) == (
    Mark(FIRST, True, 'stand, wave right'), Mark(FIRST, True, 'no label'),
  )  # fmt: skip
  assert [mark.annotated for mark in box_pictures.marks_of_example(made, part, detected=True)] == [
    False, False,
  ]  # fmt: skip


def test_of_many_boxes_the_first_are_told(made):
  marks = [Mark(FIRST, True, str(i)) for i in range(6)]
  assert box_pictures.lines(marks) == ['1: 0', '2: 1', '3: 2', '4: 3', 'and 2 more boxes']
  assert box_pictures.lines(marks[:4])[-1] == '4: 3'
  nothing = samples.KeyframeMarks(0, ())
  sample = samples.make_sample(
    made, 0, np.zeros((1, 8, 8, 3), np.uint8), np.arange(1), (), boxes=nothing
  )
  assert sample.labels == ('(no box)',)


@pytest.mark.parametrize(
  ('frames', 'keyframe', 'places'),
  [
    (4, 2, [0, 1, 2, 3]),
    (32, 16, [0, 4, 9, 13, 16, 22, 27, 31]),
    (32, 0, [0, 4, 9, 13, 18, 22, 27, 31]),
    (32, 31, [0, 4, 9, 13, 18, 22, 27, 31]),
  ],
)
def test_the_keyframe_is_among_the_frames_of_a_strip(frames, keyframe, places):
  assert box_pictures.strip_places(frames, keyframe).tolist() == places
