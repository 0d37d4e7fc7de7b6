"""Images and clips of the same appearances: what is planted, and that nothing else gives it away."""

import dataclasses
import importlib

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from datasets import demo, demo_tubes
from datasets.demo_tubes import APPEARANCES, CLASSES, CLIP_GROUP, IMAGE_GROUP, MOTIONS
from datasets.record_dataset import RecordDataset
from errors import DataError
from tools import make_demo_data


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Both datasets, as the tool lays them out."""
  root = tmp_path_factory.mktemp('tubes')
  demo_tubes.write_images(root / 'images', seed=0, train=240, test=80)
  demo_tubes.write_clips(root / 'clips', seed=0, train=32, test=64)
  return root


def opened(folder, name, split):
  group = {'images': IMAGE_GROUP, 'clips': CLIP_GROUP}[name]
  return RecordDataset(folder / name, split, {'it': group})


def labels(dataset):
  return np.array([int(dataset.labels(row)['it']) for row in range(len(dataset))])


def test_classes_of_clips_are_appearances_in_motion():
  assert len(APPEARANCES) == 8 and len(CLASSES) == len(set(CLASSES)) == 32
  for number, name in enumerate(CLASSES):
    appearance, motion = divmod(number, len(MOTIONS))
    assert name == f'{APPEARANCES[appearance]}: {MOTIONS[motion]}'
  assert CLASSES[:2] == (
    'broad level stripes: moves left',
    'broad level stripes: moves right',
  )


@pytest.mark.parametrize(
  ('name', 'split', 'count', 'names'),
  [
    ('images', 'train', 30, APPEARANCES),
    ('images', 'test', 10, APPEARANCES),
    ('clips', 'train', 1, CLASSES),
    ('clips', 'test', 2, CLASSES),
  ],
)
def test_splits_are_balanced(folder, name, split, count, names):
  dataset = opened(folder, name, split)
  assert dataset.class_names('it') == names
  assert np.bincount(labels(dataset)).tolist() == [count] * len(names)
  frames, rate = (1, 0) if name == 'images' else (demo.NUM_FRAMES, demo.FRAME_RATE)
  assert set(dataset.num_frames) == {frames} and set(dataset.frame_rate) == {rate}
  assert next(dataset.frames(0, np.zeros(1, int))).shape == (demo.SIZE, demo.SIZE, 3)


def test_colours_do_not_tell_appearances_apart(folder):
  def statistics(split):
    dataset = opened(folder, 'images', split)
    frames = [next(dataset.frames(row, np.zeros(1, int))) for row in range(len(dataset))]
    pixels = np.array([frame.reshape(-1, 3) for frame in frames]) / 255
    few = pixels.reshape(len(frames), demo.SIZE, demo.SIZE, 3)[:, 16::32, 16::32]
    parts = [pixels.mean(axis=1), few.reshape(len(frames), -1), np.ones((len(frames), 1))]
    return np.concatenate(parts, axis=1), labels(dataset)

  (seen, known), (unseen, wanted) = statistics('train'), statistics('test')
  weights = np.linalg.lstsq(seen, np.eye(8)[known], rcond=None)[0]
  # Chance is one of eight.
  assert np.mean((unseen @ weights).argmax(axis=1) == wanted) < 0.25


def drawn(appearance, motion, monkeypatch):
  """The actor of a clip."""
  scenes = []
  monkeypatch.setattr(demo, 'jpegs', lambda scene: scenes.append(scene) or [b''])
  monkeypatch.setattr(demo_tubes.records, 'encode_example', lambda *_, **__: b'')
  label = 4 * appearance + MOTIONS.index(motion)
  rng = np.random.default_rng(label)
  made = demo_tubes._clips(rng, 'train', label + 1)
  for _ in made:
    pass
  (actor,) = scenes[-1].actors
  return actor


def test_only_the_order_of_frames_tells_motions_of_a_pair_apart(monkeypatch):
  for motion, sign in (('moves left', -1), ('moves right', 1)):
    actor = drawn(3, motion, monkeypatch)
    steps = np.diff(actor.centre[:, 0])
    assert (np.sign(steps) == sign).all() and np.ptp(steps) < 1e-9 and np.ptp(actor.radius) == 0
  for motion, sign in (('grows', 1), ('shrinks', -1)):
    actor = drawn(3, motion, monkeypatch)
    steps = np.diff(actor.radius)
    assert (np.sign(steps) == sign).all() and np.ptp(steps) < 1e-9


def test_stripes_move_with_the_shape():
  rng = np.random.default_rng(0)
  actor = demo_tubes._actor(rng, 5, 'moves right', demo.background(rng))
  actor.centre[1] = actor.centre[0] + (3, -2)
  first, second = actor.paint(0, -8, -8, 16, 16), actor.paint(1, -5, -10, 16, 16)
  np.testing.assert_allclose(first, second, atol=1e-3)
  low, high = np.minimum(actor.colour, actor.second), np.maximum(actor.colour, actor.second)
  assert (first >= low - 1e-3).all() and (first <= high + 1e-3).all()
  assert np.ptp(first[..., 0]) > 0.9 * (high - low)[0] > 0


@pytest.mark.parametrize(
  ('appearance', 'period', 'along'),
  [
    ('broad level stripes', 12, (0, 1)),
    ('broad upright stripes', 12, (1, 0)),
    ('fine rising stripes', 6, (-1, 1)),
    ('fine falling stripes', 6, (1, 1)),
  ],
)
def test_stripes_are_as_their_name_says(appearance, period, along):
  """`along`: a step in (rows, columns) that stays on a stripe."""
  rng = np.random.default_rng(1)
  label = APPEARANCES.index(appearance)
  actor = demo_tubes._actor(rng, label, 'grows', demo.background(rng))
  drawn = actor.paint(0, -24, -24, 48, 48)[..., 0]
  inside = drawn[12:36, 12:36]
  rows, columns = along
  same = drawn[12 + rows : 36 + rows, 12 + columns : 36 + columns]
  np.testing.assert_allclose(same, inside, atol=1e-3)
  # Half a period across the stripe is the other colour: their mean is that of both everywhere.
  steps = np.hypot(columns, rows)
  shift = period / 2 * np.array([columns, -rows]) / steps  # rows, columns
  other = dataclasses.replace(actor, centre=actor.centre + shift[::-1]).paint(0, -24, -24, 48, 48)
  mean = (drawn + other[..., 0])[12:36, 12:36]
  np.testing.assert_allclose(mean, mean[0, 0], atol=1e-2)


def test_looks_differ(folder):
  flat = {}
  for name in ('images', 'clips'):
    dataset = opened(folder, name, 'test')
    corners = [next(dataset.frames(row, np.zeros(1, int)))[:4, :4] for row in range(64)]
    flat[name] = np.median(np.array(corners, float).std(axis=(1, 2)))
  assert flat['clips'] > 1.5 * flat['images']


def test_same_seed_same_bytes(folder, tmp_path):
  for name, seed in (('same', 0), ('other', 1)):
    demo_tubes.write_clips(tmp_path / name, seed=seed, train=32, test=64)
  files = sorted(path.name for path in (folder / 'clips').glob('*.tfrecord'))
  assert len(files) == 6
  for file in files:
    before = (folder / 'clips' / file).read_bytes()
    assert (tmp_path / 'same' / file).read_bytes() == before
    assert (tmp_path / 'other' / file).read_bytes() != before


def test_refused(folder, tmp_path):
  with pytest.raises(DataError, match='holds another dataset'):
    demo_tubes.write_images(folder / 'clips', train=8, test=8)
  with pytest.raises(DataError, match='clips: test is 8, expected a positive multiple of 32'):
    demo_tubes.write_clips(tmp_path / 'new', test=8)
  assert not (tmp_path / 'new').exists()


def test_tool(folder, monkeypatch, capsys):
  importlib.reload(make_demo_data)
  monkeypatch.setitem(flags.FLAGS.__dict__, '__flags_parsed', True)  # and not so afterwards
  given = {'train': '32', 'test': '64', 'images_train': '240', 'images_test': '80'}
  with flagsaver.as_parsed(kind='tubes', out=str(folder), **given):
    make_demo_data.main()
  lines = capsys.readouterr().out.splitlines()
  assert [line.split(' (')[0] for line in lines] == [
    f'{folder}/images: 240 train, 80 test images of 8 classes',
    f'{folder}/clips: 32 train, 64 test clips of 32 classes',
  ]
