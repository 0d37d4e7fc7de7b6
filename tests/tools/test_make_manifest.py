"""A manifest for shards of others: what it counts, and what it refuses."""

import gzip
import json

import numpy as np
import pytest
import simplejpeg

from datasets import index, manifest, records
from errors import ConfigError, DataError
from tests.datasets import detections
from tools import make_manifest

JPEG = simplejpeg.encode_jpeg(np.zeros((24, 32, 3), np.uint8))


def example(labels, texts=(), frames=(JPEG, JPEG), key='clip'):
  return records.encode_example(
    frames, labels, key, height=24, width=32, frame_rate=25.0, label_texts=texts
  )


@pytest.fixture
def directory(tmp_path):
  """Two training shards and a test shard of three named classes; class 2 is only in the test."""
  train = [example([i % 2], [('run', 'jump')[i % 2]], key=f'c{i}') for i in range(5)]
  records.write_split(tmp_path, 'train', train, 2)
  records.write_split(tmp_path, 'test', [example([2], ['fly'])], 1)
  return tmp_path


SPLITS = {'train': ['train-*.tfrecord'], 'test': ['test-*']}


def failure(directory, splits=SPLITS, classes=None, **kwargs):
  with pytest.raises(DataError) as caught:
    make_manifest.make(directory, splits, classes, **kwargs)
  assert not (directory / manifest.FILE_NAME).exists()
  return str(caught.value)


def test_counts_and_class_names_from_the_records(directory):
  made = make_manifest.make(directory, SPLITS)
  assert manifest.load(directory) == made
  assert [(s.name, s.examples, len(s.shards)) for s in made.splits.values()] == [
    ('train', 5, 2),
    ('test', 1, 1),
  ]
  assert made.tasks == {'label': manifest.TaskLabels(('run', 'jump', 'fly'), False, 0)}
  assert made.source == {
    'made_by': 'tools.make_manifest',
    'splits': {'train': ['train-*.tfrecord'], 'test': ['test-*']},
    'class_names': 'records',
  }
  assert len(index.build(directory, made, 'train')) == 5
  lines = [' '.join(x.split()) for x in make_manifest.summary(directory, made).splitlines()]
  assert lines[0] == f'{directory}/manifest.json'
  assert lines[1].startswith('train 5 records in 2 shards, ')
  assert lines[3] == 'label 3 classes, one a clip, from records'
  assert lines[4] == 'first record 2 frames of 32 x 24'
  assert lines[-1] == f'Next: python -m tools.browse --data={directory}'


def test_class_files_and_groups(directory, tmp_path):
  for name in ('verbs', 'nouns'):
    (tmp_path / f'{name}.txt').write_text(f'{name} 0\n{name} 1\n')
  classes = make_manifest.class_files([f'verb={tmp_path}/verbs.txt', f'noun={tmp_path}/nouns.txt'])
  assert classes == {'verb': ('verbs 0', 'verbs 1'), 'noun': ('nouns 0', 'nouns 1')}
  made = make_manifest.make(directory, SPLITS, classes, multi_label=['noun'])
  assert made.tasks['noun'] == manifest.TaskLabels(('nouns 0', 'nouns 1'), True, 2)
  assert made.source['class_names'] == 'files'
  assert make_manifest.class_files([f'{tmp_path}/verbs.txt']) == {'label': ('verbs 0', 'verbs 1')}
  assert make_manifest.class_files([]) is None


def test_records_of_boxes(tmp_path):
  records.write_split(tmp_path, 'train', [detections.example(labels=[0])], 1)
  names = {'action': detections.CLASSES}
  made = make_manifest.make(tmp_path, {'train': ['train*']}, names, regions=['action'])
  assert made.tasks == {'action': manifest.TaskLabels(detections.CLASSES, True, 0, True)}
  assert len(index.build(tmp_path, made, 'train')) == 1
  assert 'action 4 classes, any number a box, from files' in ' '.join(
    make_manifest.summary(tmp_path, made).split()
  )


def test_records_of_clips_are_none_of_boxes(directory):
  message = failure(directory, classes={'action': ['a', 'b', 'c']}, regions=['action'])
  assert "no usable ['region/timestamp']; found context [" in message
  assert "wanted feature list 'image/encoded' of JPEGs, feature list 'region/timestamp'" in message
  assert '--regions=label: names of its classes are needed' in failure(directory, regions=['label'])
  assert '--regions=x: there is no such group' in failure(directory, regions=['x'])


def test_a_manifest_is_replaced_only_when_asked(directory):
  first = make_manifest.make(directory, SPLITS)
  with pytest.raises(DataError, match=r'is there already\. Add --overwrite'):
    make_manifest.make(directory, {'train': SPLITS['train']})
  assert manifest.load(directory) == first
  index.save(directory, first, 'train', index.build(directory, first, 'train'))
  only = make_manifest.make(
    directory, {'train': ['train*', 'mani*']}, {'label': ['a', 'b']}, overwrite=True
  )
  assert [shard.name for shard in only.splits['train'].shards] == [
    'train-00000-of-00002.tfrecord',
    'train-00001-of-00002.tfrecord',
  ]
  assert manifest.load(directory) == only != first


def test_patterns_that_fit_nothing_or_twice(directory):
  message = failure(directory, {'train': ['training*']})
  assert "no file matches training* of split 'train'" in message
  assert 'test-00000-of-00001.tfrecord' in message
  message = failure(directory, {'train': ['t*'], 'test': ['test-*']})
  assert "['test-00000-of-00001.tfrecord'] are matched twice" in message
  with pytest.raises(DataError, match='no such directory'):
    make_manifest.make(directory / 'missing', SPLITS)


@pytest.mark.parametrize(
  ('old', 'new', 'missing', 'shown'),
  [
    (b'image/encoded', b'video/encoded', "['image/encoded']", "feature lists ['video/encoded']"),
    (b'clip/label/index', b'clip/class/index', "['clip/label/index']", "'clip/class/index'"),
    (b'clip/key', b'clip/nam', "['clip/key']", "'clip/nam'"),
  ],
)
def test_a_foreign_layout_is_one_error_with_keys_found_and_wanted(
  directory, old, new, missing, shown
):
  records.write_split(directory, 'other', [example([0], ['run']).replace(old, new)], 1)
  message = failure(directory, {'train': ['train*'], 'other': ['other*']})
  assert 'other-00000-of-00001.tfrecord: not of the DMVR / MediaSequence layout' in message
  assert f'no usable {missing}; found context [' in message
  assert shown in message
  assert "wanted feature list 'image/encoded' of JPEGs, context 'clip/label/index'" in message


def test_what_is_no_record_of_clips_at_all(directory):
  records.write_split(directory, 'text', [b'hello'], 1)
  assert 'not a SequenceExample' in failure(directory, {'text': ['text*']})
  records.write_split(directory, 'png', [example([0], ['run'], [b'\x89PNG'])], 1)
  assert 'are no JPEGs' in failure(directory, {'png': ['png*']})
  (directory / 'empty.tfrecord').touch()
  assert 'holds no examples' in failure(directory, {'empty': ['empty*']}, {'label': ['a']})


def test_gzip_and_truncation(directory):
  shard = directory / 'test-00000-of-00001.tfrecord'
  data = shard.read_bytes()
  shard.write_bytes(gzip.compress(data))
  assert f'{shard}: gzip-compressed' in failure(directory)
  shard.write_bytes(data[:-1])
  assert f'{shard}: truncated' in failure(directory)


@pytest.mark.parametrize(
  ('labels', 'texts', 'multi_label', 'says'),
  [
    ([1], ['run'], [], "label 1 is called 'run', before 'jump'"),
    ([1], [], [], "1 labels and 0 names in 'clip/label/text'"),
    ([0, 1], ['run', 'jump'], [], '2 labels. Add --multi_label=label'),
    ([4], ['swim'], [], 'up to 4, but none is called [2, 3]'),
    ([4, 1], ['swim', 'jump'], ['label'], 'up to 4, but none is called [2, 3]'),
  ],
)
def test_class_names_that_cannot_be_taken_from_records(directory, labels, texts, multi_label, says):
  records.write_split(directory, 'val', [example(labels, texts)], 1)
  splits = {'train': ['train*'], 'val': ['val*']}
  assert says in failure(directory, splits, multi_label=multi_label)


def test_flags():
  assert make_manifest.pairs(['a=x=y', 'b=z', 'a=w'], 'split') == {'a': ['x=y', 'w'], 'b': ['z']}
  with pytest.raises(ConfigError, match='--split=train: expected --split=NAME=VALUE'):
    make_manifest.pairs(['train'], 'split')
  with pytest.raises(ConfigError, match="several files for group 'label'"):
    make_manifest.class_files(['a.txt', 'b.txt'])


def test_an_unknown_multi_label_group_and_no_half_manifest(directory):
  message = failure(directory, SPLITS, {'verb': ['a']}, multi_label=['noun'])
  assert "--multi_label=noun: there is no such group; known: ['verb']" in message
  make_manifest.make(directory, SPLITS)
  content = json.loads((directory / manifest.FILE_NAME).read_text())
  assert content['splits']['train']['examples'] == 5
  assert [p.name for p in directory.iterdir() if p.name.endswith('.tmp')] == []


def test_a_first_label_of_boxes_is_refused(tmp_path):
  records.write_split(tmp_path, 'train', [detections.example(labels=[1])], 1)
  message = failure(
    tmp_path,
    {'train': ['train*']},
    {'action': detections.CLASSES},
    regions=['action'],
    first_label=1,
  )
  assert message.startswith(
    '--first_label=1: labels of boxes (--regions=action), and those of clips'
  )


def test_a_first_frame_that_cannot_be_decoded_leaves_no_manifest(directory):
  broken = [example([0], ['run'], frames=(JPEG[:40], JPEG), key='a'), example([0], ['run'])]
  records.write_split(directory, 'broken', broken, 1)
  message = failure(directory, {'train': ['broken-*']})
  assert f'{directory}/broken-00000-of-00001.tfrecord, record 0 at byte 12: frame 0: ' in message
  assert 'cannot be decoded' in message


def test_an_empty_shard_before_others_is_passed_over(directory):
  (directory / 'train-0').touch()
  made = make_manifest.make(directory, {'train': ['train-*']}, {'label': ('run', 'jump')})
  assert [shard.examples for shard in made.splits['train'].shards] == [0, 3, 2]
  assert 'first record 2 frames' in ' '.join(make_manifest.summary(directory, made).split())
