"""Detection records: written in MediaSequence's names, read back, and refused when they are wrong."""

import pickle
import re

import numpy as np
import pytest
import tensorflow as tf

from datasets import check, index, keyframes, manifest, records
from datasets.record_dataset import RecordDataset
from errors import DataError
from tests.datasets.detections import (
  CLASSES,
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


def test_tensorflow_reads_mediasequence_names():
  payload = example(proposals=[proposal(THIRD, 0.5), proposal(FIRST, 0.75)])
  theirs = tf.train.SequenceExample.FromString(payload)
  lists = theirs.feature_lists.feature_list

  def values(name):
    (step,) = lists[name].feature
    return list(getattr(step, step.WhichOneof('kind')).value)

  names = {name for name in lists if 'region' in name}
  sides = [f'region/bbox/{side}' for side in ('ymin', 'xmin', 'ymax', 'xmax')]
  assert names == {
    'region/timestamp', 'region/is_annotated', 'region/label/index', 'region/label/string', *sides,
    'PREDICTED/region/timestamp', 'PREDICTED/region/label/confidence',
    *(f'PREDICTED/{side}' for side in sides),
  }  # fmt: skip
  assert values('region/timestamp') == values('PREDICTED/region/timestamp') == [902_000_000]
  assert values('region/is_annotated') == [1]
  assert values('region/label/index') == [0, 3, 1]
  assert values('region/label/string') == [b'stand', b'wave right', b'walk']
  assert list(zip(*(values(side) for side in sides))) == [FIRST, SECOND, FIRST]
  assert list(zip(*(values(f'PREDICTED/{side}') for side in sides))) == [THIRD, FIRST]
  assert values('PREDICTED/region/label/confidence') == [0.5, 0.75]
  assert 'PREDICTED/region/timestamp' not in records.parse_sequence_example(example()).lists


def test_equal_boxes_become_one_and_detected_ones_are_sorted():
  found = keyframes.read(
    records.parse_sequence_example(
      example(proposals=[proposal(SECOND, 0.5), proposal(THIRD, 0.75), proposal(FIRST, 0.5)])
    )
  )
  assert found.microseconds == 902_000_000
  assert found.times.tolist() == [900_000_000 + 500_000 * i for i in range(9)]
  assert found.boxes.tolist() == [list(box) for box in (FIRST, SECOND, THIRD, SECOND, FIRST)]
  assert found.labels == ((0, 1), (3,), (), (), ())
  assert found.scores.tolist() == [1, 1, 0.75, 0.5, 0.5]
  assert found.annotated.tolist() == [True, True, False, False, False]


def test_regions_of_a_dataset(tmp_path):
  groups = {'scene': (['in', 'out'], False), **GROUPS}
  seen = [proposal(THIRD, 0.75)]
  first = example('a,0902', [region(FIRST, 2), region(FIRST, 3)], seen, labels=[1])
  # Labels of boxes count through all groups: 'stand' is 2.
  second = example('b,0903', [], keyframe=903.5, labels=[0])
  write(tmp_path, [first, second], groups)
  made = RecordDataset(tmp_path, 'train', {'scenes': 'scene', 'actions': 'action'})
  made = pickle.loads(pickle.dumps(made))
  found = made.regions(0, 'actions')
  assert found.boxes.tolist() == [list(FIRST), list(THIRD)]
  assert found.labels.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0]]
  assert (found.boxes.dtype, found.labels.dtype) == (np.float32, np.float32)
  assert found.scores.tolist() == [1, 0.75]
  assert found.annotated.tolist() == [True, False]
  assert [made.keyframe_seconds(row) for row in range(2)] == [902.0, 903.5]
  assert made.regions(1, 'actions').labels.shape == (0, 4)
  assert [made.labels(row) for row in range(2)] == [{'scenes': 1}, {'scenes': 0}]
  assert list(made.empty_labels()) == ['scenes']
  assert made.region_tasks == ('actions',)
  assert made.class_ids('actions') == (1, 2, 3, 4)
  with pytest.raises(DataError, match="labels of task 'scenes' belong to clips"):
    made.regions(0, 'scenes')


def test_the_label_1_of_another_group_is_no_label_of_boxes(tmp_path):
  groups = {'scene': (['in', 'out'], False), **GROUPS}
  write(tmp_path, [example('a', [region(FIRST, 2)], labels=[0]), example('b', labels=[0])], groups)
  built = index.build(tmp_path, manifest.load(tmp_path), 'train')
  (defect,) = built.defects
  assert re.search(
    r"record 1 at byte \d+, key 'b': region/label/index holds \[0, 1\].*\{'action': \(2, 5\)\}",
    defect,
  )


def test_a_dataset_without_boxes_says_so(tiny_source):
  tiny = RecordDataset(tiny_source, 'train', {'verbs': 'verb'})
  for call in (lambda: tiny.regions(0, 'verbs'), lambda: tiny.keyframe_seconds(0)):
    with pytest.raises(DataError, match=r"'clip0' \(row 0\) has no keyframe with boxes"):
      call()


def test_the_index_is_mapped_and_the_same_when_loaded(tmp_path):
  built = dataset(tmp_path, [example(proposals=[proposal(THIRD, 0.5)])])
  loaded = RecordDataset(tmp_path, 'train', {'actions': 'action'})
  for one, other in zip(built.regions(0, 'actions'), loaded.regions(0, 'actions'), strict=True):
    np.testing.assert_array_equal(one, other)
  assert isinstance(loaded.keyframe(0).boxes, np.memmap)


def damaged(change, **kwargs):
  made = tf.train.SequenceExample.FromString(example('bad', **kwargs))
  change(made.feature_lists.feature_list)
  return made.SerializeToString()


def two_keyframes(lists):
  lists['region/is_annotated'].feature.add().int64_list.value.append(1)


def integers_as_boxes(lists):
  del lists['region/bbox/ymin'].feature[0].float_list.value[:]
  lists['region/bbox/ymin'].feature[0].int64_list.value.extend([0, 0, 0])


SEEN = {'proposals': [proposal(THIRD, 0.5)]}
BAD = [
  (example('bad', keyframe=None, regions=()), 'layout', "no keyframe, 'region/timestamp'"),
  (example('bad', keyframe=904.5), 'regions', r'is at 904\.5 s, outside the frames from 900 to 904'),
  (example('bad', keyframe=899.75), 'regions', r'is at 899\.75 s, outside'),
  (example('bad', frame_microseconds=[1, 2]), 'regions', 'image/timestamp has 2 times for 9 frames'),
  (
    example('bad', frame_microseconds=[1, 3, 2, *range(4, 10)], keyframe=0),
    'regions', 'has 9 times for 9 frames; .* ascending',
  ),
  (
    example('bad', [region((0.5, 0.25, 0.5, 0.75), 0), region(FIRST, 1)]),
    'regions', r'1 of 2 boxes are no boxes; box 0 \(annotated\) is \[0\.5, 0\.25, 0\.5, 0\.75\]',
  ),
  (example('bad', [region((0, 0.5, 0.5, 1.25), 0)]), 'regions', r'is \[0, 0\.5, 0\.5, 1\.25\]'),
  (example('bad', [region((-0.5, 0.5, 0.5, 1), 0)]), 'regions', r'is \[-0\.5, 0\.5, 0\.5, 1\]'),
  (
    example('bad', proposals=[proposal(FIRST, 1.5)]),
    'regions', r'1 of 3 boxes are no boxes; box 2 \(detected\) .* with score 1\.5',
  ),
  (
    damaged(lambda lists: lists['region/label/index'].feature[0].int64_list.value.append(7)),
    'regions', r'lists of boxes differ in length: .*ymin.: 3.*index.: 4',
  ),
  (
    example('bad', [region(FIRST, 0)._replace(label=4)]),
    'regions', r"region/label/index holds \[4\].*\{'action': \(0, 3\)\}",
  ),
  (damaged(two_keyframes), 'regions', '2 annotated keyframes'),
  (damaged(integers_as_boxes), 'regions', r'region/bbox/ymin holds \[0, 0, 0\], expected floats'),
  (
    damaged(lambda lists: lists.pop('PREDICTED/region/label/confidence'), **SEEN),
    'regions', r'differ in length: .*confidence.: 0',
  ),
  (
    damaged(
      lambda lists: lists['PREDICTED/region/timestamp'].feature[0].int64_list.value.append(1), **SEEN
    ),
    'regions', r'PREDICTED/region/timestamp holds \[\[902000000, 1\]\], but the keyframe is at',
  ),
]  # fmt: skip


@pytest.mark.parametrize(('bad', 'kind', 'message'), BAD, ids=[message[:24] for *_, message in BAD])
def test_a_bad_record_between_good_ones(tmp_path, bad, kind, message):
  made = write(tmp_path, [example('first'), bad, example('last')])
  built = index.build(tmp_path, made, 'train')
  assert [built.key(row) for row in range(len(built))] == ['first', 'last']
  (defect,) = built.defects
  shard = 'train-00000-of-00001.tfrecord'
  assert re.search(f"{shard}, record 1 at byte .*, key 'bad': .*{message}", defect)
  (reported,) = check.check(tmp_path).defects
  assert (reported.file, reported.record, reported.key, reported.kind) == (shard, 1, 'bad', kind)
  assert re.search(message, reported.text)


def test_the_last_frame_is_shown_as_long_as_the_others(tmp_path):
  made = dataset(tmp_path, [example(keyframe=904.499)])
  assert made.keyframe_seconds(0) == 904.499


def test_records_of_clips_under_a_manifest_of_boxes_are_one_error(tmp_path):
  made = write(tmp_path, [example(keyframe=None, regions=())] * 2)
  with pytest.raises(DataError, match="no keyframe, 'region/timestamp'"):
    index.build(tmp_path, made, 'train')


def test_the_annotated_one_of_several_steps_is_read():
  made = tf.train.SequenceExample.FromString(example())
  lists = made.feature_lists.feature_list
  for name in lists:
    if name.startswith('region/'):
      step = lists[name].feature[0]
      copy = lists[name].feature.add()
      copy.CopyFrom(step)
      lists[name].feature[0].Clear()
  found = keyframes.read(records.parse_sequence_example(made.SerializeToString()))
  assert (found.microseconds, found.labels) == (902_000_000, ((0, 1), (3,)))


def test_boxes_need_a_keyframe():
  with pytest.raises(DataError, match="clip 'bad': has boxes, but no keyframe"):
    example('bad', keyframe=None)


def test_a_manifest_of_clips_keeps_its_hash_and_one_of_boxes_has_its_own(tmp_path):
  split = manifest.Split('train', (manifest.Shard('a', 10, 2),))
  clips = manifest.create([split], {'action': (CLASSES, True)})
  # The hash that this manifest had before there were boxes.
  assert clips.sha256 == 'a856e3ffdcb01119b9f4b515148bbbfd596f094b9c2dcf574af60ffb994cf5dc'
  of_boxes = manifest.create([split], GROUPS)
  ids = GROUPS['action']._replace(class_ids=(1, 3, 4, 80))
  with_ids = manifest.create([split], {'action': ids})
  assert len({clips.sha256, of_boxes.sha256, with_ids.sha256}) == 3
  (tmp_path / 'a').write_bytes(b'x' * 10)
  manifest.write(tmp_path, with_ids)
  assert manifest.load(tmp_path) == with_ids
  assert with_ids.tasks['action'] == manifest.TaskLabels(CLASSES, True, 0, True, (1, 3, 4, 80))


@pytest.mark.parametrize(
  ('group', 'message'),
  [
    (manifest.Group(CLASSES, False, True), "'action' is of boxes, which needs multi_label"),
    (manifest.Group(CLASSES, True, True, (1, 2, 3, 3)), '4 classes and 3 different ids among 4'),
    (manifest.Group(CLASSES, True, True, (1, 2)), '4 classes and 2 different ids among 2'),
  ],
)
def test_groups_that_cannot_be(group, message):
  split = manifest.Split('train', (manifest.Shard('a', 10, 2),))
  with pytest.raises(DataError, match=message):
    manifest.create([split], {'action': group})
