import dataclasses

import numpy as np
import pytest

from datasets import flips, manifest, records
from datasets.batches import train_batches
from datasets.clip_config import ClipConfig
from datasets.record_dataset import RecordDataset
from errors import ConfigError

CLASSES = ('push left', 'pull', 'push right', 'Turn the camera Right')
CLIP = ClipConfig(frames=1, stride=1, resize=8, crop=8, flip_prob=0.5)
PAIRS = (('push left', 'push right'), ('Turn the camera Right', 'Turn the camera Right'))


@pytest.fixture
def dataset(tmp_path):
  import simplejpeg

  jpeg = simplejpeg.encode_jpeg(
    np.arange(8, dtype=np.uint8)[None, :, None] * np.full((8, 1, 3), 30, np.uint8)
  )
  examples = [
    records.encode_example([jpeg], [i, 4 + i % 2], f'k{i}', height=8, width=8, frame_rate=1.0)
    for i in range(4)
  ]
  split = records.write_split(tmp_path, 'train', examples, 1)
  groups = {'motion': (CLASSES, False), 'side': (('at the left', 'at the right'), True)}
  manifest.write(tmp_path, manifest.create([split], groups))
  return RecordDataset(tmp_path, 'train', {'motion': 'motion', 'side': 'side'})


def with_pairs(*pairs, flip_prob=0.5):
  return dataclasses.replace(CLIP, flip_swap=pairs, flip_prob=flip_prob)


def test_permutations(dataset):
  clip = with_pairs(*PAIRS, ('at the left', 'at the right'))
  found = flips.label_permutations(dataset, clip)
  assert found['motion'].tolist() == [2, 1, 0, 3]
  assert found['side'].tolist() == [1, 0]


def test_labels_of_the_mirrored_clip(dataset):
  swaps = flips.label_permutations(dataset, with_pairs(*PAIRS, ('at the left', 'at the right')))
  swapped = flips.swap_labels(dataset.labels(0), swaps)
  assert swapped['motion'] == 2
  assert swapped['motion'].dtype == np.int32
  assert swapped['side'].tolist() == [0.0, 1.0]


def test_flipped_examples_have_the_other_label(dataset):
  clip = with_pairs(*PAIRS, ('at the left', 'at the right'), flip_prob=1.0)
  batch = train_batches(dataset, clip, batch_size=4, seed=0).batch_at(0)
  assert batch['label']['motion'].tolist() == [[2, 1, 0, 3][row] for row in batch['row']]
  assert batch['label']['side'].tolist() == [[[0, 1], [1, 0]][row % 2] for row in batch['row']]
  left, right = batch['inputs'][0, 0, 0, 0, 0], batch['inputs'][0, 0, 0, -1, 0]
  assert left > right + 100  # The frames rise from left to right.


def test_direction_without_a_pair(dataset):
  message = r"classes of task 'motion' name a direction: \['push left', 'push right', 'Turn"
  with pytest.raises(ConfigError, match=message):
    train_batches(dataset, CLIP, batch_size=2, seed=0)
  with pytest.raises(ConfigError, match=r"task 'side' name a direction: \['at the left'"):
    flips.label_permutations(dataset, with_pairs(*PAIRS))
  flips.label_permutations(dataset, with_pairs(flip_prob=0.0))


def test_pairs_that_are_no_classes(dataset):
  with pytest.raises(ConfigError, match=r"flip_swap names \['jump'\], which are no classes"):
    flips.label_permutations(dataset, with_pairs(('pull', 'jump'), flip_prob=0.0))
  with pytest.raises(ConfigError, match=r"names \['at the left', 'pull'\]"):
    flips.label_permutations(dataset, with_pairs(('pull', 'at the left'), flip_prob=0.0))
  with pytest.raises(ConfigError, match="class 'pull' stands in two pairs"):
    flips.label_permutations(
      dataset, with_pairs(('pull', 'push left'), ('push right', 'pull'), flip_prob=0.0)
    )
