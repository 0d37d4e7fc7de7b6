"""Images as ImageNet's TFRecords have them, read in place."""

import hashlib
import json

import numpy as np
import pytest
import simplejpeg

from datasets import check, index, manifest, records
from datasets.record_dataset import RecordDataset
from errors import DataError
from tests.datasets import images
from tools import make_manifest

CLASSES = {'label': images.CLASSES}


def example(number, label, **changes):
  """A `tf.train.Example` of an image; a change of None leaves a feature out."""
  tf = records._tensorflow()
  values = {
    'image/encoded': [images.encoded(number)],
    'image/class/label': [label],
    'image/class/text': [images.CLASSES[label % 3].encode()],
    'image/filename': [f'n{number}.JPEG'.encode()],
    'image/format': [b'JPEG'],
    'image/height': [24],
    'image/width': [32],
    'image/channels': [3],
  } | changes
  made = tf.train.Example()
  for name, value in values.items():
    if value is not None:
      records._set_values(made.features.feature[name], value)
  return made.SerializeToString(deterministic=True)


def written(folder, labels, **changes):
  made = [example(i, label, **changes) for i, label in enumerate(labels)]
  records.write_split(folder, 'train', made, min(len(made), 2))
  return folder


def made_of(folder, classes=CLASSES, **settings):
  return make_manifest.make(folder, {'train': ['train-*']}, classes, **settings)


def test_an_example_is_a_record_of_one_frame():
  payload = example(3, 2)
  parsed = records.parse_sequence_example(payload)
  ((start, length),) = parsed.frames
  assert payload[start : start + length] == images.encoded(3)
  assert (parsed.key, parsed.labels, parsed.label_texts) == ('n3.JPEG', [2], [b'cat'])
  assert parsed.is_image
  with pytest.raises(DataError, match='a frame must be one bytes value, found 2'):
    records.parse_sequence_example(example(0, 0, **{'image/encoded': [b'a', b'b']}))


def test_frames_of_a_list_come_first():
  tf = records._tensorflow()
  clip = records.encode_example([b'1', b'2'], [0], 'k', height=1, width=1, frame_rate=5)
  record = tf.train.SequenceExample.FromString(clip)
  record.context.feature[records.FRAMES].bytes_list.value.append(b'cover')
  parsed = records.parse_sequence_example(record.SerializeToString())
  assert len(parsed.frames) == 2 and not parsed.is_image


@pytest.mark.parametrize(('first', 'given'), [(0, None), (1, None), (1, 1)])
def test_labels_from_zero_or_one_are_the_same_classes(tmp_path, first, given):
  labels = [(i % 3) + first for i in range(6)]
  made = made_of(written(tmp_path, labels), first_label=given)
  assert made.first_label == first and manifest.load(tmp_path) == made
  dataset = RecordDataset(tmp_path, 'train', {'what': 'label'})
  assert len(dataset) == 6 and set(dataset.num_frames) == {1} and set(dataset.frame_rate) == {0}
  for row in range(6):
    number = int(dataset.key(row)[1])
    assert dataset.labels(row)['what'] == number % 3
    (frame,) = dataset.frames(row, np.zeros(1, int))
    assert np.array_equal(frame, simplejpeg.decode_jpeg(images.encoded(number), fastdct=True))
  assert not check.check(tmp_path).defects
  summary = make_manifest.summary(tmp_path, made)
  assert ('1 in the records is the first class' in summary) == (first == 1)


def test_class_names_from_the_records(tmp_path):
  assert made_of(written(tmp_path, [0, 1, 2]), None).tasks['label'].classes == images.CLASSES
  shifted = {'image/class/text': [b'one name']}
  (tmp_path / 'more').mkdir()
  written(tmp_path / 'more', [1], **shifted)
  with pytest.raises(DataError, match=r'none is called \[0\].*--first_label=1'):
    made_of(tmp_path / 'more', None)
  assert made_of(tmp_path / 'more', None, first_label=1).tasks['label'].classes == ('one name',)


def test_images_without_class_names_are_told_what_lacks(tmp_path):
  written(tmp_path, [0], **{'image/class/text': None})
  with pytest.raises(DataError, match="1 labels and 0 names in 'image/class/text', so class names"):
    made_of(tmp_path, None)


def test_labels_that_could_be_either_are_asked_about(tmp_path):
  written(tmp_path, [1, 2])
  with pytest.raises(
    DataError, match='holds 1 to 2, there are 3 classes: the first may be called 0'
  ):
    made_of(tmp_path)
  assert not (tmp_path / manifest.FILE_NAME).exists()
  assert made_of(tmp_path, first_label=0).first_label == 0


@pytest.mark.parametrize(('labels', 'given'), [([0, 3], None), ([1, 4], None), ([0, 1], 1)])
def test_labels_that_do_not_fit_are_refused(tmp_path, labels, given):
  with pytest.raises(DataError, match='they do not fit') as error:
    made_of(written(tmp_path, labels), first_label=given)
  for label, file in zip(labels, ('train-00000-of-00002', 'train-00001-of-00002')):
    assert f'{label} is in {tmp_path}/{file}.tfrecord, record 0 at byte 12' in str(error.value)


def test_index_names_labels_as_stored(tmp_path):
  made = made_of(written(tmp_path, [1, 2, 3]))
  wrong = manifest.Manifest(made.splits, made.tasks, made.source, first_label=2)
  found = index.build(tmp_path, wrong, 'train')
  assert found.label.tolist() == [1, 0] or found.label.tolist() == [0, 1]
  (defect,) = found.defects
  assert 'image/class/label holds [1], expected integers in [2, 4]' in defect


@pytest.mark.parametrize('missing', ['image/class/label', 'image/filename', 'image/encoded'])
def test_another_layout_is_refused(tmp_path, missing):
  written(tmp_path, [0, 1], **{missing: None})
  with pytest.raises(DataError, match='not of the DMVR / MediaSequence layout') as error:
    made_of(tmp_path)
  assert "or of an image 'image/encoded', 'image/class/label'" in str(error.value)


@pytest.mark.parametrize('orientation', [None, 6])
def test_pngs_are_read(tmp_path, orientation):
  """As they are stored, like JPEGs, whatever their EXIF orientation says."""
  png = images.encoded(0, '.png')
  if orientation:
    png = images.png_with_exif(png, orientation)
  written(tmp_path, [0], **{'image/encoded': [png], 'image/format': [b'PNG']})
  made_of(tmp_path)
  dataset = RecordDataset(tmp_path, 'train', {'what': 'label'})
  assert np.array_equal(next(dataset.frames(0, np.zeros(1, int))), images.pixels(0))
  assert not check.check(tmp_path).defects


def test_manifests_without_a_first_label_keep_their_hash_and_form(tmp_path):
  splits = [manifest.Split('train', (manifest.Shard('a', 1, 2),))]
  plain = manifest.create(splits, {'label': (('x', 'y'), False)}, {'seed': 0})
  shifted = manifest.create(splits, {'label': (('x', 'y'), False)}, {'seed': 0}, first_label=1)
  content = [1, {'train': {'examples': 2, 'shards': [{'name': 'a', 'bytes': 1, 'examples': 2}]}}]
  content += [[['label', {'classes': ['x', 'y'], 'multi_label': False}]], {'seed': 0}]
  text = json.dumps(content, sort_keys=True, separators=(',', ':'))
  assert plain.sha256 == hashlib.sha256(text.encode()).hexdigest() != shifted.sha256
  assert 'first_label' not in json.loads(manifest.write(tmp_path, plain).read_text())
  assert json.loads(manifest.write(tmp_path, shifted).read_text())['first_label'] == 1
