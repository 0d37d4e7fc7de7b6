"""Mixed batches of datasets that are sampled, resized and flipped each in its own way."""

import numpy as np

from datasets.batches import Loading, Stream, mixture_batches
from datasets.clip_config import ClipConfig
from datasets.examples import train_examples
from datasets.mixture import Mixture
from datasets.record_dataset import RecordDataset
from tests.datasets.conftest import NUM_CLIPS, grey_level

BATCH = 6
CLIPS = (
  # Kinetics: dense clips of either side. Something-Something v2: the whole video, never mirrored.
  ClipConfig(3, 2, 20, 16, resize_jitter=(16, 24), flip_prob=0.5, repeats=2),
  ClipConfig(3, 1, 18, 16, sampling='uniform', repeats=2),
)


def streams(directory, places=None):
  opened = [
    RecordDataset(directory, 'train', {'a': 'verb'}),
    RecordDataset(directory, 'test', {'b': 'tags'}),
  ]
  return [Stream(d, clip, BATCH, places=places) for d, clip in zip(opened, CLIPS, strict=True)]


def batches(directory, **settings):
  return mixture_batches(
    streams(directory),
    Mixture([2, 1], 2, seed=3),
    seed=5,
    mixed=True,
    loading=Loading(num_threads=0),
    **settings,
  )


def test_every_example_is_that_of_its_own_dataset(tiny_source):
  parts = [
    train_examples(s.dataset, s.clip, batch_size=BATCH, seed=5) for s in streams(tiny_source)
  ]
  mixture = Mixture([2, 1], 2, seed=3)
  drawn = []
  with batches(tiny_source) as made:
    for step in range(8):
      batch = made.batch_at(step)
      assert batch['inputs'].shape == (BATCH, 3, 16, 16, 3)
      for group in range(BATCH // 2):
        number, position = mixture.draw(step * BATCH // 2 + group)
        drawn.append(number)
        own = parts[number].draw(position)
        for copy in range(2):
          place = 2 * group + copy
          np.testing.assert_array_equal(batch['inputs'][place], own.clips[copy].pixels)
          assert batch['row'][place] == own.row + number * NUM_CLIPS['train']
          masks = {task: mask[place] for task, mask in batch['label_mask'].items()}
          assert masks == {'a': float(number == 0), 'b': float(number == 1)}
          task = ('a', 'b')[number]
          np.testing.assert_array_equal(batch['label'][task][place], own.labels[copy][task])
  assert set(drawn) == {0, 1}


def test_one_batch_has_clips_of_both_kinds(tiny_source):
  with batches(tiny_source) as made:
    kinds = set()
    for step in range(8):
      batch = made.batch_at(step)
      for row, clip in zip(batch['row'], batch['inputs'], strict=True):
        of_test = row >= NUM_CLIPS['train']
        number = row - of_test * NUM_CLIPS['train']
        levels = np.round(clip.mean((1, 2, 3))).astype(int)
        last = 5 + number - 1
        if of_test:  # From the first to the last frame, whatever their number.
          frames = [0, int(last / 2 + 0.5), last]
          assert levels.tolist() == [grey_level(number, i) for i in frames]
        else:
          assert np.diff(levels).tolist() == [8, 8]  # Two frames apart.
        kinds.add(of_test)
  assert kinds == {True, False}
