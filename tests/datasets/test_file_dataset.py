import pickle
import shutil

import numpy as np
import pytest

from datasets.batches import Loading, train_batches
from datasets.clip_config import ClipConfig
from datasets.file_dataset import FileDataset
from datasets.record_dataset import RecordDataset
from datasets.sources import open_dataset
from errors import DataError
from tests.datasets.videos import number_in, write_audio, write_video

TASKS = {'action': 'label'}
CLIP = ClipConfig(frames=3, stride=2, resize=48, crop=48)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Two splits as csv files; one video is used twice, one row has no file, one no picture."""
  root = tmp_path_factory.mktemp('own')
  (root / 'a b').mkdir()
  write_video(root / 'a b' / 'jump ü.mp4', 40)
  write_video(root / 'run.mp4', 25)
  write_audio(root / 'sound.mp4')
  (root / 'train.csv').write_text(
    'path,label,start,end\n'
    'a b/jump ü.mp4,jump,,\n'
    'a b/jump ü.mp4,land,0.8,1.2\n'
    'run.mp4,run,,\n'
    'gone.mp4,run,,\n'
    'sound.mp4,run,,\n'
    'run.mp4,run,7,8\n',
    encoding='utf-8',
  )
  (root / 'test.csv').write_text('path,label\nrun.mp4,walk\n')
  return root


@pytest.fixture(scope='module')
def dataset(folder):
  return open_dataset(folder, 'train', TASKS)


def numbers(dataset, row, indices):
  return [number_in(frame) for frame in dataset.frames(row, np.array(indices))]


def test_facts(dataset):
  assert isinstance(dataset, FileDataset)
  assert len(dataset) == 3
  assert dataset.split_sizes == {'train': 6, 'test': 1}
  assert dataset.class_names('action') == ('jump', 'land', 'run', 'walk')
  assert dataset.num_frames.tolist() == [40, 10, 25]
  np.testing.assert_allclose(dataset.frame_rate, 25.0)
  assert [int(dataset.labels(row)['action']) for row in range(3)] == [0, 1, 2]
  assert dataset.key(1) == 'a b/jump ü.mp4@0.8-1.2'


def test_which_examples_are_of_one_video(folder, dataset):
  test = open_dataset(folder, 'test', TASKS)
  assert [dataset.identity(row) == test.identity(0) for row in range(3)] == [False, False, True]
  assert dataset.identity(0) != dataset.identity(1)  # Other frames of it.


def test_numbered_keys_of_other_files_are_other_videos(folder, dataset, tmp_path, monkeypatch):
  own = tmp_path / 'own'
  shutil.copytree(folder, own)
  (own / 'train.csv').write_text('path,label,key\na b/jump ü.mp4,jump,0\nrun.mp4,run,1\n')
  (own / 'test.csv').write_text('path,label,key\nrun.mp4,run,0\n')
  train, test = (open_dataset(own, split, TASKS) for split in ('train', 'test'))
  assert [train.key(0), test.key(0)] == ['0', '0']
  assert [train.identity(row) == test.identity(0) for row in range(2)] == [False, True]
  monkeypatch.chdir(tmp_path)
  assert open_dataset('./own/', 'test', TASKS).identity(0) == test.identity(0)
  assert test.identity(0) != dataset.identity(2)  # A copy.


def test_defects_name_row_and_file(dataset):
  gone, sound, late = dataset.defects
  assert gone.startswith('row 5: ')
  assert 'gone.mp4' in gone
  assert 'sound.mp4' in sound
  assert late.startswith('row 7: run.mp4: nothing to see from 7 s to 8 s')


def test_frames_are_those_of_the_clip(dataset):
  assert numbers(dataset, 0, [0, 1, 17, 39]) == [0, 1, 17, 39]
  assert numbers(dataset, 1, [0, 4, 9]) == [20, 24, 29]  # from 0.8 s at 25 a second


def test_batches_are_like_those_of_records(dataset, tiny_source):
  with train_batches(dataset, CLIP, batch_size=3, seed=0, loading=Loading(2)) as batches:
    batch = next(batches)
  other = train_batches(
    RecordDataset(tiny_source, 'train', {'action': 'verb'}),
    ClipConfig(frames=3, stride=2, resize=24, crop=16),
    batch_size=3,
    seed=0,
  ).batch_at(0)
  assert batch.keys() == other.keys()
  assert {k: v.dtype for k, v in batch.items() if k != 'label'} == {
    k: v.dtype for k, v in other.items() if k != 'label'
  }
  assert batch['inputs'].shape == (3, 3, 48, 48, 3)
  for inputs, row in zip(batch['inputs'], batch['row']):
    seen = [number_in_crop(frame) for frame in inputs]
    assert np.diff(seen).tolist() == [2, 2]
    assert (20 if row == 1 else 0) <= seen[0]


def number_in_crop(frame):
  """The lower six bits, which any crop of 48 of 64 columns shows only in part: by brute force."""
  from tests.datasets.videos import picture

  wholes = [picture(n).astype(int) for n in range(45)]
  errors = [
    min(np.abs(whole[:, left : left + 48] - frame).mean() for left in range(17)) for whole in wholes
  ]
  return int(np.argmin(errors))


def test_worker_processes_read_it_too(dataset):
  copy = pickle.loads(pickle.dumps(dataset))
  assert copy.fingerprint == dataset.fingerprint
  assert numbers(copy, 1, [3]) == [23]


def test_one_csv_with_a_split_column(tmp_path):
  write_video(tmp_path / 'v.mp4', 10)
  text = 'path,label,split,start\nv.mp4,x,train,\nv.mp4,y,test,0.1\n'
  (tmp_path / 'clips.csv').write_text(text)
  assert open_dataset(tmp_path, 'test', TASKS).class_names('action') == ('x', 'y')
  (tmp_path / 'clips.csv').write_text('path,label\nv.mp4,x\n')
  with pytest.raises(DataError, match=r'clips\.csv: has no column `split`'):
    open_dataset(tmp_path, 'train', TASKS)


def test_class_folders_and_a_list_of_classes(tmp_path):
  for split, name in (('train', 'walk'), ('train', 'jump'), ('test', 'walk')):
    (tmp_path / split / name).mkdir(parents=True, exist_ok=True)
    write_video(tmp_path / split / name / 'v.mp4', 4)
  dataset = open_dataset(tmp_path, 'train', TASKS)
  assert dataset.class_names('action') == ('jump', 'walk')
  assert [dataset.key(row) for row in range(2)] == ['jump/v.mp4', 'walk/v.mp4']
  test = open_dataset(tmp_path, 'test', TASKS)
  assert test.key(0) == dataset.key(1) and test.identity(0) != dataset.identity(1)
  assert numbers(dataset, 1, [2]) == [2]
  (tmp_path / 'classes.txt').write_text('walk\nrest\njump\n')
  dataset = open_dataset(tmp_path, 'test', TASKS)
  assert dataset.class_names('action') == ('walk', 'rest', 'jump')
  assert dataset.labels(0)['action'] == 0


def test_what_is_missing(tmp_path, folder):
  with pytest.raises(DataError, match=r"no split 'val'; there are \['test', 'train'\]"):
    open_dataset(folder, 'val', TASKS)
  with pytest.raises(DataError, match=r"label group 'verb'; there are \['label'\]"):
    open_dataset(folder, 'train', {'v': 'verb'})
  with pytest.raises(DataError, match=r'manifest\.json: no such file.*tools\.build_records'):
    open_dataset(tmp_path, 'train', TASKS)
  (tmp_path / 'train.csv').write_text('path,label\ngone.mp4,x\n')
  with pytest.raises(
    DataError, match=r"no video of split 'train' can be used; the first of 1: row 2"
  ):
    open_dataset(tmp_path, 'train', TASKS)


def test_content_decides_the_fingerprint(folder, tmp_path, dataset):
  copy = shutil.copytree(folder, tmp_path / 'elsewhere')
  assert open_dataset(copy, 'train', TASKS).fingerprint == dataset.fingerprint
  text = (copy / 'train.csv').read_text().replace('0.8,1.2', '0.8,1.3')
  (copy / 'train.csv').write_text(text)
  assert open_dataset(copy, 'train', TASKS).fingerprint != dataset.fingerprint


def test_a_video_that_vanishes(folder, tmp_path):
  copy = shutil.copytree(folder, tmp_path / 'copy')
  dataset = open_dataset(copy, 'train', TASKS)
  (copy / 'run.mp4').unlink()
  with pytest.raises(DataError, match=r"run\.mp4.*\(row 2, 'run\.mp4'\)"):
    numbers(dataset, 2, [0])
