import numpy as np
import pytest
import tensorflow as tf

from datasets import records
from errors import DataError

FRAMES = [b'first', b'second frame', b'3']


def encode(**kwargs):
  defaults = {'height': 48, 'width': 64, 'frame_rate': 25.0}
  return records.encode_example(FRAMES, [3, 100], 'a key', **{**defaults, **kwargs})


def field(number, payload):
  """A length-delimited protobuf field."""
  assert len(payload) < 128
  return bytes([number << 3 | 2, len(payload)]) + payload


def test_tensorflow_reads_dmvr_names():
  context, lists = tf.io.parse_single_sequence_example(
    encode(label_texts=['verb', 'nöun'], start_microseconds=500),
    context_features={
      'clip/label/index': tf.io.FixedLenFeature([2], tf.int64),
      'clip/label/text': tf.io.FixedLenFeature([2], tf.string),
      'clip/key': tf.io.FixedLenFeature([], tf.string),
      'clip/start/timestamp': tf.io.FixedLenFeature([], tf.int64),
      'clip/end/timestamp': tf.io.FixedLenFeature([], tf.int64),
      'image/format': tf.io.FixedLenFeature([], tf.string),
      'image/width': tf.io.FixedLenFeature([], tf.int64),
      'image/height': tf.io.FixedLenFeature([], tf.int64),
      'image/frame_rate': tf.io.FixedLenFeature([], tf.float32),
    },
    sequence_features={'image/encoded': tf.io.FixedLenSequenceFeature([], tf.string)},
  )
  values = {name: value.numpy() for name, value in context.items()}
  assert lists['image/encoded'].numpy().tolist() == FRAMES
  assert values['clip/label/index'].tolist() == [3, 100]
  assert values['clip/label/text'].tolist() == [b'verb', 'nöun'.encode()]
  assert values['clip/key'] == b'a key'
  assert (values['clip/start/timestamp'], values['clip/end/timestamp']) == (500, 120_500)
  assert values['image/format'] == b'jpeg'
  assert (values['image/height'], values['image/width']) == (48, 64)
  assert values['image/frame_rate'] == 25.0


def test_parse_gives_values_and_spans():
  payload = encode()
  example = records.parse_sequence_example(payload)
  assert example.context['clip/label/index'] == [3, 100]
  assert example.context['image/frame_rate'] == [25.0]
  assert example.key == 'a key'
  assert list(example.lists) == ['image/encoded']
  assert [payload[at : at + n] for at, n in example.frames] == FRAMES


def random_example(rng):
  """A SequenceExample of random features of every kind, signs and sizes included."""
  example = tf.train.SequenceExample()
  for i in range(rng.integers(0, 6)):
    feature = example.context.feature[f'context/{i}']
    count = rng.integers(0, 5)
    kind = rng.integers(4)
    if kind == 0:
      feature.int64_list.value.extend(rng.integers(-(2**63), 2**63 - 1, count).tolist())
    elif kind == 1:
      feature.float_list.value.extend(rng.normal(size=count).astype(np.float32).tolist())
    elif kind == 2:
      feature.bytes_list.value.extend(rng.bytes(rng.integers(0, 300)) for _ in range(count))
  for name in ('image/encoded', 'other'):
    for _ in range(rng.integers(1, 6)):
      feature = example.feature_lists.feature_list[name].feature.add()
      feature.bytes_list.value.append(rng.bytes(rng.integers(0, 40_000)))
  return example


def expected_values(feature):
  kind = feature.WhichOneof('kind')
  return list(getattr(feature, kind).value) if kind else []


@pytest.mark.parametrize('seed', range(20))
def test_parser_agrees_with_tensorflow_on_random_examples(seed):
  example = random_example(np.random.default_rng(seed))
  payload = example.SerializeToString()
  parsed = records.parse_sequence_example(payload)
  wanted = {name: expected_values(f) for name, f in example.context.feature.items()}
  assert parsed.context == wanted
  frames = example.feature_lists.feature_list['image/encoded'].feature
  wanted_frames = [feature.bytes_list.value[0] for feature in frames]
  assert [payload[at : at + n] for at, n in parsed.frames] == wanted_frames
  assert set(parsed.lists) == {'image/encoded', 'other'}


def test_unknown_fields_are_skipped():
  unknown = field(9, b'text') + b'\x50\x96\x01' + b'\x59' + b'8 bytes!' + b'\x65' + b'4 by'
  int64s = field(3, b'\x08\x05' + field(1, b'\x06\x07') + unknown)  # unpacked 5, packed 6 and 7
  entry = field(1, b'name') + field(2, unknown + int64s)
  bytes_list = unknown + field(1, b'frame')
  frame_list = unknown + field(1, field(1, bytes_list) + unknown)
  lists = field(1, field(1, b'f') + field(2, frame_list))
  payload = unknown + field(1, field(1, entry)) + field(2, lists) + unknown
  parsed = records.parse_sequence_example(payload, 'f')
  assert parsed.context == {'name': [5, 6, 7]}
  assert [payload[at : at + n] for at, n in parsed.frames] == [b'frame']
  theirs = tf.train.SequenceExample.FromString(payload)
  assert list(theirs.context.feature['name'].int64_list.value) == [5, 6, 7]


def test_last_map_entry_and_last_kind_count():
  first = field(1, field(1, b'n') + field(2, field(3, b'\x08\x01')))
  second = field(1, field(1, b'n') + field(2, field(3, b'\x08\x02') + field(1, field(1, b'x'))))
  payload = field(1, first + second)
  assert records.parse_sequence_example(payload).context == {'n': [b'x']}
  theirs = tf.train.SequenceExample.FromString(payload).context.feature['n']
  assert list(theirs.bytes_list.value) == [b'x']


@pytest.mark.parametrize(
  ('payload', 'message'),
  [
    (b'\x0a\x05abc', 'passes the message end'),
    (b'\x0b', 'wire type 3'),
    (b'\xff' * 11, 'broken varint'),
    (b'\x08', 'broken varint'),
  ],
)
def test_broken_messages(payload, message):
  with pytest.raises(DataError, match=message):
    records.parse_sequence_example(payload)


def test_frame_of_two_values():
  example = tf.train.SequenceExample()
  feature = example.feature_lists.feature_list['image/encoded'].feature.add()
  feature.bytes_list.value.extend([b'a', b'b'])
  with pytest.raises(DataError, match='one bytes value, found 2'):
    records.parse_sequence_example(example.SerializeToString())


def test_key_falls_back_to_file_name():
  example = tf.train.SequenceExample()
  assert records.parse_sequence_example(example.SerializeToString()).key is None
  example.context.feature['video/filename'].bytes_list.value.append(b'v.mp4')
  assert records.parse_sequence_example(example.SerializeToString()).key == 'v.mp4'


def test_written_shards_are_dealt_in_turn(tmp_path):
  split = records.write_split(tmp_path, 'train', [b'a', b'bb', b'ccc', b'dddd', b''], 2)
  assert [shard.name for shard in split.shards] == [
    'train-00000-of-00002.tfrecord',
    'train-00001-of-00002.tfrecord',
  ]
  assert [shard.examples for shard in split.shards] == [3, 2]
  for shard, wanted in zip(split.shards, ([b'a', b'ccc', b''], [b'bb', b'dddd'])):
    path = tmp_path / shard.name
    data = path.read_bytes()
    assert shard.bytes == len(data)
    found = list(records.read_records(path))
    assert [payload for _, payload in found] == wanted
    assert all(data[at : at + len(payload)] == payload for at, payload in found)
    assert [x.numpy() for x in tf.data.TFRecordDataset(str(path))] == wanted


def test_nothing_half_written(tmp_path):
  def failing():
    yield b'a'
    raise RuntimeError('no more')

  with pytest.raises(RuntimeError, match='no more'):
    records.write_split(tmp_path, 'train', failing(), 1)
  assert list(tmp_path.iterdir()) == []


def test_too_many_shards(tmp_path):
  with pytest.raises(DataError, match='1 examples cannot fill 2 shards'):
    records.write_split(tmp_path, 'train', [b'a'], 2)
  assert list(tmp_path.iterdir()) == []


def test_no_frames():
  with pytest.raises(DataError, match="'k': no frames"):
    records.encode_example([], [0], 'k', height=1, width=1, frame_rate=1.0)


def test_damaged_framing(tmp_path):
  split = records.write_split(tmp_path, 'train', [b'abcdef', b'ghijkl'], 1)
  path = tmp_path / split.shards[0].name
  data = path.read_bytes()
  second = 8 + 4 + 6 + 4
  path.write_bytes(data[:-5])
  with pytest.raises(DataError, match=f'truncated: the record at byte {second} needs'):
    list(records.read_records(path))
  path.write_bytes(data[: second + 3])
  with pytest.raises(DataError, match=f'truncated: 3 bytes left at byte {second}'):
    list(records.read_records(path))
  path.write_bytes(data[:second] + b'\x01' + data[second + 1 :])
  with pytest.raises(DataError, match=f'no TFRecord header at byte {second}'):
    list(records.read_records(path))
  path.write_bytes(b'\x1f\x8b' + data)
  with pytest.raises(DataError, match='gzip'):
    list(records.read_records(path))
  path.unlink()
  with pytest.raises(DataError, match='missing'):
    list(records.read_records(path))


def test_an_image_has_no_frame_rate_and_no_duration():
  image = records.encode_example(
    [b'i'], [0], 'k', height=1, width=1, frame_rate=0, start_microseconds=7
  )
  context = records.parse_sequence_example(image).context
  assert context[records.FRAME_RATE] == [0.0]
  assert context[records.START] == context[records.END] == [7]


def test_a_shard_that_cannot_be_written_is_named(tmp_path):
  with pytest.raises(DataError, match=r'nowhere/a\.tfrecord: cannot be written'):
    records.write_shard(tmp_path / 'nowhere' / 'a.tfrecord', [b'x'])


def test_a_shard_holds_the_examples_in_order(tmp_path):
  records.write_shard(tmp_path / 'a.tfrecord', [b'one', b'', b'three'])
  assert [payload for _, payload in records.read_records(tmp_path / 'a.tfrecord')] == [
    b'one', b'', b'three',
  ]  # fmt: skip
