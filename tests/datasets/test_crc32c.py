import numpy as np
import pytest
import tensorflow as tf

from datasets import records
from datasets.crc32c import crc32c, masked_crc32c


@pytest.mark.parametrize(
  ('data', 'expected'),
  [
    (b'', 0),
    (b'123456789', 0xE3069283),
    (bytes(32), 0x8A9136AA),
    (b'\xff' * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
  ],
)
def test_vectors_of_rfc_3720(data, expected):
  assert crc32c(data) == expected
  assert crc32c(memoryview(data)) == expected


@pytest.mark.parametrize('length', [0, 255, 256, 257, 258, 259, 260, 511, 512, 513, 4096, 100_003])
def test_what_tensorflow_writes(tmp_path, length):
  data = np.random.default_rng(length).bytes(length)
  with tf.io.TFRecordWriter(str(tmp_path / 'one')) as writer:
    writer.write(data)
  assert list(records.read_framed(tmp_path / 'one')) == [(12, data, masked_crc32c(data))]
