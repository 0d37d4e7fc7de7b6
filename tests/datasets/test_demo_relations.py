"""Three datasets of shared motions: what is planted, and that nothing else gives it away."""

import importlib
import itertools

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from datasets import demo, demo_actors, demo_relations
from datasets.demo_relations import GROUP, LOOKS, RELATIONS
from datasets.record_dataset import RecordDataset
from errors import DataError
from tools import make_demo_data


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """All datasets, as the tool lays them out."""
  root = tmp_path_factory.mktemp('relations')
  for name in LOOKS:
    demo_relations.write(root / name, name, seed=0, train=8, test=16)
  return root


def test_relations_are_motions_in_common():
  assert {pair: len(found) for pair, found in RELATIONS.items()} == {
    ('blocks', 'stars'): 6, ('stars', 'blocks'): 6,
    ('blocks', 'comets'): 6, ('comets', 'blocks'): 6,
    ('stars', 'comets'): 5, ('comets', 'stars'): 5,
  }  # fmt: skip
  assert ('slides left', 'travels westwards') in RELATIONS['blocks', 'stars']
  assert ('loops', 'orbits') in RELATIONS['comets', 'stars']
  for (source, target), pairs in RELATIONS.items():
    assert {(b, a) for a, b in pairs} == set(RELATIONS[target, source])
    for own, other in pairs:
      assert LOOKS[source].classes[own] == LOOKS[target].classes[other]
  related = {(n, c) for (n, _), pairs in RELATIONS.items() for c, _ in pairs}
  alone = {c for n, look in LOOKS.items() for c in look.classes if (n, c) not in related}
  assert alone == {'hops', 'climbs aslant'}


def test_names_and_numbers_of_classes_give_nothing_away():
  for source, target in itertools.permutations(LOOKS, 2):
    words = [{w for c in LOOKS[n].classes for w in c.split()} for n in (source, target)]
    assert words[0] & words[1] <= {'to'}
    numbers = [list(LOOKS[n].classes) for n in (source, target)]
    same = [
      p for p in RELATIONS[source, target] if numbers[0].index(p[0]) == numbers[1].index(p[1])
    ]
    assert len(same) <= 1
  for look in LOOKS.values():
    assert set(look.classes.values()) <= set(demo_actors.MOTIONS)
    assert len(set(look.classes.values())) == len(look.classes) == 8


@pytest.mark.parametrize('name', LOOKS)
def test_splits_are_balanced(folder, name):
  for split, count in (('train', 8), ('test', 16)):
    dataset = RecordDataset(folder / name, split, {'it': GROUP})
    labels = [int(dataset.labels(row)['it']) for row in range(len(dataset))]
    assert np.bincount(labels).tolist() == [count // 8] * 8
    assert set(dataset.num_frames) == {demo.NUM_FRAMES}
    assert dataset.class_names('it') == tuple(LOOKS[name].classes)


def test_looks_differ(folder):
  flicker, tint = {}, {}
  for name, look in LOOKS.items():
    dataset = RecordDataset(folder / name, 'test', {'it': GROUP})
    clips = [
      [frame.copy() for frame in dataset.frames(row, np.arange(5))] for row in range(len(dataset))
    ]
    flicker[name] = np.median(np.abs(np.diff(np.array(clips, float), axis=1)))
    tint[name] = np.median(np.ptp(look.background(np.random.default_rng(0)), axis=-1))
  assert flicker['stars'] > flicker['comets'] > flicker['blocks'] > 0
  assert tint['stars'] == 0 and min(tint['blocks'], tint['comets']) > 10


def test_bystanders_do_not_move(monkeypatch):
  scenes = []
  monkeypatch.setattr(demo, 'jpegs', lambda scene: scenes.append(scene) or [b''])
  monkeypatch.setattr(demo_relations.records, 'encode_example', lambda *_, **__: b'')
  rng = np.random.default_rng(0)
  noise = demo_actors.Noise(rng)
  for name, look in LOOKS.items():
    demo_relations._clip(rng, look, list(look.classes.values()).index('moves left'), name, noise)
  assert [len(scene.actors) for scene in scenes] == [1, 1, 3]
  moved = [np.ptp(actor.centre[:, 0]) for actor in scenes[-1].actors]
  assert moved[:2] == [0, 0] and moved[2] > 10


def test_same_seed_same_bytes(folder, tmp_path):
  for name, seed in (('same', 0), ('other', 1)):
    demo_relations.write(tmp_path / name, 'comets', seed=seed, train=8, test=16)
  files = sorted(path.name for path in (folder / 'comets').glob('*.tfrecord'))
  assert len(files) == 4
  for file in files:
    before = (folder / 'comets' / file).read_bytes()
    assert (tmp_path / 'same' / file).read_bytes() == before
    assert (tmp_path / 'other' / file).read_bytes() != before


def test_refused(folder, tmp_path):
  with pytest.raises(DataError, match='holds another dataset'):
    demo_relations.write(folder / 'stars', 'stars', seed=1, train=8, test=16)
  with pytest.raises(DataError, match='blocks: train is 12, expected a positive multiple of 8'):
    demo_relations.write(tmp_path / 'new', 'blocks', train=12)
  assert not (tmp_path / 'new').exists()


def test_tool(folder, tmp_path, monkeypatch, capsys):
  importlib.reload(make_demo_data)
  monkeypatch.setitem(flags.FLAGS.__dict__, '__flags_parsed', True)  # and not so afterwards
  given = {'kind': 'relations', 'out': str(folder), 'train': '8', 'test': '16'}
  with flagsaver.as_parsed(**given):
    make_demo_data.main()
  lines = capsys.readouterr().out.splitlines()
  assert [line.split(' (')[0] for line in lines] == [
    f'{folder}/{name}: 8 train, 16 test clips of 8 classes' for name in LOOKS
  ]
