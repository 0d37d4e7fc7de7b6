import gzip
import re
import zlib

import numpy as np
import pytest
import tensorflow as tf

from datasets import array_file, index, manifest, progress, records
from errors import DataError

GROUPS = {'verb': (['open', 'close', 'cut'], False), 'tags': (['a', 'b', 'c', 'd'], True)}
SHARD = 'train-00000-of-00001.tfrecord'


def example(key='k', labels=(0,), frames=(b'frame 0', b'frame 1')):
  return records.encode_example(list(frames), list(labels), key, height=8, width=8, frame_rate=1.0)


def write(directory, examples):
  """One shard without going through the index; returns its manifest."""
  made = manifest.create([records.write_split(directory, 'train', examples, 1)], GROUPS)
  manifest.write(directory, made)
  return made


def raw_example(**context):
  """A SequenceExample with the given int64 or bytes context features and no lists."""
  made = tf.train.SequenceExample()
  for name, value in context.items():
    feature = made.context.feature[name.replace('__', '/')]
    if isinstance(value, bytes):
      feature.bytes_list.value.append(value)
    else:
      feature.int64_list.value.extend(value)
  return made


def test_index_of_every_record(tiny_dir):
  made = manifest.load(tiny_dir)
  built = index.build(tiny_dir, made, 'train')
  shards = made.splits['train'].shards
  assert len(built) == 10
  # Ten clips dealt to three shards: 0 3 6 9, 1 4 7, 2 5 8.
  clip_numbers = [0, 3, 6, 9, 1, 4, 7, 2, 5, 8]
  assert built.shard.tolist() == [0] * 4 + [1] * 3 + [2] * 3
  assert built.num_frames.tolist() == [5 + i for i in clip_numbers]
  for row, clip in enumerate(clip_numbers):
    assert built.key(row) == f'clip{clip}'
    assert built.labels(row).tolist() == [clip % 3, *sorted({3 + clip % 4, 6})]
    data = (tiny_dir / shards[built.shard[row]].name).read_bytes()
    offsets, lengths, crcs = built.frames(row)
    stored = [data[at : at + n] for at, n in zip(offsets, lengths)]
    assert all(frame[:2] == b'\xff\xd8' and frame[-2:] == b'\xff\xd9' for frame in stored)
    assert [zlib.crc32(frame) for frame in stored] == crcs.tolist()


def test_saved_beside_the_shards_and_loaded(tiny_dir, monkeypatch):
  made = manifest.load(tiny_dir)
  built = index.open_index(tiny_dir, made, 'train')
  assert (tiny_dir / 'train.index.npz').exists()
  assert not list(tiny_dir.glob('.*'))
  monkeypatch.setattr(index, 'build', None)
  loaded = index.open_index(tiny_dir, made, 'train')
  for name in index.Index.__dataclass_fields__:
    stored, fresh = getattr(loaded, name), getattr(built, name)
    np.testing.assert_array_equal(stored, fresh)
    assert stored.dtype == fresh.dtype


def test_stale_or_broken_index_is_built_again(tiny_dir):
  made = manifest.load(tiny_dir)
  index.open_index(tiny_dir, made, 'train')
  smaller = write(tiny_dir, [example('new', [1])])
  assert len(index.open_index(tiny_dir, smaller, 'train')) == 1
  path = tiny_dir / 'train.index.npz'
  for damage in (b'', b'nothing', path.read_bytes()[:-100]):
    path.write_bytes(damage)
    assert index.open_index(tiny_dir, smaller, 'train').key(0) == 'new'


def test_cache_directory_when_read_only(tiny_dir, tmp_path, monkeypatch):
  monkeypatch.setenv('TUBELET_CACHE', str(tmp_path / 'cache'))
  made = manifest.load(tiny_dir)
  beside, cached = index.index_paths(tiny_dir, made, 'test')
  assert cached.parent == tmp_path / 'cache'
  beside.unlink(missing_ok=True)  # Other tests may have opened what this directory is a copy of.
  write_file = array_file._write

  def refuse(path, *args):
    if path == beside:
      raise PermissionError(path)
    write_file(path, *args)

  monkeypatch.setattr(array_file, '_write', refuse)
  index.open_index(tiny_dir, made, 'test')
  assert cached.exists()
  assert not beside.exists()
  monkeypatch.setattr(index, 'build', None)
  assert len(index.open_index(tiny_dir, made, 'test')) == 7


def test_index_survives_when_nothing_can_be_written(tiny_dir, monkeypatch):
  def refuse(*args):
    raise OSError('no space left')

  monkeypatch.setattr(array_file, '_write', refuse)
  made = manifest.load(tiny_dir)
  assert len(index.open_index(tiny_dir, made, 'test')) == 7


def test_unknown_split(tiny_dir):
  with pytest.raises(DataError, match=r"no split 'val'; the manifest has \['test', 'train'\]"):
    index.open_index(tiny_dir, manifest.load(tiny_dir), 'val')


@pytest.mark.parametrize(
  ('labels', 'message'),
  [
    ([7], r"key 'bad': clip/label/index holds \[7\], expected integers in \[0, 6\]"),
    ([-1], r'holds \[-1\]'),
    ([0, 5000], r'holds \[5000\]'),
    ([], r"0 labels \[\] in the single-label group 'verb'"),
    ([3], "0 labels .* in the single-label group 'verb'"),
    ([0, 2], r"key 'bad': 2 labels \[0, 2\] in the single-label group 'verb'"),
  ],
)
def test_wrong_labels(tmp_path, labels, message):
  made = write(tmp_path, [example(), example('bad', labels), example('good')])
  built = index.build(tmp_path, made, 'train')
  assert [built.key(row) for row in range(len(built))] == ['k', 'good']
  (defect,) = built.defects
  assert re.search(f'{SHARD}, record 1 at byte .*{message}', defect)


def test_multi_label_group_may_have_none_or_several(tmp_path):
  made = write(tmp_path, [example('none', [2]), example('two', [3, 1, 6])])
  built = index.build(tmp_path, made, 'train')
  assert [built.labels(row).tolist() for row in range(2)] == [[2], [3, 1, 6]]


def test_foreign_layout_lists_names_found_and_wanted(tmp_path):
  plain = tf.train.Example()
  plain.features.feature['image'].bytes_list.value.append(b'x')
  made = write(tmp_path, [plain.SerializeToString()])
  with pytest.raises(DataError, match=r"no key\. The record has \['image'\]; wanted .*image/enc"):
    index.build(tmp_path, made, 'train')


@pytest.mark.parametrize(
  ('record', 'message'),
  [
    (raw_example(clip__key=b'k', clip__label__index=[0]), "key 'k': no frames"),
    (raw_example(clip__key=b'k'), "no frames.*found|has \\['clip/key'\\]"),
  ],
)
def test_missing_parts(tmp_path, record, message):
  made = write(tmp_path, [record.SerializeToString()])
  with pytest.raises(DataError, match=message):
    index.build(tmp_path, made, 'train')


def test_missing_labels(tmp_path):
  record = raw_example(clip__key=b'k')
  feature = record.feature_lists.feature_list['image/encoded'].feature.add()
  feature.bytes_list.value.append(b'jpeg')
  made = write(tmp_path, [record.SerializeToString()])
  with pytest.raises(DataError, match=r"key 'k': no labels.*wanted .*clip/label/index"):
    index.build(tmp_path, made, 'train')


def test_empty_frame_list_and_empty_frame(tmp_path):
  record = raw_example(clip__key=b'k', clip__label__index=[0])
  record.feature_lists.feature_list['image/encoded'].SetInParent()
  made = write(tmp_path, [record.SerializeToString()])
  with pytest.raises(DataError, match='is an empty list'):
    index.build(tmp_path, made, 'train')
  made = write(tmp_path, [example(frames=[b'x', b''])])
  with pytest.raises(DataError, match=r'frames \[1\] have no bytes'):
    index.build(tmp_path, made, 'train')


def test_record_that_is_no_message(tmp_path):
  made = write(tmp_path, [example(), b'\xff\xff\xff'])
  (defect,) = index.build(tmp_path, made, 'train').defects
  assert re.search(f'{SHARD}, record 1 at byte .*: not a SequenceExample', defect)


def test_nothing_can_be_used(tmp_path):
  made = write(tmp_path, [example(labels=[9]), example(labels=[8])])
  with pytest.raises(DataError, match=r'no record can be used; the first of 2: .*holds \[9\]'):
    index.build(tmp_path, made, 'train')


def test_frame_rates(tmp_path):
  unknown = tf.train.SequenceExample.FromString(example('unknown'))
  del unknown.context.feature['image/frame_rate']
  made = write(tmp_path, [example(), unknown.SerializeToString()])
  assert index.build(tmp_path, made, 'train').frame_rate.tolist() == [1.0, 0.0]


def test_gzip_shard(tmp_path):
  made = write(tmp_path, [example()])
  path = tmp_path / SHARD
  path.write_bytes(gzip.compress(path.read_bytes()))
  with pytest.raises(DataError, match=f'{SHARD}: gzip-compressed'):
    index.build(tmp_path, made, 'train')


def test_record_count_differs(tmp_path):
  write(tmp_path, [example(), example('other')])
  shard = manifest.Shard(SHARD, (tmp_path / SHARD).stat().st_size, 3)
  made = manifest.create([manifest.Split('train', (shard,))], GROUPS)
  with pytest.raises(DataError, match=r'holds 2 records, manifest\.json says 3'):
    index.build(tmp_path, made, 'train')


def test_progress_bar_when_slow(tiny_dir, monkeypatch):
  shown = []
  monkeypatch.setattr(progress, 'AFTER_SECONDS', -1.0)
  monkeypatch.setattr(
    progress.Progress, 'update', lambda self, task, **kwargs: shown.append(kwargs)
  )
  built = index.build(tiny_dir, manifest.load(tiny_dir), 'train')
  assert len(built) == 10
  assert shown[0] == {'completed': 1, 'refresh': True}


def test_spans_are_read_across_gaps(tmp_path, monkeypatch):
  data = np.arange(200, dtype=np.uint8).tobytes()
  (tmp_path / 'file').write_bytes(data)
  reads = []
  pread = index._pread
  monkeypatch.setattr(index, '_MERGE_GAP_BYTES', 20)
  monkeypatch.setattr(index, '_pread', lambda *args: reads.append(args[1:]) or pread(*args))
  offsets, lengths = np.array([10, 30, 100]), np.array([5, 5, 10])
  spans = index.read_spans(tmp_path / 'file', offsets, lengths)
  assert spans == [data[10:15], data[30:35], data[100:110]]
  assert reads == [(25, 10), (10, 100)]
  assert index.read_spans(tmp_path / 'file', np.array([195]), np.array([10])) == [data[195:]]
  with pytest.raises(DataError, match='missing'):
    index.read_spans(tmp_path / 'none', offsets, lengths)
