"""Every defect of a small dataset, and nothing else, is in the report."""

import csv
import gzip
import re
import struct

import numpy as np
import pytest
import simplejpeg

from datasets import check, index, manifest, records
from datasets.check import SHARD
from errors import DataError
from tests.datasets.videos import write_video

GROUPS = {'verb': (['open', 'close'], False), 'tags': (['a', 'b'], True)}
FRAME = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
JPEG = simplejpeg.encode_jpeg(FRAME)
SMALL = simplejpeg.encode_jpeg(np.ascontiguousarray(FRAME[:, :30]))
PNG = bytes.fromhex(  # One pixel.
  '89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de'
  '0000000c49444154789c63606060000000040001f61738550000000049454e44ae426082'
)


def example(key='k', labels=(0,), frames=(JPEG, JPEG, JPEG), **kwargs):
  sizes = {'height': 24, 'width': 32, 'frame_rate': 25.0}
  return records.encode_example(list(frames), list(labels), key, **{**sizes, **kwargs})


def write(directory, examples, *, shards=1, indexed=False):
  """A dataset of one split with these serialised examples, dealt to its shards."""
  made = manifest.create([records.write_split(directory, 'train', examples, shards)], GROUPS)
  manifest.write(directory, made)
  if indexed:
    index.save(directory, made, 'train', index.build(directory, made, 'train'))
  return [directory / shard.name for shard in made.splits['train'].shards]


def found(directory, **kwargs):
  """(shard's position, record, kind) of every defect."""
  report = check.check(directory, **kwargs)
  return [(int(d.file.split('-')[1]), d.record, d.kind) for d in report.defects]


def test_no_defects(demo_data_dir):
  assert check.check(demo_data_dir) == check.Report((), 48, 48 * 25, ())
  count = []
  report = check.check(demo_data_dir, ['test'], on_record=count.append)
  assert report == check.Report((), 16, 16 * 25, ())
  assert count == [16] * 16
  with pytest.raises(DataError, match=r"no split 'val'; it has \['test', 'train'\]"):
    check.check(demo_data_dir, ['val'])


def without(name, **kwargs):
  """An example whose field of this name has another one."""
  return example('bad', **kwargs).replace(name.encode(), b'x' * len(name))


@pytest.mark.parametrize(
  ('bad', 'defects'),
  [
    (b'hello', [('layout', 'not a SequenceExample: byte 2: wire type 4 .* of the record')]),
    (without('clip/key'), [('layout', r"no key\. The record has \[.*; wanted \['image/encoded")]),
    (without('image/encoded'), [('layout', r'no frames\. The record has')]),
    (without('clip/label/index'), [('layout', r'no labels\. The record has')]),
    (example('bad', [4]), [('labels', r'clip/label/index holds \[4\], expected integers in \[0, 3')]),
    (example('bad', [2]), [('labels', r"0 labels \[\] in the single-label group 'verb'")]),
    (example('bad', [0, 1]), [('labels', r"2 labels \[0, 1\] in the single-label group 'verb'")]),
    (example('bad', frames=[JPEG, b'', JPEG]), [('frames', r'frames \[1\] have no bytes')]),
    (example('bad', frames=[JPEG]), [('frames', 'a single frame is no video')]),
    (
      example('bad', frames=[JPEG, JPEG[:-40], b'nothing']),
      [
        ('decode', r'frame 1: cannot be decoded \(.*[Pp]remature end'),
        ('decode', "frame 2: cannot be decoded .* neither JPEG nor an image OpenCV"),
        ('format', r"image/format is 'jpeg', but frames are unknown \(1\)"),
      ],
    ),
    (
      example('bad', frames=[JPEG, SMALL, JPEG]),
      [('size', r'frames of several sizes: 32x24 \(2\), 30x24 \(1\)')],
    ),
    (
      example('bad', height=32, width=24),
      [('size', r'frames are 32x24, but image/height is \[32\] and image/width \[24\]')],
    ),
    (
      example('bad', frames=[PNG, PNG], height=1, width=1),
      [('format', r"image/format is 'jpeg', but frames are png \(2\)")],
    ),
    (example('bad', image_format='PNG'), [('format', r"is 'png', but frames are jpeg \(3\)")]),
    (
      example('bad', [9, 9], [JPEG]),
      [('labels', r'holds \[9, 9\]'), ('frames', 'a single frame')],
    ),
    (example('k'), [('key', r'repeats: record 0 of train-00000-of-00001\.tfrecord has it too')]),
  ],
)  # fmt: skip
@pytest.mark.parametrize('indexed', [True, False])
def test_a_bad_record_between_good_ones(tmp_path, bad, defects, indexed):
  (shard,) = write(tmp_path, [example(), bad, example('last')], indexed=indexed)
  report = check.check(tmp_path)
  assert (report.records, report.without_index) == (3, () if indexed else ('train',))
  assert [defect.kind for defect in report.defects] == [kind for kind, _ in defects]
  offsets = [offset for offset, _ in records.read_records(shard)]
  for defect, (_, text) in zip(report.defects, defects, strict=True):
    assert (defect.file, defect.record) == (shard.name, 1)
    assert offsets[1] <= defect.byte < offsets[2]
    assert re.search(text, defect.text)


def test_formats_that_are_fine(tmp_path):
  formats = [example(str(i), image_format=name) for i, name in enumerate(('JPEG', 'jpg', ''))]
  write(tmp_path, [*formats, example('p', frames=[PNG] * 2, height=1, width=1, image_format='png')])
  assert check.check(tmp_path).defects == ()


def flip(path, byte):
  data = bytearray(path.read_bytes())
  data[byte] ^= 1
  path.write_bytes(data)


def test_a_flipped_bit_is_found_at_its_frame(tmp_path):
  """Though the frame decodes: without an index the record's checksum tells, with one the frame's."""
  (shard,) = write(tmp_path, [example('a'), example('b')], indexed=True)
  (_, _), (offset, payload) = records.read_records(shard)
  frames = records.parse_sequence_example(payload).frames
  quantiser = JPEG.index(b'\xff\xdb') + 10
  flip(shard, offset + frames[1][0] + quantiser)
  checksum, frame = check.check(tmp_path).defects
  assert (checksum.record, checksum.kind, checksum.byte) == (1, 'checksum', offset)
  assert (frame.kind, frame.byte, frame.key) == ('index', offset + frames[1][0], 'b')
  assert re.match(r'frame 1: bytes differ from when the index was built \(crc32', frame.text)
  (tmp_path / 'train.index.npz').unlink()
  report = check.check(tmp_path)
  assert report.defects == (checksum,)
  assert report.without_index == ('train',)
  assert not (tmp_path / 'train.index.npz').exists()


def test_a_wrong_checksum_of_a_sound_record(tmp_path):
  (shard,) = write(tmp_path, [example()], indexed=True)
  flip(shard, shard.stat().st_size - 1)
  assert found(tmp_path) == [(0, 0, 'checksum')]


def test_a_rewritten_shard_of_the_same_size(tmp_path):
  long, short = example('long'), example('short', frames=(JPEG, JPEG))
  (shard,) = write(tmp_path, [long, short], indexed=True)
  records.write_shard(shard, [short, long])
  assert found(tmp_path) == [(0, 0, 'index'), (0, 1, 'index')]
  texts = [defect.text for defect in check.check(tmp_path).defects]
  assert texts[0].startswith('frames lie elsewhere than the index says')
  assert texts[1].startswith('the index has no such record')


def test_damaged_shards_do_not_hide_the_others(tmp_path):
  examples = [example(f'k{i}') for i in range(9)] + [example('one', frames=[JPEG])]
  truncated, damaged, missing, zipped, sound = write(tmp_path, examples, shards=5)
  size = truncated.stat().st_size
  truncated.write_bytes(truncated.read_bytes()[:-10])
  (_, _), (second, _) = records.read_records(damaged)
  flip(damaged, second - 12)
  missing.unlink()
  data = zipped.read_bytes()
  zipped.write_bytes(gzip.compress(data))
  report = check.check(tmp_path)
  assert [(d.file, d.record, d.byte, d.kind) for d in report.defects] == [
    (truncated.name, SHARD, 0, 'shard'),
    (truncated.name, SHARD, size // 2, 'framing'),
    (truncated.name, SHARD, size // 2, 'shard'),
    (damaged.name, SHARD, second - 12, 'framing'),
    (damaged.name, SHARD, second - 12, 'shard'),
    (missing.name, SHARD, 0, 'shard'),
    (zipped.name, SHARD, 0, 'shard'),
    (zipped.name, SHARD, 0, 'framing'),
    (zipped.name, SHARD, 0, 'shard'),
    (sound.name, 1, report.defects[-1].byte, 'frames'),
  ]
  texts = [defect.text for defect in report.defects]
  assert texts[0].startswith(
    f'has {size - 10} bytes, manifest.json says {size}: the shard is trunc'
  )
  assert texts[1].startswith(f'truncated: the record at byte {size // 2} needs {size} bytes')
  assert texts[2] == '1 records can be read, manifest.json says 2.'
  assert texts[3].startswith(f'no TFRecord header at byte {second - 12}')
  assert texts[5].startswith('shard listed in manifest.json is missing')
  assert texts[7].startswith('gzip-compressed at byte 0')
  assert (report.records, report.frames) == (4, 10)
  assert report.kinds == {'shard': 6, 'framing': 3, 'frames': 1}


def test_records_more_than_the_manifest_says(tmp_path):
  (shard,) = write(tmp_path, [example('a')])
  data = shard.read_bytes()
  shard.write_bytes(data + data)
  assert found(tmp_path) == [(0, SHARD, 'shard'), (0, SHARD, 'shard'), (0, 1, 'key')]


def test_keys_repeat_within_a_split_only(tmp_path):
  splits = [records.write_split(tmp_path, name, [example('k')], 1) for name in ('train', 'test')]
  manifest.write(tmp_path, manifest.create(splits, GROUPS))
  assert check.check(tmp_path).defects == ()
  write(tmp_path, [example('a'), example('b'), example('b'), example('a')], shards=2)
  assert found(tmp_path) == [(1, 0, 'key'), (1, 1, 'key')]


def test_the_number_of_threads_changes_nothing(tmp_path):
  examples = [example(str(i), [i % 4], [JPEG] * (1 + i % 3)) for i in range(40)]
  write(tmp_path, examples, shards=3)
  reports = [check.check(tmp_path, num_threads=threads) for threads in (1, 7)]
  assert reports[0] == reports[1]
  assert reports[0].kinds == {'labels': 20, 'frames': 14}


def test_a_folder_of_videos(tmp_path):
  write_video(tmp_path / 'good.mp4', 12)
  write_video(tmp_path / 'bad.mp4', 40)
  data = bytearray((tmp_path / 'bad.mp4').read_bytes())
  start, end = data.index(b'mdat') + 4, data.index(b'moov')
  data[(start + end) // 2 : end - 8] = bytes(end - 8 - (start + end) // 2)
  (tmp_path / 'bad.mp4').write_bytes(data)
  (tmp_path / 'train.csv').write_text('path,label\ngood.mp4,a\nbad.mp4,b\ngone.mp4,b\n')
  (tmp_path / 'test.csv').write_text('path,label\ngood.mp4,a\n')
  report = check.check(tmp_path)
  assert (report.records, report.frames, report.without_index) == (3, 64, ())
  rejected, broken = report.defects
  assert (rejected.file, rejected.record, rejected.kind) == ('train', SHARD, 'rejected')
  assert rejected.text.startswith('row 4:') and 'gone.mp4' in rejected.text
  assert (broken.file, broken.record, broken.key) == ('train', 1, 'bad.mp4')
  assert broken.kind == 'decode'
  assert check.check(tmp_path, ['test']) == check.Report((), 1, 12, ())


def test_table(tmp_path):
  (shard,) = write(tmp_path, [example('with, comma', frames=[JPEG])])
  ((offset, _),) = records.read_records(shard)
  data = shard.read_bytes()
  shard.write_bytes(data + struct.pack('<Q', 1))
  check.write_csv(tmp_path / 'defects.csv', check.check(tmp_path).defects)
  with open(tmp_path / 'defects.csv', newline='') as file:
    rows = list(csv.reader(file))
  assert rows[0] == ['file', 'record', 'byte', 'key', 'problem']
  assert [row[:4] for row in rows[1:]] == [
    [shard.name, '', '0', ''],
    [shard.name, '', str(len(data)), ''],
    [shard.name, '0', str(offset), 'with, comma'],
  ]
  assert rows[2][4].startswith(f'framing: truncated: 8 bytes left at byte {len(data)}')
  assert rows[3][4] == 'frames: a single frame is no video.'
  assert not list(tmp_path.glob('.*'))
