"""Stills, motions and scenes: what tells classes apart, and that single frames do not."""

import collections
import importlib

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from datasets import demo, demo_scenes
from datasets.demo_scenes import COLOURS, GROUP, MOTIONS, NUM_FRAMES, SCENES, STILLS
from datasets.record_dataset import RecordDataset
from datasets.sampling import segment_train_indices
from errors import DataError
from tools import make_demo_data


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """All datasets, as the tool lays them out."""
  root = tmp_path_factory.mktemp('scenes')
  demo_scenes.write_stills(root / 'stills', train=24, test=12)
  demo_scenes.write_motions(root / 'motions', train=16, test=16)
  demo_scenes.write_scenes(root / 'scenes', train=32, test=16)
  return root


def opened(folder, name, split='train'):
  return RecordDataset(folder / name, split, {'it': GROUP})


def clips(dataset):
  """Key without what is the class's own -> label -> clips, each a list of frames."""
  found = collections.defaultdict(lambda: collections.defaultdict(list))
  for row in range(len(dataset)):
    frames = [frame.copy() for frame in dataset.frames(row, np.arange(NUM_FRAMES))]
    scene, _, _ = dataset.key(row).rpartition('-')
    found[scene][int(dataset.labels(row)['it'])].append(frames)
  return found


def test_classes():
  assert STILLS == (
    'level stripes', 'upright stripes', 'rings', 'spokes',
    'red disc', 'yellow disc', 'orange disc', 'pink disc',
    'green cross', 'blue cross', 'cyan cross', 'violet cross',
  )  # fmt: skip
  assert len(MOTIONS) == len(SCENES) == 8
  assert SCENES[:3] == (
    'red with green or yellow with blue',
    'red with blue or yellow with green',
    'red with cyan or yellow with violet',
  )
  pairs = [pair for name in SCENES for pair in name.split(' or ')]
  every = {f'{disc} with {cross}' for disc in COLOURS['disc'] for cross in COLOURS['cross']}
  assert len(pairs) == len(every) and set(pairs) == every
  for one, other in zip(SCENES[::2], SCENES[1::2], strict=True):
    assert sorted(one.split()) == sorted(other.split())


@pytest.mark.parametrize(
  ('name', 'split', 'count', 'names', 'frames'),
  [
    ('stills', 'train', 2, STILLS, 1),
    ('stills', 'test', 1, STILLS, 1),
    ('motions', 'train', 2, MOTIONS, NUM_FRAMES),
    ('scenes', 'train', 4, SCENES, NUM_FRAMES),
    ('scenes', 'test', 2, SCENES, NUM_FRAMES),
  ],
)
def test_splits_are_balanced(folder, name, split, count, names, frames):
  dataset = opened(folder, name, split)
  assert dataset.class_names('it') == names
  labels = [int(dataset.labels(row)['it']) for row in range(len(dataset))]
  assert np.bincount(labels).tolist() == [count] * len(names)
  assert set(dataset.num_frames) == {frames}
  assert set(dataset.frame_rate) == {0 if frames == 1 else demo.FRAME_RATE}


def test_motions_of_a_pair_are_each_others_reversal(folder):
  for made in clips(opened(folder, 'motions')).values():
    (label, (frames,)), (partner, (others,)) = sorted(made.items())
    assert label % 2 == 0 and partner == label + 1
    np.testing.assert_array_equal(frames, others[::-1])


def test_scenes_of_a_pair_have_the_same_frames(folder):
  for made in clips(opened(folder, 'scenes')).values():
    (label, mine), (partner, theirs) = sorted(made.items())
    assert label % 2 == 0 and partner == label + 1 and len(mine) == len(theirs) == 2
    one, other = (
      sorted(frame.tobytes() for frames in some for frame in frames) for some in (mine, theirs)
    )
    assert one == other
    # One disc with either cross, one half of the clip each.
    halves = [[frames[:12], frames[12:]] for some in (mine, theirs) for frames in some]
    for half in range(2):
      assert len({np.array(clip[half]).tobytes() for clip in halves}) == 2


def drawn(monkeypatch, made):
  """The scenes that a generator of examples renders for its first example."""
  scenes = []
  monkeypatch.setattr(demo, 'jpegs', lambda scene: scenes.append(scene) or [b''] * len(scene.noise))
  monkeypatch.setattr(demo_scenes.records, 'encode_example', lambda *_, **__: b'')
  next(made)
  return scenes


def test_disc_and_cross_are_seen_far_apart(monkeypatch):
  orders = set()
  for seed in range(8):
    rng = np.random.default_rng(seed)
    scenes = drawn(monkeypatch, demo_scenes._scene_clips(rng, 'train', 16))
    seen = [np.flatnonzero(scene.actors[-1].opacity) for scene in scenes]
    for one, other in ((0, 1), (2, 3)):  # In either colour at the same place and times.
      np.testing.assert_array_equal(seen[one], seen[other])
      np.testing.assert_array_equal(*(scenes[i].actors[-1].centre for i in (one, other)))
      assert (scenes[one].actors[-1].colour != scenes[other].actors[-1].colour).any()
    # Seen long enough to be sampled, at least 8 frames apart, whichever comes first.
    assert all(5 <= len(frames) <= 8 for frames in seen)
    disc_first = seen[0][-1] < 8
    first, last = (seen[0], seen[2]) if disc_first else (seen[2], seen[0])
    assert first[-1] < 8 and last[0] >= 4
    orders.add(disc_first)
  assert orders == {True, False}


def test_grey_clutter_says_nothing(monkeypatch):
  scenes = drawn(monkeypatch, demo_scenes._scene_clips(np.random.default_rng(0), 'train', 16))
  for scene in scenes:
    *clutter, thing = scene.actors
    assert len(clutter) == 3 and clutter == scenes[0].actors[:-1]
    assert all(np.ptp(actor.colour.astype(int)) <= 30 for actor in clutter)
    assert np.ptp(thing.colour.astype(int)) > 60


@pytest.mark.parametrize('kind', range(4))
def test_sampled_frames_show_which_way_a_pattern_moves(kind):
  rng = np.random.default_rng(kind)
  actor = demo_scenes._pattern(rng, kind, demo.background(rng))
  assert np.ptp(actor.centre, axis=0).tolist() == [0, 0]
  cycles = [np.diff(actor.phase[segment_train_indices(rng, NUM_FRAMES, 8)]) for _ in range(50)]
  assert np.min(cycles) > 0 and np.max(cycles) < 0.5
  assert actor.phase[-1] - actor.phase[0] > 1


@pytest.mark.parametrize(
  ('kind', 'step'),
  [(0, lambda x, y: (x, y + 2)), (1, lambda x, y: (x + 2, y))],
)
def test_stripes_move_as_their_names_say(kind, step):
  rng = np.random.default_rng(1)
  actor = demo_scenes._pattern(rng, kind, demo.background(rng))
  actor.phase[1] = actor.phase[0] + 2 / actor.period  # two pixels on
  x, y = step(20, 20)
  first, second = actor.paint(0, 20, 20, 8, 8), actor.paint(1, x, y, 8, 8)
  np.testing.assert_allclose(first, second, atol=1e-2)
  assert np.ptp(first) > 40


def test_same_seed_same_bytes(folder, tmp_path):
  for name, seed in (('same', 0), ('other', 1)):
    demo_scenes.write_scenes(tmp_path / name, seed=seed, train=32, test=16)
  files = sorted(path.name for path in (folder / 'scenes').glob('*.tfrecord'))
  assert len(files) == 4
  for file in files:
    before = (folder / 'scenes' / file).read_bytes()
    assert (tmp_path / 'same' / file).read_bytes() == before
    assert (tmp_path / 'other' / file).read_bytes() != before


def test_refused(folder, tmp_path):
  with pytest.raises(DataError, match='holds another dataset'):
    demo_scenes.write_motions(folder / 'scenes', train=32, test=16)
  for name, count, divisor in (('stills', 8, 12), ('scenes', 8, 16), ('motions', 12, 8)):
    write = getattr(demo_scenes, f'write_{name}')
    message = f'{name}: test is {count}, expected a positive multiple of {divisor}'
    with pytest.raises(DataError, match=message):
      write(tmp_path / 'new', test=count)
  assert not (tmp_path / 'new').exists()


def test_tool(folder, tmp_path, monkeypatch, capsys):
  importlib.reload(make_demo_data)
  monkeypatch.setitem(flags.FLAGS.__dict__, '__flags_parsed', True)  # and not so afterwards
  given = {'train': '16', 'test': '16', 'images_train': '24', 'images_test': '12'}
  with flagsaver.as_parsed(kind='scenes', out=str(tmp_path), **given):
    make_demo_data.main()
  lines = capsys.readouterr().out.splitlines()
  assert [line.split(' (')[0] for line in lines] == [
    f'{tmp_path}/stills: 24 train, 12 test stills of 12 classes',
    f'{tmp_path}/motions: 16 train, 16 test clips of 8 classes',
    f'{tmp_path}/scenes: 16 train, 16 test clips of 8 classes',
  ]
