"""Overlap, the boxes that are trained on and evaluated, and their jitter."""

import itertools

import numpy as np
import pytest

from datasets import regions
from datasets.box_config import BoxConfig
from datasets.keyframes import BoxTable
from errors import ConfigError

ANNOTATED = [[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]]


def keyframe(*detected):
  """Arrays of the two annotated boxes and (box, score) detections."""
  boxes = np.array([*ANNOTATED, *(box for box, _ in detected)], np.float32)
  scores = np.array([1, 1, *(score for _, score in detected)], np.float32)
  return boxes, scores, np.arange(len(boxes)) < 2


def test_iou():
  others = [[0, 0, 0.5, 0.5], [0.25, 0, 0.75, 0.5], [0.5, 0, 1, 0.5], [0.25, 0.25, 0.75, 0.75]]
  found = regions.iou(np.array(ANNOTATED), np.array(others))
  np.testing.assert_allclose(found, [[1, 1 / 3, 0, 1 / 7], [0, 0, 0, 1 / 7]], rtol=1e-12)
  assert regions.iou(np.zeros((0, 4)), np.array(others)).shape == (0, 4)


def test_annotated_boxes_have_their_own_labels():
  chosen, source = regions.trained(
    *keyframe(([0, 0, 0.5, 0.5], 1.0)), BoxConfig(max_boxes=2, train='annotated')
  )
  assert chosen.tolist() == source.tolist() == [0, 1]


def test_detected_boxes_have_the_labels_of_the_box_they_overlap_most():
  found = keyframe(
    ([0.5, 0.5, 1, 0.75], 1.0),  # half of the second: IoU 0.5
    ([0, 0, 0.5, 0.5], 0.9),  # the first
    ([0.25, 0.25, 0.75, 0.75], 0.9),  # 1/7 of both: of none
    ([0, 0, 0.5, 0.5], 0.5),  # the first, but a low score
  )
  chosen, source = regions.trained(*found, BoxConfig(max_boxes=9, train_min_score=0.9))
  assert (chosen.tolist(), source.tolist()) == ([2, 3], [1, 0])
  chosen, source = regions.trained(*found, BoxConfig(max_boxes=9, min_iou=0.51))
  assert (chosen.tolist(), source.tolist()) == ([3], [0])
  config = BoxConfig(max_boxes=9, train_min_score=0.5, min_iou=0.14)
  chosen, source = regions.trained(*found, config)
  assert (chosen.tolist(), source.tolist()) == ([2, 3, 4, 5], [1, 0, 0, 0])


def test_without_annotated_or_detected_boxes_there_is_nothing_to_train_on():
  boxes, scores, annotated = keyframe(([0, 0, 0.5, 0.5], 1.0))
  for kept in (annotated, ~annotated):
    chosen, source = regions.trained(
      boxes[kept], scores[kept], annotated[kept], BoxConfig(max_boxes=9)
    )
    assert (chosen.tolist(), source.tolist()) == ([], [])


def test_evaluated_are_annotated_boxes_and_detections_from_a_score_on():
  _, scores, annotated = keyframe(*(([0, 0, 1, 1], score) for score in (0.9, 0.8, 0.79)))
  assert regions.evaluated(scores, annotated, BoxConfig(max_boxes=9)).tolist() == [0, 1, 2, 3]
  config = BoxConfig(max_boxes=9, eval_min_score=0.9)  # 0.9 as float32 is less than 0.9.
  assert regions.evaluated(scores, annotated, config).tolist() == [0, 1, 2]


def test_jitter_moves_each_side_within_its_bounds():
  boxes = np.tile(np.array([[0.25, 0.25, 0.75, 0.5]], np.float32), (2000, 1))
  moved = regions.jittered(np.random.default_rng(0), boxes, 0.15) - boxes
  assert moved.dtype == np.float32
  bounds = np.array([0.075, 0.0375, 0.075, 0.0375])
  np.testing.assert_allclose(moved.max(0), bounds, rtol=0.01)
  np.testing.assert_allclose(moved.min(0), -bounds, rtol=0.01)
  assert np.abs(moved).max(0).tolist() <= (bounds + 1e-6).tolist()
  assert abs(np.corrcoef(moved[:, 0], moved[:, 2])[0, 1]) < 0.1
  np.testing.assert_array_equal(regions.jittered(np.random.default_rng(0), boxes, 0.0), boxes)


def test_jittered_boxes_stay_in_the_frame_and_are_never_empty():
  rng = np.random.default_rng(1)
  low = rng.uniform(0, 0.999, (2000, 2))
  high = low + (1 - low) * rng.uniform(0.001, 1, (2000, 2))
  boxes = np.concatenate([low, high], 1).astype(np.float32)
  moved = regions.jittered(rng, boxes, 0.49)
  assert moved.min() == 0
  assert moved.max() == 1
  assert (moved[:, 2:] > moved[:, :2]).all()


def test_counts_are_those_of_the_keyframes_one_by_one():
  rng = np.random.default_rng(2)
  sizes = [(int(a), int(d)) for a, d in rng.integers(0, 4, (40, 2))]
  annotated = np.concatenate([np.arange(a + d) < a for a, d in sizes])
  low = rng.uniform(0, 0.5, (len(annotated), 2))
  table = BoxTable(
    start=np.cumsum([0, *map(sum, sizes)]),
    boxes=np.concatenate([low, low + rng.uniform(0.2, 0.5, low.shape)], 1).astype(np.float32),
    scores=np.where(annotated, 1, rng.random(len(annotated))).astype(np.float32),
    annotated=annotated,
    labels=np.zeros(0, np.int32),
  )
  for config in (
    BoxConfig(max_boxes=9, train_min_score=0.3, min_iou=0.3),
    BoxConfig(max_boxes=9, train='annotated'),
  ):
    found = regions.count_training(table, config)
    chosen = [
      len(regions.trained(*(values[a:b] for values in table[1:4]), config)[0])
      for a, b in itertools.pairwise(table.start)
    ]
    assert (found.keyframes, found.used, found.without) == (40, sum(chosen), chosen.count(0))
    assert 0 < found.without < 40
    if config.train == 'detected':
      assert found.detected == found.used + found.below_score + found.unmatched
      assert found.below_score == (table.scores < np.float32(0.3)).sum()
      assert found.unmatched > 0


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'max_boxes': 0}, r'boxes\.max_boxes: expected a number in \[1, 1000\], got 0'),
    ({'max_boxes': 2.5}, 'expected an integer, got 2.5'),
    ({'train': 'proposals'}, r"boxes\.train: expected one of .*, got 'proposals'"),
    ({'train_min_score': 1.5}, r'boxes\.train_min_score: expected a number in \[0, 1\]'),
    ({'eval_min_score': -1}, r'boxes\.eval_min_score'),
    ({'min_iou': 0.0}, r'boxes\.min_iou: expected more than 0'),
    ({'jitter': 0.5}, r'boxes\.jitter: expected in \[0, 0\.5\), got 0\.5'),
  ],
)
def test_settings_out_of_range(change, message):
  with pytest.raises(ConfigError, match=message):
    BoxConfig(**{'max_boxes': 2, **change})
