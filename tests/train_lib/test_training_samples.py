"""What the sheet shows is what the compiled step trains on."""

import jax
import numpy as np
import pytest

from datasets.batches import train_batches
from train_lib import data, training_samples
from train_lib.experiment import parse
from train_lib.program import deal, prepare


@pytest.fixture
def opened(tiny_config):
  """Experiment, facts and training split, with flips, repeats and every augmentation."""
  tiny_config.grad_accumulation = 2
  tiny_config.augment.color_jitter.prob = 0.8
  tiny_config.augment.random_erasing.prob = 0.5
  tiny_config.augment.mix.mixup_alpha = 1.0
  clip = tiny_config.datasets.demo.clip
  clip.flip_prob = 0.5
  clip.repeats = 2
  clip.flip_swap = (('moves left', 'moves right'), ('turns clockwise', 'turns anticlockwise'))
  experiment = parse(tiny_config)
  dataset = data.open_split(experiment, 'demo', 'train')
  return experiment, data.facts_of(experiment, {'demo': dataset}), dataset


def test_clips_are_those_of_the_compiled_step(opened):
  experiment, facts, dataset = opened
  shown = training_samples.training_samples(experiment, facts, 'demo', dataset, 10)
  clip = experiment.datasets['demo'].clip
  stream = train_batches(dataset, clip, batch_size=8, seed=experiment.seed)
  expected = []
  for step in range(2):
    batch = stream.batch_at(step)
    parts = deal({**batch, 'position': np.arange(8)}, 2)
    made = [
      prepare(experiment, facts, jax.tree.map(lambda x, i=i: x[i], parts), step) for i in range(2)
    ]
    for position in range(8):
      video, targets, _ = made[position % 2]
      pixels = training_samples.pixels_of(experiment, np.asarray(video[position // 2]))
      expected.append((int(batch['row'][position]), pixels, targets['motion'][position // 2]))
  for sample, (row, pixels, target) in zip(shown, expected, strict=False):
    assert sample.key == dataset.key(row)
    # One program for the batch and one for a pair may round differently.
    difference = np.abs(sample.pixels.astype(int) - pixels)
    assert difference.max() <= 1
    names = [f'{target[k]:.0%} {dataset.class_names("motion")[k]}' for k in np.argsort(-target)]
    assert sample.labels[0] in (names[0], names[0].removeprefix('100% '))
  assert len(shown) == 10


def test_labels_and_notes_of_mirrored_clips(opened):
  experiment, facts, dataset = opened
  shown = training_samples.training_samples(experiment, facts, 'demo', dataset, 8)
  assert any('mirrored' in note for sample in shown for note in sample.notes)
  for number, sample in enumerate(shown):
    partner = shown[training_samples.partner(8, 2, number)]
    assert sample.notes[-1] == f'mixed with {partner.key}'
    turned = {'left': 'right', 'right': 'left', 'clockwise': 'anticlockwise'}
    turned['anticlockwise'] = 'clockwise'
    own, *words = sample.key.split('-')[2:]
    last = words[-1] if words else ''
    mirrored = any(note.endswith('mirrored') for note in sample.notes)
    name = ' '.join(filter(None, [own, turned.get(last, last) if mirrored else last]))
    assert any(line.endswith(name) for line in sample.labels)


def test_partner_is_the_reverse_within_a_part_and_back():
  assert [training_samples.partner(8, 2, p) for p in range(8)] == [6, 7, 4, 5, 2, 3, 0, 1]


def test_no_more_than_an_epoch(tiny_config):
  experiment = parse(tiny_config)
  dataset = data.open_split(experiment, 'demo', 'test')
  shown = training_samples.training_samples(
    experiment, data.facts_of(experiment, {'demo': dataset}), 'demo', dataset, 99
  )
  assert sorted(sample.key for sample in shown) == sorted(dataset.key(row) for row in range(16))


def test_pixels_come_back(opened):
  experiment = opened[0]
  values = np.arange(256, dtype=np.uint8).repeat(3).reshape(256, 3)
  normalised = (values / 255 - experiment.pixels.mean) / experiment.pixels.std
  np.testing.assert_array_equal(training_samples.pixels_of(experiment, normalised), values)
