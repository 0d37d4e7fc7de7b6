import dataclasses
import os
import re
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import simplejpeg

from datasets import manifest, records
from datasets.batches import Loading, eval_batches, train_batches
from datasets.clip_config import ClipConfig
from datasets.color import ColorJitterConfig
from datasets.record_dataset import RecordDataset
from errors import ConfigError, DataError

TASKS = {'verbs': 'verb', 'marks': 'tags'}
CLIP = ClipConfig(frames=3, stride=2, resize=24, crop=16)
AUGMENTED = ClipConfig(
  frames=3, stride=2, resize=20, crop=16, scale_jitter=(0.9, 1.3), flip_prob=0.5
)


@pytest.fixture(scope='module')
def train(tiny_source):
  return RecordDataset(tiny_source, 'train', TASKS)


@pytest.fixture(scope='module')
def held_out(tiny_source):
  return RecordDataset(tiny_source, 'test', TASKS)


def assert_same(batch, other):
  assert batch.keys() == other.keys()
  assert batch['label'].keys() == other['label'].keys()
  for name in ('inputs', 'batch_mask', 'row'):
    np.testing.assert_array_equal(batch[name], other[name])
  for task in batch['label']:
    np.testing.assert_array_equal(batch['label'][task], other['label'][task])


def read(dataset, row, indices):
  """The frames, as arrays of their own."""
  return [frame.copy() for frame in dataset.frames(row, np.array(indices))]


def clip_number(dataset, row):
  return int(dataset.key(int(row)).removeprefix('clip'))


def reading_threads():
  return [thread for thread in threading.enumerate() if re.match('grain|reader', thread.name)]


def assert_threads_end():
  deadline = time.monotonic() + 10
  while reading_threads() and time.monotonic() < deadline:
    time.sleep(0.01)
  assert reading_threads() == []


def test_dataset_facts(train):
  assert len(train) == 10
  assert train.tasks == ('verbs', 'marks')
  assert train.class_names('verbs') == ('open', 'close', 'cut')
  assert (train.num_classes('verbs'), train.num_classes('marks')) == (3, 4)
  assert (train.multi_label('verbs'), train.multi_label('marks')) == (False, True)
  assert train.num_frames.tolist() == [5 + clip_number(train, row) for row in range(10)]
  row = [train.key(row) for row in range(10)].index('clip5')
  labels = train.labels(row)
  assert labels['verbs'] == 2
  assert labels['marks'].tolist() == [0, 1, 0, 1]


def test_unknown_group(tiny_source):
  with pytest.raises(DataError, match=r"'nouns' names the label group 'noun'.*\['tags', 'verb'\]"):
    RecordDataset(tiny_source, 'train', {'nouns': 'noun'})


def test_batch_layout(train):
  with train_batches(train, CLIP, batch_size=4, seed=0) as batches:
    batch = next(batches)
  assert batch['inputs'].shape == (4, 3, 16, 16, 3)
  assert batch['inputs'].dtype == np.uint8
  assert batch['label']['verbs'].shape == (4,)
  assert batch['label']['verbs'].dtype == np.int32
  assert batch['label']['marks'].shape == (4, 4)
  assert batch['label']['marks'].dtype == np.float32
  assert batch['batch_mask'].tolist() == [1.0] * 4
  assert batch['batch_mask'].dtype == np.float32
  assert batch['row'].dtype == np.int64


def test_training_clips_hold_the_sampled_frames(train):
  batch = train_batches(train, CLIP, batch_size=10, seed=3).batch_at(0)
  for inputs, row in zip(batch['inputs'], batch['row']):
    number = clip_number(train, row)
    levels = inputs[:, 0, 0, 0].astype(int)
    first = round((levels[0] - 10 * number) / 4)
    assert 0 <= first <= number  # 5 + number frames, a span of 5
    assert np.abs(levels - (10 * number + 4 * (first + np.array([0, 2, 4])))).max() <= 1


def test_labels_follow_the_rows(train):
  batch = train_batches(train, CLIP, batch_size=10, seed=3).batch_at(0)
  numbers = np.array([clip_number(train, row) for row in batch['row']])
  assert batch['label']['verbs'].tolist() == (numbers % 3).tolist()
  wanted = [[float(k in (number % 4, 3)) for k in range(4)] for number in numbers]
  assert batch['label']['marks'].tolist() == wanted


def test_each_example_once_per_epoch_and_epochs_run_on(train):
  batches = train_batches(train, CLIP, batch_size=4, seed=1)
  rows = np.concatenate([batches.batch_at(step)['row'] for step in range(5)])
  assert sorted(rows[:10]) == list(range(10))
  assert sorted(rows[10:]) == list(range(10))
  assert rows[:10].tolist() != rows[10:].tolist()


def test_seed_decides(train):
  first = train_batches(train, AUGMENTED, batch_size=10, seed=0).batch_at(0)
  assert_same(first, train_batches(train, AUGMENTED, batch_size=10, seed=0).batch_at(0))
  other = train_batches(train, AUGMENTED, batch_size=10, seed=1).batch_at(0)
  assert first['row'].tolist() != other['row'].tolist()


def test_clips_differ_between_epochs(train):
  batches = train_batches(train, AUGMENTED, batch_size=10, seed=0)
  first, second = batches.batch_at(0), batches.batch_at(1)
  order = np.argsort(first['row']), np.argsort(second['row'])
  same = [
    np.array_equal(a, b) for a, b in zip(first['inputs'][order[0]], second['inputs'][order[1]])
  ]
  assert not all(same)


@pytest.mark.parametrize('num_threads', [0, 1, 4])
def test_thread_count_changes_nothing(train, num_threads):
  reference = train_batches(train, AUGMENTED, batch_size=4, seed=5)
  with train_batches(
    train, AUGMENTED, batch_size=4, seed=5, loading=Loading(num_threads=num_threads)
  ) as batches:
    for step in range(6):
      assert batches.step == step
      assert_same(next(batches), reference.batch_at(step))


@pytest.mark.parametrize('num_processes', [1, 2])
def test_worker_count_changes_nothing(train, held_out, num_processes):
  loading = Loading(num_threads=2, num_processes=num_processes)
  reference = train_batches(train, AUGMENTED, batch_size=4, seed=5)
  with train_batches(train, AUGMENTED, batch_size=4, seed=5, start_step=3, loading=loading) as made:
    for step in range(3, 8):
      assert made.step == step
      assert_same(next(made), reference.batch_at(step))
  passes = [
    list(eval_batches(held_out, CLIP, batch_size=3, loading=each)) for each in (loading, Loading())
  ]
  assert len(passes[0]) == len(passes[1]) == 3
  for batch, other in zip(*passes):
    assert_same(batch, other)


def test_start_step_continues(train):
  with (
    train_batches(train, AUGMENTED, batch_size=4, seed=2) as whole,
    train_batches(train, AUGMENTED, batch_size=4, seed=2, start_step=3) as resumed,
  ):
    for _ in range(3):
      next(whole)
    assert whole.step == resumed.step == 3
    for _ in range(3):
      assert_same(next(resumed), next(whole))


def concatenated(batches):
  merged = {
    name: np.concatenate([b[name] for b in batches]) for name in batches[0] if name != 'label'
  }
  tasks = batches[0]['label']
  merged['label'] = {task: np.concatenate([b['label'][task] for b in batches]) for task in tasks}
  return merged


def test_hosts_share_the_batch(train, held_out):
  one = train_batches(train, AUGMENTED, batch_size=6, seed=0)
  hosts = [
    train_batches(train, AUGMENTED, batch_size=6, seed=0, places=places)
    for places in (range(3), range(3, 6))
  ]
  for step in (0, 1, 4):
    assert_same(concatenated([host.batch_at(step) for host in hosts]), one.batch_at(step))
  scattered = train_batches(train, AUGMENTED, batch_size=6, seed=0, places=[1, 2, 5])
  for step in (0, 4):
    rows = one.batch_at(step)['row'][[1, 2, 5]]
    np.testing.assert_array_equal(scattered.batch_at(step)['row'], rows)
  one = eval_batches(held_out, CLIP, batch_size=4)
  hosts = [eval_batches(held_out, CLIP, batch_size=4, places=places) for places in ([0, 1], [2, 3])]
  assert [batches.num_steps for batches in (one, *hosts)] == [2, 2, 2]
  for step in range(2):
    assert_same(concatenated([host.batch_at(step) for host in hosts]), one.batch_at(step))


@pytest.mark.parametrize('num_threads', [0, 3])
def test_eval_pass(held_out, num_threads):
  batches = list(
    eval_batches(held_out, CLIP, batch_size=4, loading=Loading(num_threads=num_threads))
  )
  assert [batch['row'].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, -1]]
  assert [batch['batch_mask'].tolist() for batch in batches] == [[1.0] * 4, [1.0, 1.0, 1.0, 0.0]]
  assert batches[0]['inputs'].shape == batches[1]['inputs'].shape == (4, 1, 3, 16, 16, 3)
  padding = {'inputs': batches[1]['inputs'][3], **{k: v[3] for k, v in batches[1]['label'].items()}}
  assert all(np.all(value == 0) for value in padding.values())
  assert batches[1]['label']['verbs'].tolist() == [4 % 3, 5 % 3, 6 % 3, 0]


def test_more_hosts_than_examples_left(held_out):
  batches = eval_batches(held_out, CLIP, batch_size=8, places=[7])
  assert batches.num_steps == 1
  only = next(batches)
  assert only['row'].tolist() == [-1]
  assert only['batch_mask'].tolist() == [0.0]
  with pytest.raises(StopIteration):
    next(batches)


def test_views_are_crop_major(tmp_path):
  # One clip of 9 frames whose grey level rises from left to right and over time.
  ramp = np.arange(48, dtype=np.uint8)[None, :, None] * np.ones((24, 1, 3), np.uint8)
  frames = [
    simplejpeg.encode_jpeg(ramp + np.uint8(20 * i), quality=100, colorsubsampling='444')
    for i in range(9)
  ]
  example = records.encode_example(frames, [0], 'k', height=24, width=48, frame_rate=1.0)
  split = records.write_split(tmp_path, 'test', [example], 1)
  manifest.write(tmp_path, manifest.create([split], {'g': (['x'], False)}))
  dataset = RecordDataset(tmp_path, 'test', {'t': 'g'})
  clip = ClipConfig(frames=2, stride=2, resize=24, crop=24)
  batches = eval_batches(dataset, clip, batch_size=1, temporal_views=2, spatial_views=3)
  inputs = next(batches)['inputs']
  batches.close()
  assert inputs.shape == (1, 6, 2, 24, 24, 3)
  # Offsets 0 and 6, crops at x = 0, 12 and 24.
  corner = inputs[0, :, :, 0, 0, 0].astype(int)
  wanted = [[x + 20 * t, x + 20 * (t + 2)] for x in (0, 12, 24) for t in (0, 6)]
  assert np.abs(corner - wanted).max() <= 2


def test_short_clips(tiny_source, train):
  row = int(np.argmin(train.num_frames))  # five frames
  for mode, wanted in (('loop', [0, 2, 4, 1, 3]), ('hold', [0, 2, 4, 4, 4])):
    clip = ClipConfig(frames=5, stride=2, resize=24, crop=24, short_clip=mode)
    inputs = eval_batches(train, clip, batch_size=10).batch_at(0)['inputs'][row, 0]
    assert np.abs(inputs[:, 0, 0, 0].astype(int) - 4 * np.array(wanted)).max() <= 1


def test_only_sampled_frames_are_decoded_once(train, monkeypatch):
  seen = []
  original = RecordDataset.frames

  def spy(self, row, indices):
    seen.append(np.asarray(indices).tolist())
    return original(self, row, indices)

  monkeypatch.setattr(RecordDataset, 'frames', spy)
  clip = ClipConfig(frames=8, stride=2, resize=24, crop=16)
  row = int(np.argmin(train.num_frames))
  eval_batches(train, clip, batch_size=1, temporal_views=3).batch_at(row)
  assert seen == [[0, 1, 2, 3, 4]]


def flip_byte(path, position):
  data = bytearray(path.read_bytes())
  data[position] ^= 0x10
  path.write_bytes(data)


def test_flipped_byte_in_a_frame(tiny_dir):
  dataset = RecordDataset(tiny_dir, 'test', TASKS)
  offsets, lengths, _ = dataset._index.frames(2)
  path = tiny_dir / 'test-00000-of-00001.tfrecord'
  flip_byte(path, int(offsets[3] + lengths[3] // 2))
  message = rf"{path.name}: byte {offsets[3]}, frame 3 of 'clip2' \(row 2\): the bytes differ"
  clip = ClipConfig(frames=7, stride=1, resize=24, crop=16)
  batches = eval_batches(dataset, clip, batch_size=7, loading=Loading(num_threads=2))
  with pytest.raises(DataError, match=message):
    next(batches)
  assert_threads_end()
  with pytest.raises(DataError, match=message):
    read(dataset, 2, [3])
  assert len(read(dataset, 2, [2, 4])) == 2


def test_undecodable_frame_names_its_place(tmp_path):
  frames = [simplejpeg.encode_jpeg(np.zeros((8, 8, 3), np.uint8)), b'\xff\xd8 no picture']
  example = records.encode_example(frames, [0], 'the key', height=8, width=8, frame_rate=1.0)
  split = records.write_split(tmp_path, 'train', [example], 1)
  manifest.write(tmp_path, manifest.create([split], {'g': (['x'], False)}))
  dataset = RecordDataset(tmp_path, 'train', {'t': 'g'})
  with pytest.raises(DataError, match=r"tfrecord: byte \d+, frame 1 of 'the key'.*cannot be dec"):
    read(dataset, 0, [0, 1])


def test_truncated_shard(tiny_dir):
  path = tiny_dir / 'train-00001-of-00003.tfrecord'
  dataset = RecordDataset(tiny_dir, 'train', TASKS)
  path.write_bytes(path.read_bytes()[:-400])
  with pytest.raises(DataError, match=r'train-00001-of-00003\.tfrecord: has \d+ bytes'):
    RecordDataset(tiny_dir, 'train', TASKS)
  row = int(np.flatnonzero(dataset._index.shard == 1)[-1])
  last = int(dataset.num_frames[row]) - 1
  with pytest.raises(DataError, match=rf'train-00001.*frame {last} .*the bytes differ'):
    read(dataset, row, [0, last])


def test_shard_vanishes(tiny_dir):
  dataset = RecordDataset(tiny_dir, 'test', TASKS)
  (tiny_dir / 'test-00000-of-00001.tfrecord').unlink()
  with pytest.raises(DataError, match=r'test-00000-of-00001\.tfrecord: shard is missing'):
    read(dataset, 0, [0])


def test_missing_manifest_and_split(tiny_dir):
  with pytest.raises(DataError, match="no split 'validation'"):
    RecordDataset(tiny_dir, 'validation', TASKS)
  (tiny_dir / 'manifest.json').unlink()
  with pytest.raises(DataError, match=r'manifest\.json: no such file'):
    RecordDataset(tiny_dir, 'train', TASKS)


def test_empty_split(tiny_dir):
  text = (tiny_dir / 'manifest.json').read_text()
  (tiny_dir / 'manifest.json').write_text(
    text.replace('"splits": {', '"splits": {"empty": {"examples": 0, "shards": []},')
  )
  with pytest.raises(DataError, match="split 'empty' holds no examples"):
    RecordDataset(tiny_dir, 'train', TASKS)


def test_batches_that_are_held_are_not_written_over(train):
  def batches():
    return train_batches(train, AUGMENTED, batch_size=4, seed=0, loading=Loading(3))

  with batches() as held, batches() as copied:
    kept = [next(held)['inputs'][1] for _ in range(20)]
    for inputs in kept:
      np.testing.assert_array_equal(inputs, next(copied)['inputs'][1].copy())


def test_memory_of_batches_is_used_again(train):
  with train_batches(train, AUGMENTED, batch_size=4, seed=0, loading=Loading(3)) as batches:
    places = {next(batches)['inputs'].__array_interface__['data'][0] for _ in range(40)}
  # One with the caller, one waiting for it, and those in the making and ready.
  assert len(places) <= 6


def test_threads_end_on_close(train, held_out):
  batches = train_batches(train, CLIP, batch_size=4, seed=0, loading=Loading(num_threads=4))
  next(batches)
  assert reading_threads()
  batches.close()
  batches.close()
  assert_threads_end()
  with pytest.raises(StopIteration):
    next(batches)
  for _ in eval_batches(held_out, CLIP, batch_size=4, loading=Loading(num_threads=2)):
    pass
  assert_threads_end()


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'batch_size': 0}, 'batch_size'),
    ({'batch_size': 4, 'places': [3, 4]}, r'places: expected ascending numbers below .*=4'),
    ({'batch_size': 4, 'places': [1, 0]}, r'places: expected ascending.*got \[1, 0\]'),
    ({'batch_size': 4, 'places': []}, 'places: expected ascending'),
    ({'batch_size': 4, 'seed': -1}, 'seed: expected at least 0, got -1'),
    ({'batch_size': 4, 'start_step': -1}, 'start_step'),
    ({'batch_size': 4, 'clip': dataclasses.replace(CLIP, repeats=3)}, 'multiple of 3 repeats'),
  ],
)
def test_bad_arguments(train, arguments, message):
  with pytest.raises(ConfigError, match=message):
    train_batches(train, **{'clip': CLIP, 'seed': 0, **arguments})


def test_bad_views(held_out):
  with pytest.raises(ConfigError, match='spatial_views: expected 1 or 3, got 2'):
    eval_batches(held_out, CLIP, batch_size=1, spatial_views=2)


def test_reading_imports_no_tensorflow(tiny_source):
  script = (
    'import sys\n'
    'from datasets.batches import eval_batches\n'
    'from datasets.clip_config import ClipConfig\n'
    'from datasets.sources import open_dataset\n'
    f'dataset = open_dataset({str(tiny_source)!r}, "test", {TASKS!r})\n'
    'clip = ClipConfig(frames=3, stride=2, resize=24, crop=16)\n'
    'print(next(eval_batches(dataset, clip, batch_size=4))["inputs"].shape)\n'
    'print("tensorflow" in sys.modules)\n'
  )
  done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=True)
  assert done.stdout.splitlines() == ['(4, 1, 3, 16, 16, 3)', 'False']


# --- Repeated augmentation ---


def test_repeats_follow_each_other(train):
  clip = dataclasses.replace(AUGMENTED, repeats=3)
  made = train_batches(train, clip, batch_size=6, seed=0)
  once = train_batches(train, AUGMENTED, batch_size=2, seed=0)
  differ = 0
  for step in range(6):
    batch = made.batch_at(step)
    assert batch['row'].tolist() == np.repeat(once.batch_at(step)['row'], 3).tolist()
    np.testing.assert_array_equal(batch['inputs'][::3], once.batch_at(step)['inputs'])
    differ += not np.array_equal(batch['inputs'][0], batch['inputs'][1])
  assert differ >= 3  # Frames are of one grey: clips of one offset look alike.


def test_repeats_divide_among_hosts(train):
  clip = dataclasses.replace(AUGMENTED, repeats=2)
  one = train_batches(train, clip, batch_size=8, seed=0)
  hosts = [
    train_batches(train, clip, batch_size=8, seed=0, places=places)
    for places in (range(4), range(4, 8))
  ]
  for step in (0, 3):
    assert_same(concatenated([host.batch_at(step) for host in hosts]), one.batch_at(step))


def test_color_jitter_on_the_host(train):
  config = ColorJitterConfig(prob=1.0, where='host')
  plain = train_batches(train, CLIP, batch_size=4, seed=0).batch_at(0)
  jittered = train_batches(train, CLIP, batch_size=4, seed=0, color_jitter=config).batch_at(0)
  assert plain['row'].tolist() == jittered['row'].tolist()
  assert not np.array_equal(plain['inputs'], jittered['inputs'])


# --- A long run ---


def test_memory_stays_flat(train):
  def resident():
    with open('/proc/self/statm') as file:
      return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')

  clip = ClipConfig(frames=3, stride=1, resize=24, crop=16)
  with train_batches(train, clip, batch_size=2, seed=0, loading=Loading(2)) as batches:
    for _ in range(500):
      next(batches)
    before = resident()
    for _ in range(4500):
      next(batches)
    # 5,000 batches of 4.6 kB: one batch or index kept a step would be 20 MB.
    assert resident() - before < 8 << 20


def test_any_step_is_as_near_as_the_first(train):
  made = train_batches(train, AUGMENTED, batch_size=4, seed=0, start_step=10**9)
  assert made.step == 10**9
  assert_same(next(made), train_batches(train, AUGMENTED, batch_size=4, seed=0).batch_at(10**9))
  made.close()
