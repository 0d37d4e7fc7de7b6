import pickle
import zlib

import cv2
import numpy as np
import pytest
import simplejpeg
import tensorflow as tf

from datasets import index, manifest, records
from datasets.record_dataset import RecordDataset, decode_frames
from errors import DataError
from tests.datasets.conftest import make_frames

TASKS = {'verbs': 'verb', 'marks': 'tags'}


def random_frame(height, width, seed=0):
  """A smooth random picture, uint8 [H, W, 3]."""
  coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
  return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def decoded(*encoded):
  return [frame.copy() for frame in decode_frames(encoded)]


def test_decode_jpeg_png_and_grey():
  frame = random_frame(32, 40)
  jpeg = simplejpeg.encode_jpeg(frame, quality=90, colorsubsampling='420')
  png = cv2.imencode('.png', frame[:, :, ::-1])[1].tobytes()
  grey = simplejpeg.encode_jpeg(frame[:, :, :1].copy(), colorspace='GRAY', quality=100)
  found = decoded(jpeg, png, grey, jpeg)
  np.testing.assert_array_equal(found[0], tf.io.decode_jpeg(jpeg).numpy())
  np.testing.assert_array_equal(found[1], frame)
  assert found[2].shape == frame.shape
  np.testing.assert_array_equal(found[2][..., 0], found[2][..., 2])
  np.testing.assert_array_equal(found[3], found[0])


@pytest.mark.parametrize('data', [b'', b'garbage', b'\xff\xd8 garbage', b'\x89PNG\r\n\x1a\n'])
def test_undecodable_frames(data):
  good = simplejpeg.encode_jpeg(random_frame(16, 16))
  with pytest.raises(DataError, match='frame 1 of x: cannot be decoded'):
    list(decode_frames([good, data], lambda i: f'frame {i} of x'))


def test_truncated_jpeg():
  good = simplejpeg.encode_jpeg(random_frame(64, 64))
  with pytest.raises(DataError, match='0: cannot be decoded'):
    list(decode_frames([good[: len(good) // 2]]))


@pytest.mark.parametrize('sizes', [(16, 24), (24, 16)])
def test_frames_of_two_sizes(sizes):
  encoded = [simplejpeg.encode_jpeg(random_frame(16, size)) for size in sizes]
  message = f"1: is 16x{sizes[1]} px, the clip's first frame 16x{sizes[0]}"
  with pytest.raises(DataError, match=message):
    list(decode_frames(encoded))


def test_facts(tiny_source):
  dataset = RecordDataset(tiny_source, 'train', TASKS)
  assert len(dataset) == 10
  assert dataset.split_sizes == {'train': 10, 'test': 7}
  assert dataset.fingerprint == dataset.manifest.sha256
  assert dataset.frame_rate.tolist() == [25.0] * 10
  assert dataset.defects == ()


def test_travels_to_a_worker_as_its_arguments(tiny_source):
  dataset = RecordDataset(tiny_source, 'train', TASKS)
  packed = pickle.dumps(dataset)
  assert len(packed) < 1000
  copy = pickle.loads(packed)
  indices = np.array([1, 3])
  for frame, other in zip(dataset.frames(2, indices), copy.frames(2, indices), strict=True):
    np.testing.assert_array_equal(frame, other)


def test_which_examples_are_of_one_video(tmp_path):
  keys = {
    'train': ['0347ZoDXyP0_000005_000015', 'x/a.mp4', 'x/b.mp4', 'clip'],
    'test': ['v_0347ZoDXyP0.mp4@1-9', 'x/a.mp4', 'x/b.mp4', 'clip'],
  }
  splits = []
  for split, names in keys.items():
    # The frames of x/a.mp4 are other ones in either split: its videos lay in two folders.
    clips = [0, 1 + (split == 'test'), 3, 4]
    examples = [
      records.encode_example(make_frames(clip, 2), [0], name, height=24, width=32, frame_rate=25.0)
      for clip, name in zip(clips, names, strict=True)
    ]
    splits.append(records.write_split(tmp_path, split, examples, 1))
  manifest.write(tmp_path, manifest.create(splits, {'label': (['a'], False)}))
  train, test = (RecordDataset(tmp_path, split, {}) for split in keys)
  found = [train.identity(row) == test.identity(row) for row in range(4)]
  assert found == [True, False, True, True]
  assert train.identity(0) == ('0347ZoDXyP0',) and train.identity(3)[0] == 'clip'
  crcs = np.array([zlib.crc32(frame) for frame in make_frames(4, 2)], np.uint32)
  assert train.identity(3)[1:] == (f'{zlib.crc32(crcs):08x}',)


def test_numbered_keys_of_other_frames_are_other_videos_however_the_folder_is_spelt(
  tmp_path, monkeypatch
):
  splits = []
  for split, first in (('train', 0), ('test', 3)):
    examples = [
      records.encode_example(make_frames(first + i, 2), [0], str(i), height=24, width=32, frame_rate=25.0)
      for i in range(3)
    ]  # fmt: skip
    splits.append(records.write_split(tmp_path, split, examples, 1))
  manifest.write(tmp_path, manifest.create(splits, {'label': (['a'], False)}))
  train, test = (RecordDataset(tmp_path, split, {}) for split in ('train', 'test'))
  assert not {train.identity(i) for i in range(3)} & {test.identity(i) for i in range(3)}
  monkeypatch.chdir(tmp_path.parent)
  monkeypatch.setattr(index, 'read_spans', None)  # No shard is read for it.
  for spelt in (tmp_path.name, f'./{tmp_path.name}/', f'{tmp_path}/.'):
    other = RecordDataset(spelt, 'train', {})
    assert [other.identity(i) for i in range(3)] == [train.identity(i) for i in range(3)]
