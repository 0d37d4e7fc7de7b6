"""Images prepared by TFDS: what is read of them, through the loader too, and what is refused."""

import pickle
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import tensorflow_datasets as tfds

from datasets import check, framed_records, samples, sources
from datasets.batches import Loading, eval_batches, train_batches
from datasets.clip_config import ClipConfig
from datasets.tfds_dataset import TfdsDataset
from errors import DataError
from tests.datasets import images
from tools import browse

CLIP = ClipConfig(
  sampling='dense', frames=1, stride=1, resize=16, crop=16, random_crop='inception', flip_prob=0.5
)
TASKS = {'what': 'label', 'tags': 'tags'}


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  return images.prepare(tmp_path_factory.mktemp('tfds'))


@pytest.fixture(scope='module')
def place(data_dir):
  return f'tfds:tiny_images@{data_dir}'


@pytest.fixture(scope='module')
def dataset(place):
  return TfdsDataset(place, 'train', TASKS)


def rows(dataset):
  """Number of the picture -> row."""
  keys = [dataset.key(row) for row in range(len(dataset))]
  return {int(key.split('_')[1].split('.')[0]): row for row, key in enumerate(keys)}


def image(dataset, row):
  (frame,) = dataset.frames(row, np.zeros(1, int))
  return frame.copy()


def test_contents(place, dataset):
  found = sources.contents(place)
  assert found.split_sizes == dataset.split_sizes == images.SIZES
  assert {name: (g.classes, g.multi_label, g.offset) for name, g in found.groups.items()} == {
    'label': (images.CLASSES, False, 0),
    'tags': (images.TAGS, True, 3),
  }
  assert len(dataset) == 7
  assert dataset.num_frames.tolist() == [1] * 7 and dataset.frame_rate.tolist() == [0] * 7
  assert dataset.class_names('what') == images.CLASSES and dataset.multi_label('tags')


def test_keys_and_labels(place, dataset):
  assert sorted(rows(dataset)) == list(range(7))
  for number, row in rows(dataset).items():
    assert dataset.key(row) == f'train_{number}.jpg'
    labels = dataset.labels(row)
    assert labels['what'] == number % 3 and labels['what'].dtype == np.int32
    assert labels['tags'].tolist() == [float(number % 2 == 0), 1.0]
    assert dataset.identity(row) == (dataset.fingerprint, 'train', str(row))


def test_pixels_are_the_files(dataset):
  """JPEGs as every frame is decoded, and PNG, grey and with alpha, as RGB."""
  for number, row in rows(dataset).items():
    found, drawn = image(dataset, row), images.pixels(number)
    assert found.dtype == np.uint8 and found.shape == (24, 32, 3)
    if number in (4, 6):
      assert np.array_equal(found, drawn)
    elif number == 5:
      grey = np.repeat(drawn[..., :1].astype(int), 3, axis=2)
      assert np.abs(found - grey).max() < 12 and np.ptp(found, axis=2).max() == 0
    else:
      jpeg = images.image_bytes(number)
      assert np.array_equal(found, simplejpeg.decode_jpeg(jpeg, fastdct=True))


def test_record_is_read_once_for_all_that_is_asked_of_it(dataset, monkeypatch):
  read = []

  class Counting:
    def __getitem__(self, row):
      read.append(row)
      return stored[row]

  stored = dataset._records
  monkeypatch.setattr(dataset, '_records', Counting())
  monkeypatch.setattr(dataset, '_last', threading.local())
  image(dataset, 3), dataset.labels(3), dataset.key(3), image(dataset, 4)
  assert read == [3, 4]


def stream(dataset, threads=0, processes=0):
  return train_batches(
    dataset,
    CLIP,
    batch_size=4,
    seed=1,
    loading=Loading(num_threads=threads, num_processes=processes),
  )


def equal(a, b):
  return (
    all(
      equal(a[name], b[name]) if isinstance(a[name], dict) else np.array_equal(a[name], b[name])
      for name in a
    )
    and a.keys() == b.keys()
  )


def test_threads_and_processes_change_nothing(dataset):
  with stream(dataset) as batches:
    wanted = [next(batches) for _ in range(5)]
    assert equal(batches.batch_at(3), wanted[3])
  assert wanted[0]['inputs'].shape == (4, 1, 16, 16, 3)
  assert wanted[0]['label']['tags'].shape == (4, 2)
  for threads, processes in ((4, 0), (2, 1)):
    with stream(dataset, threads, processes) as batches:
      assert all(equal(next(batches), batch) for batch in wanted)


def test_evaluation_sees_every_image_once(place):
  validation = TfdsDataset(place, 'validation', TASKS)
  with eval_batches(validation, CLIP, batch_size=2, spatial_views=3) as batches:
    made = list(batches)
  assert [batch['inputs'].shape for batch in made] == [(2, 3, 1, 16, 16, 3)] * 2
  assert np.concatenate([batch['row'] for batch in made]).tolist() == [0, 1, 2, -1]


def test_copies_are_alike(place, dataset, data_dir, monkeypatch):
  copy = pickle.loads(pickle.dumps(dataset))
  assert copy.fingerprint == dataset.fingerprint and copy.key(2) == dataset.key(2)
  monkeypatch.setenv('TFDS_DATA_DIR', str(data_dir))
  named = sources.open_dataset('tfds:tiny_images:1.2.0', 'train', {})
  assert isinstance(named, TfdsDataset)
  assert named.fingerprint == dataset.fingerprint and named.key(0) == dataset.key(0)


def test_tensorflow_is_not_imported(place):
  code = (
    'import sys, numpy as np; from datasets.tfds_dataset import TfdsDataset\n'
    f'data = TfdsDataset({place!r}, "train", {{"what": "label"}})\n'
    'assert next(data.frames(0, np.zeros(1, int))).shape == (24, 32, 3) and data.labels(0)\n'
    'found = {"tensorflow", "jax", "torch"} & set(sys.modules); assert not found, found'
  )
  subprocess.run([sys.executable, '-c', code], check=True)


def mocked(place, tasks):
  """Five rows of what TFDS makes up, and a batch of them."""
  dataset = TfdsDataset(place, 'train', tasks)
  assert len(dataset) == 5
  with stream(dataset, threads=2) as batches:
    return dataset, next(batches)


def test_the_mock_data_of_tfds(data_dir):
  with tfds.testing.mock_data(num_examples=5, data_dir=str(data_dir)):
    dataset, batch = mocked('tfds:tiny_images', TASKS)
    assert isinstance(dataset.key(0), str) and dataset.key(0) != dataset.key(1)
    assert batch['inputs'].shape == (4, 1, 16, 16, 3) and np.ptp(batch['inputs']) > 0
    assert batch['inputs'].dtype == np.uint8 and batch['label']['what'].dtype == np.int32
    assert set(batch['label']['what'].tolist()) <= {0, 1, 2}
    assert equal(batch, mocked('tfds:tiny_images', TASKS)[1])


def test_the_mock_data_of_a_known_dataset(tmp_path):
  """Of TFDS' own description, with a split written into it: nothing is downloaded or prepared."""
  builder = tfds.builder('cifar10', data_dir=str(tmp_path), file_format='array_record')
  split = tfds.core.SplitInfo(name='train', shard_lengths=[5], num_bytes=1)
  builder.info.set_splits(tfds.core.splits.SplitDict([split]))
  Path(builder.data_dir).mkdir(parents=True)
  builder.info.write_to_directory(builder.data_dir)
  with tfds.testing.mock_data(num_examples=5, data_dir=str(tmp_path)):
    dataset, batch = mocked(f'tfds:cifar10@{tmp_path}', {'object': 'label'})
    assert dataset.key(3) == 'train-0000003' and dataset.num_classes('object') == 10
    assert image(dataset, 0).shape == (32, 32, 3) and batch['inputs'].dtype == np.uint8
    assert set(batch['label']['object'].tolist()) <= set(range(10))
    assert equal(batch, mocked(f'tfds:cifar10@{tmp_path}', {'object': 'label'})[1])


@pytest.fixture(scope='module')
def framed(tmp_path_factory):
  """The same images in TFDS' default format."""
  return images.prepare(tmp_path_factory.mktemp('framed'), 'tfrecord')


def test_tfrecords_hold_the_same(framed, dataset, monkeypatch):
  opened = TfdsDataset(f'tfds:tiny_images@{framed}', 'train', TASKS)
  assert opened.fingerprint == dataset.fingerprint and opened.split_sizes == dataset.split_sizes
  for row in range(7):
    assert opened.key(row) == dataset.key(row)
    assert np.array_equal(image(opened, row), image(dataset, row))
    assert equal(opened.labels(row), dataset.labels(row))
  monkeypatch.setattr(framed_records.FramedRecords, '_scan', None)  # Once is enough.
  again = pickle.loads(pickle.dumps(opened))
  assert isinstance(again._records._offset, np.memmap) and again.key(6) == opened.key(6)
  with stream(again, 2, processes=1) as batches, stream(dataset) as wanted:
    assert all(equal(next(batches), next(wanted)) for _ in range(5))
  monkeypatch.undo()
  assert not check.check(f'tfds:tiny_images@{framed}').defects


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    ('gone', 'is missing'),
    ('cut off', r'truncated: the record at byte \d+ needs \d+ bytes of file'),
    ('shorter', 'holds 6 records, expected 7'),
    ('flipped', r'no TFRecord header at byte \d+'),
  ],
)
def test_damaged_tfrecords_are_named(framed, tmp_path, damage, message):
  shutil.copytree(framed, tmp_path / 'copy')
  place = f'tfds:tiny_images@{tmp_path / "copy"}'
  opened = TfdsDataset(place, 'train', TASKS)
  (file,) = (tmp_path / 'copy').rglob('tiny_images-train*')
  whole, last = file.read_bytes(), int(opened._records._offset[6])
  if damage == 'gone':
    file.unlink()
  elif damage == 'flipped':
    file.write_bytes(whole[:last] + bytes(255 - byte for byte in whole[last:]) + b'more')
  else:
    file.write_bytes(whole[: last if damage == 'shorter' else last + 40])
  named = f'{re.escape(str(file))}: {message}'
  with pytest.raises(DataError, match=named):
    TfdsDataset(place, 'train', TASKS)
  with pytest.raises(DataError, match=r"'train', row 6: cannot be read .* again"):
    opened.labels(6)
  assert opened.key(6) == 'train-0000006'


def test_names_in_use_are_unique(place, monkeypatch):
  label, number = tfds.features.ClassLabel(names=images.CLASSES), tfds.features.Scalar(np.int64)
  described(monkeypatch, {'image': tfds.features.Image(), 'image_id': number, 'label': label})
  assert TfdsDataset(place, 'train', {}).key(3) == 'train-0000003'
  monkeypatch.setattr(TfdsDataset, 'key', lambda self, row: f'{row % 6}')
  (defect,) = check.check(place, ['train']).defects
  assert (defect.record, defect.kind, defect.text) == (6, 'key', 'repeats: row 0 has it too.')


def unlabelled(monkeypatch, rows):
  read = TfdsDataset._values
  monkeypatch.setattr(
    TfdsDataset,
    '_values',
    lambda self, row: {**read(self, row), **({'label': [-1]} if row in rows else {})},
  )


def test_a_split_without_labels_is_looked_at_and_not_trained_on(place, monkeypatch):
  unlabelled(monkeypatch, range(7))
  dataset = TfdsDataset(place, 'train', TASKS)
  assert {sample.labels[0] for sample in samples.plain_samples(dataset, 7, 0)} == {'(no label)'}
  text = browse.overview(sources.contents(place), TfdsDataset(place, 'train', TASKS))
  assert '3 of 3 classes have no example' in text and 'outdoors' in text
  (defect,) = check.check(place, ['train']).defects
  assert (defect.file, defect.record, defect.kind) == ('train', check.SHARD, 'labels')
  assert 'no row has labels that can be used; the first: tfds:tiny_images@' in defect.text
  with pytest.raises(DataError, match=r"'label' is \[-1\], expected one number in \[0, 2\]"):
    next(stream(dataset))
  with pytest.raises(DataError, match='Has this split labels'):
    next(eval_batches(dataset, CLIP, batch_size=2))


def test_single_images_without_labels_are_each_named(place, monkeypatch):
  unlabelled(monkeypatch, (2, 4))
  found = [(d.record, d.kind) for d in check.check(place, ['train']).defects]
  assert found == [(2, 'labels'), (4, 'labels')]


def test_a_dataset_without_label_groups_is_looked_at(place, monkeypatch):
  described(monkeypatch, {'image': tfds.features.Image()})
  dataset = TfdsDataset(place, 'train', {})
  assert samples.plain_samples(dataset, 1, 0)[0].labels == ('(no label)',)
  assert browse.overview(sources.contents(place), dataset).endswith('train: 7 images')
  assert not check.check(place).defects


def test_check_lists_records_that_cannot_be_read(data_dir, tmp_path):
  shutil.copytree(data_dir, tmp_path / 'copy')
  (file,) = (tmp_path / 'copy').rglob('tiny_images-train*')
  whole = file.read_bytes()
  file.write_bytes(whole[:70] + bytes(255 - byte for byte in whole[70:]))
  found = check.check(f'tfds:tiny_images@{tmp_path / "copy"}').defects
  assert [(d.file, d.record, d.key, d.kind) for d in found] == [
    ('train', row, f'train-{row:07d}', 'decode') for row in range(7)
  ]


def refused(directory, split='train', tasks=None):
  with pytest.raises(DataError) as error:
    TfdsDataset(directory, split, tasks or {})
  return str(error.value)


def test_refused(place, tmp_path):
  assert refused(place, 'test').endswith("no split 'test'; there are ['train', 'validation'].")
  assert "there are ['label', 'tags']" in refused(place, tasks={'a': 'action'})
  assert 'expected tfds:NAME[:VERSION]' in refused('tfds:cifar10@')
  assert not sources.is_there(f'tfds:cifar10@{tmp_path}') and sources.is_there(place)
  assert 'Did you mean imagenet2012' in refused(f'tfds:imagenet_2012@{tmp_path}')
  message = refused(f'tfds:cifar10@{tmp_path}')
  assert f'tfds:cifar10@{tmp_path}: TFDS finds no files' in message
  assert f"tfds.builder('cifar10', data_dir='{tmp_path}', file_format='array_record')" in message


@pytest.mark.parametrize('name', ['tiny-images', 'a/b/c', 'tiny_images:1', '../x', '', 'a/x=1'])
def test_places_that_are_spelled_wrong(name, data_dir):
  assert 'expected tfds:NAME[:VERSION]' in refused(f'tfds:{name}@{data_dir}')
  with pytest.raises(DataError, match=r'a version is x\.y\.z'):
    sources.is_there(f'tfds:{name}@{data_dir}')


@pytest.mark.parametrize('file', ['features.json', 'dataset_info.json'])
@pytest.mark.parametrize('content', ['{', '{}', None])
def test_damaged_descriptions_are_named(data_dir, tmp_path, file, content):
  shutil.copytree(data_dir, tmp_path / 'copy')
  path = tmp_path / 'copy' / 'tiny_images' / '1.2.0' / file
  path.unlink() if content is None else path.write_text(content)
  message = refused(f'tfds:tiny_images@{tmp_path / "copy"}')
  if file == 'features.json' and content is None:
    assert 'TFDS finds no files' in message
  else:
    assert 'cannot open its features.json and dataset_info.json: ' in message


def test_another_version_is_not_prepared(data_dir):
  message = refused(f'tfds:tiny_images:1.0.0@{data_dir}')
  assert "version, but those of ['tiny_images:1.2.0']. Prepare it" in message
  assert 'finds no files of this name' in message and "builder('tiny_images:1.0.0'" in message


def test_another_format_is_refused(data_dir, tmp_path):
  shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
  for path in (tmp_path / 'tiny_images' / '1.2.0').iterdir():
    if path.name == 'dataset_info.json':
      path.write_text(path.read_text().replace('array_record', 'parquet'))
    path.rename(path.with_name(path.name.replace('array_record', 'parquet')))
  message = refused(f'tfds:tiny_images@{tmp_path}')
  folder = f'{tmp_path}/tiny_images/1.2.0'
  assert f"{folder} is prepared as ['parquet']" in message
  assert (
    f'tfds convert_format --dataset_version_dir={folder} --out_file_format=array_record' in message
  )
  assert f'--out_dir={tmp_path}_array_record/tiny_images/1.2.0' in message


def described(monkeypatch, features):
  features = tfds.features.FeaturesDict(features)
  monkeypatch.setattr(tfds.core.DatasetInfo, 'features', property(lambda self: features))


def test_labels_of_objects_are_a_group(place, monkeypatch):
  label = tfds.features.ClassLabel(names=images.CLASSES)
  objects = tfds.features.Sequence({'label': label, 'size': np.float32})
  described(monkeypatch, {'picture': tfds.features.Image(), 'label': label, 'objects': objects})
  opened = TfdsDataset(place, 'train', {'seen': 'objects/label'})
  monkeypatch.setattr(opened, '_values', lambda row: {'label': [-1], 'objects/label': [2, 0, 2]})
  assert opened.multi_label('seen') and opened.labels(0)['seen'].tolist() == [1, 0, 1]
  assert opened.key(3) == 'train-0000003'


def test_no_image_is_refused(data_dir, monkeypatch):
  described(monkeypatch, {'text': tfds.features.Text()})
  message = refused(f'tfds:tiny_images@{data_dir}')
  assert message.endswith(
    "no image feature and none called 'image'; its features: {'text': 'Text'}."
  )


@pytest.mark.parametrize('dtype', [np.float32, np.uint16])
def test_images_of_more_than_8_bits_are_refused(place, monkeypatch, dtype):
  described(monkeypatch, {'image': tfds.features.Image(shape=(None, None, 1), dtype=dtype)})
  message = f"the image feature 'image' is of {np.dtype(dtype)}, expected uint8"
  assert message in refused(place)


def test_maps_of_classes_are_no_images(place, monkeypatch):
  segments = tfds.features.LabeledImage(labels=3, shape=(None, None, 1))
  described(monkeypatch, {'image': segments})
  assert "no image feature and none called 'image'" in refused(place)
  described(monkeypatch, {'picture': tfds.features.Image(), 'map': segments})
  assert TfdsDataset(place, 'train', {})._features.image == 'picture'


@pytest.mark.parametrize('damage', ['cut off', 'flipped', 'gone'])
def test_damaged_files_are_named(data_dir, tmp_path, damage):
  shutil.copytree(data_dir, tmp_path / 'copy')
  opened = TfdsDataset(f'tfds:tiny_images@{tmp_path / "copy"}', 'train', {'what': 'label'})
  (file,) = (tmp_path / 'copy').rglob('tiny_images-train*')
  whole = file.read_bytes()
  if damage == 'gone':
    file.unlink()
  elif damage == 'cut off':
    file.write_bytes(whole[: len(whole) // 2])
  else:
    file.write_bytes(whole[:70] + bytes(255 - byte for byte in whole[70:]))
  with pytest.raises(DataError, match=r"'train', row 2: .* again"):
    image(opened, 2)


def test_missing_labels_are_named(dataset, monkeypatch):
  monkeypatch.setattr(dataset, '_values', lambda row: {'label': [-1], 'tags': [0]})
  with pytest.raises(DataError, match=r"row 0: 'label' is \[-1\], expected one number in \[0, 2\]"):
    dataset.labels(0)
