import collections
import subprocess
import sys

import numpy as np
import pytest

from datasets import demo, manifest
from datasets.batches import eval_batches
from datasets.clip_config import ClipConfig
from datasets.record_dataset import RecordDataset
from errors import DataError


def read(dataset, row, indices):
  """The frames, uint8 [T, H, W, 3]."""
  return np.stack([frame.copy() for frame in dataset.frames(row, np.array(indices))])


def encoded_frames(dataset, row):
  return list(dataset.encoded_frames(row, np.arange(dataset.num_frames[row])))


def partner_rows(dataset):
  """Rows of the two clips of each pair, the first class first."""
  pairs = collections.defaultdict(dict)
  for row in range(len(dataset)):
    number = dataset.key(row).split('-')[1]
    pairs[number][int(dataset.labels(row)['label'])] = row
  return [tuple(rows[label] for label in sorted(rows)) for rows in pairs.values()]


@pytest.mark.parametrize(('split', 'count'), [('train', 32), ('test', 16)])
def test_balanced(demo_data_dir, split, count):
  dataset = RecordDataset(demo_data_dir, split, {'label': demo.GROUP})
  labels = [int(dataset.labels(row)['label']) for row in range(len(dataset))]
  assert len(labels) == count
  assert np.bincount(labels).tolist() == [count // 8] * 8
  assert dataset.class_names('label') == demo.CLASSES
  assert set(dataset.num_frames) == {demo.NUM_FRAMES}


@pytest.mark.parametrize('split', ['train', 'test'])
def test_partners_are_reversed_frame_for_frame(demo_data_dir, split):
  dataset = RecordDataset(demo_data_dir, split, {'label': demo.GROUP})
  pairs = partner_rows(dataset)
  assert len(pairs) == len(dataset) // 2
  for first, second in pairs:
    labels = [int(dataset.labels(row)['label']) for row in (first, second)]
    assert labels in ([0, 1], [2, 3], [4, 5], [6, 7])
    assert encoded_frames(dataset, first) == encoded_frames(dataset, second)[::-1]


def test_centre_views_of_partners_hold_the_same_frames(demo_data_dir):
  dataset = RecordDataset(demo_data_dir, 'test', {'label': demo.GROUP})
  clip = ClipConfig(frames=8, stride=2, resize=32, crop=32)
  inputs = eval_batches(dataset, clip, batch_size=16).batch_at(0)['inputs'][:, 0]
  for first, second in partner_rows(dataset):
    np.testing.assert_array_equal(inputs[first], inputs[second][::-1])
    moved = np.abs(inputs[first][0].astype(int) - inputs[first][-1]).max(axis=-1)
    assert np.mean(moved > 30) > 0.02  # part of the picture has changed


def centre_of_shape(frames):
  """Mean position (x, y) and area of what differs from the median colour, per frame."""
  grey = frames.astype(float).mean(axis=-1)
  shape = np.abs(grey - np.median(grey, axis=(1, 2), keepdims=True)) > 60
  y, x = np.mgrid[0 : grey.shape[1], 0 : grey.shape[2]]
  area = shape.sum(axis=(1, 2))
  return np.array([[(x * s).sum() / s.sum(), (y * s).sum() / s.sum()] for s in shape]), area


@pytest.mark.parametrize(
  ('name', 'axis', 'sign'),
  [('moves left', 0, -1), ('moves right', 0, 1), ('moves up', 1, -1), ('moves down', 1, 1)],
)
def test_moves_go_where_they_say(demo_data_dir, name, axis, sign):
  dataset = RecordDataset(demo_data_dir, 'train', {'label': demo.GROUP})
  rows = [r for r in range(len(dataset)) if dataset.labels(r)['label'] == demo.CLASSES.index(name)]
  for row in rows:
    centres, _ = centre_of_shape(read(dataset, row, [2, 22]))
    assert sign * (centres[1] - centres[0])[axis] > 10


def test_growing_grows(demo_data_dir):
  dataset = RecordDataset(demo_data_dir, 'train', {'label': demo.GROUP})
  for row in range(len(dataset)):
    if dataset.labels(row)['label'] == demo.CLASSES.index('grows'):
      _, area = centre_of_shape(read(dataset, row, [2, 22]))
      assert area[1] > 1.5 * area[0]


def test_turning_clockwise_is_clockwise_on_the_screen():
  # y points down, so clockwise takes a point on the right (1, 0) down to (0, 1).
  scene = demo._scene(np.random.default_rng(0), pair=3)
  assert np.all(np.diff(scene.actors[0].angle) > 0)
  arrow = demo.Actor(
    outline=demo.OUTLINES[0],
    colour=np.full(3, 255, np.uint8),
    centre=np.full((2, 2), demo.SIZE / 2),
    radius=np.full(2, 24.0),
    angle=np.array([0.0, np.pi / 2]),
    opacity=np.ones(2, np.float32),
  )
  black = np.zeros((demo.SIZE, demo.SIZE, 3), np.float32)
  before, after = demo.render(demo.Scene(black, (arrow,), np.zeros((2, *black.shape), np.int16)))
  tip = demo.SIZE // 2 + 20
  assert (before[32, tip, 0], before[tip, 32, 0]) == (255, 0)
  assert (after[32, tip, 0], after[tip, 32, 0]) == (0, 255)


def test_same_seed_same_bytes(tmp_path):
  made = [
    demo.write(tmp_path / str(i), seed=seed, train=8, test=8) for i, seed in enumerate((4, 4, 5))
  ]
  names = [shard.name for split in made[0].splits.values() for shard in split.shards]
  files = [{name: (tmp_path / str(i) / name).read_bytes() for name in names} for i in range(3)]
  assert files[0] == files[1]
  assert made[0] == made[1]
  assert all(files[0][name] != files[2][name] for name in names)


def test_same_request_is_not_written_again(tmp_path, monkeypatch):
  made = demo.write(tmp_path, seed=0, train=8, test=8)
  assert (tmp_path / 'train.index.npz').exists()
  monkeypatch.setattr(demo, '_clips', None)
  assert demo.write(tmp_path, seed=0, train=8, test=8) == made


@pytest.mark.parametrize('change', [{'seed': 1}, {'train': 16}, {'test': 8}])
def test_other_request_is_refused(demo_data_dir, change):
  with pytest.raises(DataError, match='holds another dataset'):
    demo.write(demo_data_dir, **{'seed': 0, 'train': 32, 'test': 16, **change})


def test_directory_of_another_dataset(tiny_dir):
  before = (tiny_dir / manifest.FILE_NAME).read_bytes()
  with pytest.raises(DataError, match='holds another dataset'):
    demo.write(tiny_dir, train=8, test=8)
  assert (tiny_dir / manifest.FILE_NAME).read_bytes() == before


@pytest.mark.parametrize('count', [0, 4, 12, -8])
def test_unbalanced_sizes(tmp_path, count):
  with pytest.raises(DataError, match=f'train is {count}, expected a positive multiple of 8'):
    demo.write(tmp_path, train=count)


def run_tool(*arguments):
  command = [sys.executable, '-m', 'tools.make_demo_data', *arguments]
  return subprocess.run(command, capture_output=True, text=True, check=False)


def test_tool(demo_data_dir):
  done = run_tool(f'--out={demo_data_dir}', '--train=32', '--test=16')
  assert done.returncode == 0, done.stderr
  assert '32 train, 16 test clips of 8 classes' in done.stdout
  refused = run_tool(f'--out={demo_data_dir}', '--seed=9')
  assert refused.returncode == 1
  assert 'DataError: ' in refused.stderr
  assert 'Traceback' not in refused.stderr
  assert 'python -m tools.make_demo_data --out=data/demo' in run_tool('--help').stdout
