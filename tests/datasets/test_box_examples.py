"""Examples with boxes: what a batch holds, for training and evaluation, and what is refused."""

import dataclasses

import numpy as np
import pytest

from datasets import clips, geometry, regions
from datasets.batches import Loading, eval_batches, train_batches
from datasets.box_config import BoxConfig
from datasets.clip_config import ClipConfig
from datasets.examples import train_examples
from datasets.record_dataset import RecordDataset
from errors import ConfigError
from tests.datasets.detections import (
  FIRST,
  GROUPS,
  SECOND,
  THIRD,
  dataset,
  example,
  proposal,
  region,
  write,
)

CLIP = ClipConfig(frames=3, stride=2, resize=32, crop=32, sampling='keyframe', fit='pad')
BOXES = BoxConfig(max_boxes=4, train='annotated')
SWAP = (('wave left', 'wave right'),)
HERE = Loading(num_threads=0)
# Frames are 24 x 32 px: padded to 32 x 32, their heights are 3/4 of the input's.
SCALE = np.array([0.75, 1, 0.75, 1], np.float32)
SEEN = [proposal(SECOND, 0.5), proposal(THIRD, 0.9), proposal(FIRST, 0.85)]


@pytest.fixture(scope='module')
def one(tmp_path_factory):
  """A keyframe of two annotated boxes, labelled {0, 1} and {3}, and three detected ones."""
  return dataset(tmp_path_factory.mktemp('one'), [example(proposals=SEEN)])


@pytest.fixture(scope='module')
def three(tmp_path_factory):
  """Keyframes 'a' with two boxes, 'b' without any and 'c' with one that is detected alone."""
  examples = [
    example('a', proposals=SEEN[:1]),
    example('b', []),
    example('c', [], [proposal(FIRST, 0.9)]),
  ]
  return dataset(tmp_path_factory.mktemp('three'), examples)


def trained(made, clip=CLIP, boxes=BOXES, step=0, **kwargs):
  given = {'batch_size': 1, 'seed': 0, 'loading': HERE, **kwargs}
  return train_batches(made, clip, boxes=boxes, **given).batch_at(step)


def levels(inputs):
  """Numbers of the frames of clips [..., T, H, W, 3]."""
  return np.round(inputs[..., 2, 2, 0] / 20).astype(int).tolist()


def test_a_training_example(one):
  batch = trained(one)
  assert sorted(batch) == ['batch_mask', 'box_mask', 'boxes', 'inputs', 'label', 'row']
  assert levels(batch['inputs']) == [[2, 4, 6]]
  assert batch['boxes'].shape == (1, 4, 4)
  np.testing.assert_array_equal(batch['boxes'][0, :2], np.array([FIRST, SECOND]) * SCALE)
  assert not batch['boxes'][0, 2:].any()
  assert batch['box_mask'].tolist() == [[1, 1, 0, 0]]
  assert batch['label']['actions'].tolist() == [[[1, 1, 0, 0], [0, 0, 0, 1], [0] * 4, [0] * 4]]
  dtypes = [batch[name].dtype for name in ('boxes', 'box_mask')] + [batch['label']['actions'].dtype]
  assert dtypes == [np.float32] * 3


def test_detected_boxes_are_trained_on_with_labels_by_overlap(one):
  boxes = dataclasses.replace(BOXES, train='detected')
  batch = trained(one, boxes=boxes)  # THIRD, score 0.9, overlaps nobody; SECOND has a low score.
  np.testing.assert_array_equal(batch['boxes'][0, 0], FIRST * SCALE)
  assert batch['box_mask'].tolist() == [[1, 0, 0, 0]]
  assert batch['label']['actions'][0].tolist() == [[1, 1, 0, 0], [0] * 4, [0] * 4, [0] * 4]


def test_a_flip_moves_boxes_and_exchanges_labels(one):
  batch = trained(one, dataclasses.replace(CLIP, flip_prob=1.0, flip_swap=SWAP))
  (y0, x0, y1, x1), (v0, u0, v1, u1) = FIRST, SECOND
  mirrored = np.array([(y0, 1 - x1, y1, 1 - x0), (v0, 1 - u1, v1, 1 - u0)]) * SCALE
  np.testing.assert_array_equal(batch['boxes'][0, :2], mirrored)
  assert batch['label']['actions'][0, :2].tolist() == [[1, 1, 0, 0], [0, 0, 1, 0]]


def test_boxes_follow_scale_jitter_and_crops(one):
  for change in (
    {'scale_jitter': (0.65, 1.1)},
    {'fit': 'crop', 'resize': 40, 'crop': 24, 'flip_prob': 0.5, 'flip_swap': SWAP},
  ):
    clip = dataclasses.replace(CLIP, **change)
    stream = train_examples(one, clip, batch_size=1, seed=3, boxes=BOXES)
    sizes = set()
    for step in range(8):
      drawn = stream.draw(step)
      (made,), (part,) = drawn.clips, drawn.parts
      assert made.shape == (24, 32)
      wanted, visible = geometry.transform_boxes(
        np.array([FIRST, SECOND]), 24, 32, made.window, clip.crop
      )
      count = int(visible.sum())
      assert part['box_mask'].tolist() == [1] * count + [0] * (4 - count)
      np.testing.assert_array_equal(part['boxes'][:count], wanted[visible])
      assert not part['boxes'][count:].any()
      labels = [[1, 1, 0, 0], [0, 0, 1, 0] if made.window.flip else [0, 0, 0, 1]]
      assert part['label']['actions'][:count].tolist() == np.array(labels)[visible].tolist()
      sizes.add(part['boxes'].tobytes())
    assert len(sizes) > 4


def test_jitter_has_a_stream_of_its_own(one):
  clip = dataclasses.replace(CLIP, scale_jitter=(0.65, 1.1), repeats=2)
  plain = trained(one, clip, batch_size=2)
  boxes = dataclasses.replace(BOXES, jitter=0.15)
  moved = trained(one, clip, boxes, batch_size=2)
  for name in ('inputs', 'row', 'box_mask'):
    np.testing.assert_array_equal(plain[name], moved[name])
  shift = (moved['boxes'] - plain['boxes'])[:, :2]
  size = (plain['boxes'][:, :2, 2:] - plain['boxes'][:, :2, :2])[..., [0, 1, 0, 1]]
  assert (shift[..., [0, 1, 3]] != 0).all()  # One box ends at the frame's lower end.
  assert (np.abs(shift) <= 0.15 * size + 1e-6).all()
  assert not np.allclose(shift[0], shift[1])  # Each repeat has its own.
  again = trained(one, clip, boxes, batch_size=2)
  np.testing.assert_array_equal(again['boxes'], moved['boxes'])
  later = trained(one, clip, boxes, batch_size=2, step=1)
  assert not np.array_equal(later['boxes'], moved['boxes'])


def test_of_more_boxes_than_fit_training_takes_a_random_part(one):
  boxes = dataclasses.replace(BOXES, max_boxes=1)
  seen = set()
  for step in range(20):
    batch = trained(one, boxes=boxes, step=step)
    assert batch['box_mask'].tolist() == [[1]]
    label = tuple(batch['label']['actions'][0, 0].tolist())
    wanted = {(1, 1, 0, 0): FIRST, (0, 0, 0, 1): SECOND}[label]
    np.testing.assert_array_equal(batch['boxes'][0, 0], wanted * SCALE)
    seen.add(label)
  assert len(seen) == 2


def test_keyframes_without_boxes_have_empty_masks_and_are_counted(three):
  batches = [trained(three, step=step) for step in range(3)]
  masks = {three.key(int(b['row'][0])): b['box_mask'][0].tolist() for b in batches}
  assert masks == {'a': [1, 1, 0, 0], 'b': [0] * 4, 'c': [0] * 4}
  counts = regions.count_training(three.box_table(), BOXES)
  assert counts == (3, 2, 2, 2, 2, 0, 0)
  assert str(counts) == '2 boxes to train on in 3 keyframes; 2 keyframes without any'
  counts = regions.count_training(three.box_table(), dataclasses.replace(BOXES, train='detected'))
  assert counts == (3, 3, 2, 2, 0, 1, 1)
  assert str(counts) == (
    '0 boxes to train on in 3 keyframes, of 2 detected (1 score too low, 1 match none of 2 '
    'annotated boxes); 3 keyframes without any'
  )
  config = dataclasses.replace(BOXES, train='detected', train_min_score=0.5)
  assert regions.count_training(three.box_table(), config) == (3, 2, 2, 2, 1, 0, 1)


def test_evaluation_holds_annotated_and_detected_boxes(one):
  batch = eval_batches(one, CLIP, batch_size=1, boxes=BOXES, loading=HERE).batch_at(0)
  assert levels(batch['inputs']) == [[[2, 4, 6]]]
  assert batch['box_index'].tolist() == [[0, 1, 2, 3]]
  assert batch['box_index'].dtype == np.int32
  found = one.regions(0, 'actions')
  np.testing.assert_array_equal(batch['boxes'][0], found.boxes[:4] * SCALE)
  assert batch['box_mask'].tolist() == [[1, 1, 1, 1]]
  np.testing.assert_array_equal(batch['label']['actions'][0], found.labels[:4])
  assert found.scores[2:].tolist() == [np.float32(0.9), np.float32(0.85), 0.5]
  config = dataclasses.replace(BOXES, eval_min_score=0.86)
  batch = eval_batches(one, CLIP, batch_size=1, boxes=config, loading=HERE).batch_at(0)
  assert batch['box_index'].tolist() == [[0, 1, 2, -1]]
  assert batch['box_mask'].tolist() == [[1, 1, 1, 0]]


def test_padding_and_unreadable_rows_have_no_boxes(three, monkeypatch):
  whole = eval_batches(three, CLIP, batch_size=4, boxes=BOXES, loading=HERE).batch_at(0)
  assert whole['box_index'].tolist() == [[0, 1, -1, -1], [-1] * 4, [0, -1, -1, -1], [-1] * 4]
  monkeypatch.setattr(three, '_paths', [path.with_name('gone') for path in three._paths])
  made = eval_batches(three, CLIP, batch_size=4, boxes=BOXES, loading=HERE, max_bad_records=3)
  batch = made.batch_at(0)
  assert batch['row'].tolist() == [-2, -3, -4, -1]
  assert not batch['boxes'].any()
  assert not batch['box_mask'].any()
  assert not batch['label']['actions'].any()
  assert batch['label']['actions'].shape == (4, 4, 4)
  assert (batch['box_index'] == -1).all()


def test_a_crop_leaves_out_the_boxes_it_does_not_show(tmp_path):
  left, both = (0, 0, 1, 0.125), (0.25, 0.25, 0.5, 1)
  made = dataset(tmp_path, [example(regions=[region(left, 0), region(both, 1)])])
  clip = dataclasses.replace(
    CLIP, fit='crop', resize=24, crop=16
  )  # px 8 to 24 of 32, 4 to 20 of 24
  batch = eval_batches(made, clip, batch_size=1, boxes=BOXES, loading=HERE).batch_at(0)
  assert batch['box_index'].tolist() == [[1, -1, -1, -1]]
  np.testing.assert_allclose(batch['boxes'][0, 0], [2 / 16, 0, 8 / 16, 1])
  assert clips.single_view(made, clip, 0).shape == (24, 32)


def test_large_frames_are_resized_before_the_window_of_evaluation(tmp_path):
  made = dataset(tmp_path, [example(shape=(96, 128))])
  batch = eval_batches(made, CLIP, batch_size=1, boxes=BOXES, loading=HERE).batch_at(0)
  np.testing.assert_array_equal(batch['boxes'][0, :2], np.array([FIRST, SECOND]) * SCALE)
  batch = trained(made)
  np.testing.assert_array_equal(batch['boxes'][0, :2], np.array([FIRST, SECOND]) * SCALE)


def test_clips_of_labels_and_boxes_have_both(tmp_path):
  groups = {'scene': (['in', 'out'], False), **GROUPS}
  write(tmp_path, [example(regions=[region(FIRST, 2)], labels=[1])], groups)
  made = RecordDataset(tmp_path, 'train', {'scenes': 'scene', 'actions': 'action'})
  for batch in (trained(made), eval_batches(made, CLIP, batch_size=1, boxes=BOXES).batch_at(0)):
    assert batch['label']['scenes'].tolist() == [1]
    assert batch['label']['actions'][0, 0].tolist() == [1, 0, 0, 0]


def test_too_many_boxes_to_evaluate_are_an_error_at_the_start(three, one):
  eval_batches(one, CLIP, batch_size=1, boxes=BOXES, loading=HERE)
  with pytest.raises(ConfigError) as caught:
    eval_batches(one, CLIP, batch_size=1, boxes=dataclasses.replace(BOXES, max_boxes=3))
  assert str(caught.value) == (
    "boxes.max_boxes: 3 do not hold the 4 boxes to evaluate of 'v,0902' (row 0 of 'train' in "
    f'{one.where}), the most of all keyframes. Set it to 4, or raise boxes.eval_min_score (0.8).'
  )


def test_datasets_clips_and_settings_that_do_not_fit(one, tiny_source):
  tiny = RecordDataset(tiny_source, 'train', {'verbs': 'verb'})
  dense = dataclasses.replace(CLIP, sampling='dense')
  for arguments, message in (
    ((one, CLIP, None), r"boxes: expected a BoxConfig, because the labels of \['actions'\]"),
    ((tiny, CLIP, BOXES), r"tasks: expected a task whose labels belong to boxes.*\['verbs'\]"),
    ((one, dense, BOXES), r"clip\.sampling: expected 'keyframe'.*got 'dense'"),
  ):
    made, clip, boxes = arguments
    with pytest.raises(ConfigError, match=message):
      train_batches(made, clip, batch_size=1, seed=0, boxes=boxes)
    with pytest.raises(ConfigError, match=message):
      eval_batches(made, clip, batch_size=1, boxes=boxes)
  with pytest.raises(ConfigError, match="temporal_views: expected 1 with sampling='keyframe'"):
    eval_batches(one, CLIP, batch_size=1, boxes=BOXES, temporal_views=2)
  crop = dataclasses.replace(CLIP, fit='crop', crop=16)
  with pytest.raises(ConfigError, match='spatial_views: expected 1 where labels belong to boxes'):
    eval_batches(one, crop, batch_size=1, boxes=BOXES, spatial_views=3)


# --- Which frames ---


@pytest.mark.parametrize(
  ('keyframe', 'stride', 'indices'),
  [
    (902.0, 1, [2, 3, 4, 5]),
    (902.2, 1, [2, 3, 4, 5]),
    (902.25, 1, [2, 3, 4, 5]),  # A tie goes to the earlier frame.
    (902.26, 1, [3, 4, 5, 6]),
    (902.0, 3, [0, 1, 4, 7]),
    (900.0, 2, [0, 0, 0, 2]),
    (904.4, 2, [4, 6, 8, 8]),
  ],
)
def test_clips_are_centred_on_the_keyframe(tmp_path, keyframe, stride, indices):
  made = dataset(tmp_path, [example(keyframe=keyframe)])
  clip = dataclasses.replace(CLIP, frames=4, stride=stride)
  assert clips.view_indices(made, clip, 0, 1).tolist() == [indices]
  assert levels(trained(made, clip)['inputs']) == [indices]


@pytest.mark.parametrize(
  ('stride', 'fps', 'indices'),
  [
    (1, 0.0, [0, 1, 2, 3, 4]),
    (1, 1.0, [0, 1, 2, 4, 5]),  # 900, 901, 902, 903, 904 s
    (1, 10.0, [1, 2, 2, 2, 3]),  # 901.8, 901.9, 902, 902.1, 902.2 s
    (4, 2.0, [0, 0, 2, 5, 5]),  # 898 .. 906 s: both ends are held
  ],
)
def test_times_count_not_frames(tmp_path, stride, fps, indices):
  times = (900.0, 901.75, 902.0, 902.25, 903.0, 904.0)
  made = dataset(tmp_path, [example(times=times)])
  clip = dataclasses.replace(CLIP, frames=5, stride=stride, fps=fps)
  assert clips.view_indices(made, clip, 0, 1).tolist() == [indices]
