import csv
import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from datasets import demo, demo_actors
from datasets.demo_actors import CLASSES, GROUP, MOTIONS, SHAPES
from datasets.record_dataset import RecordDataset
from errors import DataError

TRAIN, TEST = 24, 16


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Both datasets, as the tool lays them out."""
  return tmp_path_factory.mktemp('demo_actors')


@pytest.fixture(scope='module')
def actors_dir(folder):
  demo_actors.write_actors(folder / 'actors', seed=0, train=TRAIN, test=TEST)
  return folder / 'actors'


@pytest.fixture(scope='module')
def actions_dir(folder):
  demo_actors.write_actions(folder / 'actions', seed=0, train=32, test=16)
  return folder / 'actions'


def opened(directory, split):
  return RecordDataset(directory, split, {'action': GROUP})


def annotated(dataset, row):
  """(boxes in px, motion, shape) of the annotated boxes of a keyframe."""
  regions = dataset.regions(row, 'action')
  own = regions.annotated
  motions = regions.labels[own, : len(MOTIONS)]
  shapes = regions.labels[own, len(MOTIONS) :]
  assert (motions.sum(axis=1) == 1).all() and (shapes.sum(axis=1) == 1).all()
  return regions.boxes[own] * demo.SIZE, motions.argmax(axis=1), shapes.argmax(axis=1)


def test_actions_are_balanced(actions_dir):
  for split, count in (('train', 32), ('test', 16)):
    dataset = opened(actions_dir, split)
    labels = [int(dataset.labels(row)['action']) for row in range(len(dataset))]
    assert np.bincount(labels).tolist() == [count // 16] * 16
    assert set(dataset.num_frames) == {demo.NUM_FRAMES}
  assert opened(actions_dir, 'train').class_names('action') == MOTIONS


def test_motions_in_training_are_long_tailed():
  counts = demo_actors.train_counts(400)
  assert sum(counts) == 1200
  assert counts == [263, 223, 182, 152, 91, 76, 61, 51, 40, 12, 11, 10, 9, 8, 6, 5]
  assert np.bincount(demo_actors._motions_of('train', 400)).tolist() == counts
  # 360 boxes of 120 test clips: enough of each class for its AP to mean something.
  assert set(np.bincount(demo_actors._motions_of('test', 120))) == {22, 23}


def test_groups_follow_the_counts():
  rows = list(csv.DictReader(demo_actors._class_groups(400).splitlines()))
  assert [row['label'] for row in rows] == [*SHAPES, *MOTIONS]
  assert [row['group'] for row in rows] == ['head'] * 7 + ['mid'] * 5 + ['tail'] * 7
  assert [int(row['train_labels']) for row in rows[:4]] == [400, 400, 400, 263]
  for row in rows:
    count = int(row['train_labels'])
    assert row['group'] == ('head' if count >= 100 else 'tail' if count < 16 else 'mid')


def test_boxes_and_labels_of_the_records(actors_dir):
  for split, clips in (('train', TRAIN), ('test', TEST)):
    dataset = opened(actors_dir, split)
    assert dataset.class_names('action') == CLASSES
    found = [annotated(dataset, row) for row in range(len(dataset))]
    assert sorted({len(boxes) for boxes, _, _ in found}) == [2, 3, 4]
    motions = np.concatenate([motions for _, motions, _ in found])
    expected = demo_actors._motions_of(split, clips)
    assert np.bincount(motions).tolist() == np.bincount(expected).tolist()
    shapes = np.concatenate([shapes for _, _, shapes in found])
    assert np.bincount(shapes).tolist() == [clips] * 3
    boxes = np.concatenate([boxes for boxes, _, _ in found])
    assert (boxes >= 0).all() and (boxes <= demo.SIZE).all()
    sides = boxes[:, 2:] - boxes[:, :2]
    assert sides.min() > 4 and sides.max() < 24


@pytest.mark.parametrize('motion', MOTIONS)
def test_boxes_are_tight_at_the_keyframe(motion):
  rng = np.random.default_rng(4)
  black = np.zeros((demo.SIZE, demo.SIZE, 3), np.float32)
  for shape in range(3):
    actor = demo_actors.put(demo_actors.draw_actor(rng, motion, shape, 8.0, black), rng.random(2))
    white = dataclasses.replace(actor, colour=np.full(3, 255, np.uint8))
    silent = np.zeros((demo.NUM_FRAMES, 1, 1, 1), np.int8)
    frame = list(demo.render(demo.Scene(black, (white,), silent)))[demo_actors.KEYFRAME]
    rows, columns = np.nonzero(frame[..., 0] > 127)
    seen = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
    box = np.array(demo_actors._box(actor)) * demo.SIZE
    assert np.abs(box - seen).max() < 1.5  # Thin tips fade, outlines are drawn inclusively.


def test_actors_are_where_their_boxes_say(actors_dir):
  dataset = opened(actors_dir, 'test')
  for row in range(len(dataset)):
    (frame,) = dataset.frames(row, np.array([demo_actors.KEYFRAME]))
    outside = np.ones(frame.shape[:2], bool)
    boxes = np.round(annotated(dataset, row)[0]).astype(int)
    for ymin, xmin, ymax, xmax in boxes:
      outside[max(ymin - 2, 0) : ymax + 2, max(xmin - 2, 0) : xmax + 2] = False
    still = np.median(frame[outside], axis=0)
    changed = np.abs(frame - still).max(axis=-1) > 75  # The background stays within this.
    assert changed[outside].mean() < 0.02
    for ymin, xmin, ymax, xmax in boxes:
      assert changed[ymin:ymax, xmin:xmax].mean() > 0.15


def test_boxes_of_a_keyframe_do_not_overlap(actors_dir):
  dataset = opened(actors_dir, 'train')
  for row in range(len(dataset)):
    boxes = annotated(dataset, row)[0]
    for i, a in enumerate(boxes):
      for b in boxes[:i]:
        assert ((a[:2] > b[2:] + 2.9) | (b[:2] > a[2:] + 2.9)).any()


def test_the_keyframe_is_the_middle_frame(actors_dir):
  dataset = opened(actors_dir, 'test')
  keys = {dataset.key(row) for row in range(len(dataset))}
  assert keys == {f'test-{i // 4:04d},{902 + i % 4:04d}' for i in range(TEST)}
  for row in range(len(dataset)):
    seconds = float(dataset.key(row).rpartition(',')[2])
    assert dataset.keyframe_seconds(row) == seconds
    times = dataset.keyframe(row).times
    assert np.abs(times - seconds * 1e6).argmin() == demo_actors.KEYFRAME
    assert np.diff(times).tolist() == [80_000] * (demo.NUM_FRAMES - 1)


def test_detected_boxes_are_near_actors_or_on_nothing():
  rng = np.random.default_rng(0)
  actor = (0.3, 0.4, 0.5, 0.65)
  scores, shifts, alone = [], [], []
  for _ in range(400):
    for box, _, _, score in demo_actors._proposals(rng, [actor]):
      if max(box[0], actor[0]) < min(box[2], actor[2]) and (
        max(box[1], actor[1]) < min(box[3], actor[3])
      ):
        scores.append(score)
        shifts.append(np.abs(np.subtract(box, actor)).max())
      else:
        alone.append(score)
      assert min(box) >= 0 and max(box) <= 1
  assert min(scores) >= 0.5 and max(scores) <= 1
  assert 0.1 < np.mean(np.array(scores) < 0.8) < 0.5
  assert max(shifts) <= 0.2 * 0.25
  assert min(alone) >= 0.3 and max(alone) <= 0.9
  assert 0.05 < np.mean(np.array(alone) >= 0.8) < 0.3


@pytest.mark.parametrize('motion', [m for m in MOTIONS if m.startswith('moves')])
def test_moves_go_where_they_say(motion):
  rng = np.random.default_rng(1)
  still = demo.background(rng)
  actor = demo_actors.put(demo_actors.draw_actor(rng, motion, 0, 7.0, still), rng.random(2))
  step = actor.centre[-1] - actor.centre[0]
  words = motion.removeprefix('moves ').split('-')
  assert (step[0] > 5) == ('right' in words) and (step[0] < -5) == ('left' in words)
  assert (step[1] > 5) == ('down' in words) and (step[1] < -5) == ('up' in words)


def test_senses_of_turning_and_circling():
  rng = np.random.default_rng(2)
  still = demo.background(rng)
  for motion, sign in (('clockwise', 1), ('anticlockwise', -1)):
    assert (
      sign * np.diff(demo_actors.draw_actor(rng, f'turns {motion}', 1, 7.0, still).angle) > 0
    ).all()
    path = demo_actors.draw_actor(rng, f'circles {motion}', 1, 7.0, still).centre
    steps = np.diff(path, axis=0)
    # y points down: clockwise on the screen is a positive cross product of steps.
    cross = steps[:-1, 0] * steps[1:, 1] - steps[:-1, 1] * steps[1:, 0]
    assert (sign * cross > 0).all()


@pytest.mark.parametrize('motion', MOTIONS)
def test_paths_stay_in_the_frame(motion):
  rng = np.random.default_rng(3)
  still = demo.background(rng)
  for shape in range(3):
    actor = demo_actors.draw_actor(rng, motion, shape, 8.5, still)
    for place in ((0, 0), (1, 1)):  # Both corners.
      there = demo_actors.put(actor, np.array(place))
      points = 0.5 + np.concatenate([there.points(t) for t in range(demo.NUM_FRAMES)])
      assert points.min() > -1e-9 and points.max() < demo.SIZE + 1e-9
    assert actor.opacity[demo_actors.KEYFRAME] == 1


@pytest.mark.parametrize('shape', range(3))
def test_turning_shows_on_every_shape(shape):
  for outline in tuple(SHAPES.values())[shape]:
    radii, angles = np.linalg.norm(outline, axis=1), np.arctan2(outline[:, 1], outline[:, 0])
    for turn in np.radians((60, 72, 90, 120, 180)):
      turned = np.interp(np.sort(angles), np.sort((angles + turn + np.pi) % (2 * np.pi) - np.pi),
                         radii[np.argsort((angles + turn + np.pi) % (2 * np.pi) - np.pi)])  # fmt: skip
      assert np.abs(turned - radii[np.argsort(angles)]).max() > 0.1


def test_same_seed_same_bytes(actors_dir, tmp_path):
  for name, seed in (('same', 0), ('other', 1)):
    demo_actors.write_actors(tmp_path / name, seed=seed, train=TRAIN, test=TEST)
  files = sorted(path.name for path in actors_dir.glob('*.tfrecord'))
  assert len(files) == 4
  for file in [*files, demo_actors.GROUPS_FILE]:
    before = (actors_dir / file).read_bytes()
    assert (tmp_path / 'same' / file).read_bytes() == before
    assert ((tmp_path / 'other' / file).read_bytes() == before) == (file not in files)


def test_same_request_is_not_written_again(actors_dir, actions_dir, monkeypatch):
  monkeypatch.setattr(demo.records, 'write_split', None)
  demo_actors.write_actors(actors_dir, seed=0, train=TRAIN, test=TEST)
  demo_actors.write_actions(actions_dir, seed=0, train=32, test=16)
  with pytest.raises(DataError, match='holds another dataset'):
    demo_actors.write_actors(actors_dir, seed=1, train=TRAIN, test=TEST)
  with pytest.raises(DataError, match='holds another dataset'):
    demo_actors.write_actions(actors_dir, seed=0, train=32, test=16)


def test_sizes_that_do_not_fit(tmp_path):
  with pytest.raises(DataError, match='actions: train is 24, expected a positive multiple of 16'):
    demo_actors.write_actions(tmp_path / 'new', train=24)
  with pytest.raises(DataError, match='actors: test is 0, expected a positive multiple of 8'):
    demo_actors.write_actors(tmp_path / 'new', test=0)
  assert not (tmp_path / 'new').exists()


def test_tool(folder, actors_dir, actions_dir):
  command = [sys.executable, '-m', 'tools.make_demo_data', '--kind=actors', f'--out={folder}']
  command += ['--train=32', '--test=16', f'--actors_train={TRAIN}', f'--actors_test={TEST}']
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  assert f'{actions_dir}: 32 train, 16 test clips of 16 classes (' in done.stdout
  assert f'{actors_dir}: 24 train, 16 test clips of 19 classes of boxes (' in done.stdout
