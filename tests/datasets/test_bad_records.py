"""Records that cannot be read: replaced or left out within a budget, and an error beyond it."""

import re

import numpy as np
import pytest

from datasets import manifest, records
from datasets.batches import Loading, eval_batches, train_batches
from datasets.examples import unreadable_row
from datasets.record_dataset import RecordDataset
from errors import DataError
from tests.datasets.test_batches import CLIP, TASKS, flip_byte


@pytest.fixture
def damaged(tiny_dir):
  """The training split with a flipped byte in a frame of rows 2 and 7."""
  dataset = RecordDataset(tiny_dir, 'train', TASKS)
  for row in (2, 7):
    offsets, lengths, _ = dataset._index.frames(row)
    shard = dataset.manifest.splits['train'].shards[dataset._index.shard[row]].name
    for at, length in zip(offsets, lengths):
      flip_byte(tiny_dir / shard, int(at + length // 2))
  return dataset


@pytest.mark.parametrize('loading', [Loading(0), Loading(3), Loading(2, num_processes=2)])
def test_bad_records_are_replaced_within_the_budget(damaged, caplog, loading):
  good = {row for row in range(10) if row not in (2, 7)}
  order = np.concatenate(
    [
      train_batches(damaged, CLIP, batch_size=1, seed=0, max_bad_records=2).batch_at(i)['row']
      for i in range(10)
    ]
  )
  caplog.clear()
  with train_batches(
    damaged, CLIP, batch_size=5, seed=0, max_bad_records=2, loading=loading
  ) as made:
    batches = [next(made) for _ in range(4)]
    assert set(made.skipped) == {2, 7}
  rows = np.concatenate([batch['row'] for batch in batches])
  assert rows[:10].tolist() == order.tolist()
  assert set(rows.tolist()) == good
  assert all((batch['batch_mask'] == 1).all() for batch in batches)
  assert 'skipped' not in batches[0]
  logged = [record.getMessage() for record in caplog.records if 'left out' in record.getMessage()]
  assert len(logged) == 2
  assert all(
    re.search(r"left out \([12] of at most 2\): .*tfrecord: byte \d+, frame \d of 'clip\d'", line)
    for line in logged
  )


def test_replacement_is_the_next_record_of_the_epoch(damaged, tiny_source):
  whole = RecordDataset(tiny_source, 'train', TASKS)
  before = train_batches(whole, CLIP, batch_size=10, seed=0).batch_at(0)['row']
  after = train_batches(damaged, CLIP, batch_size=10, seed=0, max_bad_records=2).batch_at(0)['row']
  for i, row in enumerate(before):
    following = [r for r in (*before[i:], *before[:i]) if r not in (2, 7)]
    assert after[i] == (row if row not in (2, 7) else following[0])


def test_labels_that_cannot_be_read_are_replaced_too(tiny_source, monkeypatch):
  dataset = RecordDataset(tiny_source, 'train', TASKS)
  labels = dataset.labels

  def unlabelled(row):
    if row == 2:
      raise DataError('no label')
    return labels(row)

  monkeypatch.setattr(dataset, 'labels', unlabelled)
  batches = train_batches(dataset, CLIP, batch_size=10, seed=0, max_bad_records=1)
  rows = batches.batch_at(0)['row'].tolist()
  assert sorted({*rows, 2}) == list(range(10)) and 2 not in rows
  with pytest.raises(DataError, match='^no label$'):
    train_batches(dataset, CLIP, batch_size=10, seed=0).batch_at(0)


def test_beyond_the_budget(damaged):
  message = r'^2 records cannot be used, more than max_bad_records=1 allows:\n  .*\n  .*\n.*--check'
  with pytest.raises(DataError, match=message):
    for _ in train_batches(damaged, CLIP, batch_size=5, seed=0, max_bad_records=1):
      pass
  with pytest.raises(DataError, match=r'tfrecord: byte \d+, frame \d .*: the bytes differ'):
    for _ in train_batches(damaged, CLIP, batch_size=5, seed=0):
      pass


def test_evaluation_replaces_nothing(damaged):
  batches = list(eval_batches(damaged, CLIP, batch_size=5, max_bad_records=2))
  rows = np.concatenate([batch['row'] for batch in batches])
  assert rows.tolist() == [0, 1, unreadable_row(2), 3, 4, 5, 6, unreadable_row(7), 8, 9]
  masks = np.concatenate([batch['batch_mask'] for batch in batches])
  assert masks.tolist() == [1, 1, 0, 1, 1, 1, 1, 0, 1, 1]
  assert (batches[0]['inputs'][2] == 0).all()
  with pytest.raises(DataError, match='more than max_bad_records=1 allows'):
    list(eval_batches(damaged, CLIP, batch_size=5, max_bad_records=1))


def test_every_record_is_bad(tmp_path):
  examples = [
    records.encode_example([b'\xff\xd8 no'], [0], f'k{i}', height=8, width=8, frame_rate=1.0)
    for i in range(3)
  ]
  split = records.write_split(tmp_path, 'train', examples, 1)
  manifest.write(tmp_path, manifest.create([split], {'g': (['x'], False)}))
  dataset = RecordDataset(tmp_path, 'train', {'t': 'g'})
  with pytest.raises(DataError, match='3 records cannot be used'):
    train_batches(dataset, CLIP, batch_size=1, seed=0, max_bad_records=100).batch_at(0)
