"""Images prepared by TFDS: what is read of them, through the loader too, and what is refused."""

import pickle
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import simplejpeg
import tensorflow_datasets as tfds

from datasets import sources
from datasets.batches import Loading, eval_batches, train_batches
from datasets.clip_config import ClipConfig
from datasets.tfds_dataset import TfdsDataset
from errors import DataError
from tests.datasets import images

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


def test_the_mock_data_of_tfds(data_dir):
  with tfds.testing.mock_data(num_examples=5, data_dir=str(data_dir)):
    mocked = TfdsDataset('tfds:tiny_images', 'train', TASKS)
    assert len(mocked) == 5
    with stream(mocked, threads=2) as batches:
      batch = next(batches)
    assert batch['inputs'].shape == (4, 1, 16, 16, 3) and np.ptp(batch['inputs']) > 0
    assert set(batch['label']['what'].tolist()) <= {0, 1, 2}


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


def test_another_version_is_not_prepared(data_dir):
  message = refused(f'tfds:tiny_images:1.0.0@{data_dir}')
  assert 'finds no files of this name' in message and "builder('tiny_images:1.0.0'" in message


def test_another_format_is_refused(data_dir, tmp_path):
  shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
  for path in (tmp_path / 'tiny_images' / '1.2.0').iterdir():
    if path.name == 'dataset_info.json':
      path.write_text(path.read_text().replace('array_record', 'tfrecord'))
    path.rename(path.with_name(path.name.replace('array_record', 'tfrecord')))
  message = refused(f'tfds:tiny_images@{tmp_path}')
  folder = f'{tmp_path}/tiny_images/1.2.0'
  assert f"{folder} is prepared as ['tfrecord']" in message
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
