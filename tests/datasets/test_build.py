"""Building a split: what lands on disk, what is rejected, and that a killed build goes on."""

import csv
import dataclasses
import hashlib
from collections import Counter
from pathlib import Path

import pytest

from datasets import build, index, manifest, records
from datasets.annotations import LabelGroup, Rejected, Row
from datasets.convert import Settings
from errors import DataError
from tests.datasets import videos

GROUPS = {'label': LabelGroup(('even', 'odd'))}


def run_here(plan, tasks):
  """Runs tasks in this process."""
  for task in tasks:
    build.build_shard(task)


@pytest.fixture(scope='session')
def video_root(tmp_path_factory):
  """12 videos of 4 frames; number 5 is no video, number 7 is missing."""
  root = tmp_path_factory.mktemp('build')
  for number in range(12):
    if number != 7:
      videos.write_video(root / f'v {number} ü.mp4', 4)
  (root / 'v 5 ü.mp4').write_text('no video')
  return root


def make_rows(numbers=range(12)):
  return tuple(
    Row(n + 2, f'v {n} ü.mp4', {'label': (('even', 'odd')[n % 2],)}, f'key{n}') for n in numbers
  )


def make_plan(
  directory, video_root, *, rows=None, split='train', shards=3, groups=GROUPS, **kwargs
):
  settings = Settings(str(video_root), groups, **kwargs)
  return build.make_plan(directory, split, rows or make_rows(), settings, shards=shards)


def hashes(directory):
  return {
    path.name: hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(Path(directory).glob('*.tfrecord'))
  }


def keys(directory, split):
  found = []
  for shard in manifest.load(directory).splits[split].shards:
    for _, payload in records.read_records(Path(directory) / shard.name):
      found.append(records.parse_sequence_example(payload).key)
  return found


def test_a_split_with_its_index_manifest_and_rejected_rows(tmp_path, video_root):
  plan = make_plan(tmp_path, video_root)
  earlier = Rejected(99, 'x.mp4', 'no label')
  built = build.build(dataclasses.replace(plan, rejected=(earlier,)), run_here)
  assert (built.examples, built.already) == (10, False)
  assert sorted(keys(tmp_path, 'train')) == sorted(f'key{n}' for n in range(12) if n not in (5, 7))
  with open(tmp_path / 'rejected-train.csv', encoding='utf-8', newline='') as file:
    lines = list(csv.reader(file))
  assert lines[0] == ['row', 'path', 'reason']
  assert [line[:2] for line in lines[1:]] == [
    ['7', 'v 5 ü.mp4'],
    ['9', 'v 7 ü.mp4'],
    ['99', 'x.mp4'],
  ]
  assert lines[2][2] == 'no such video file.'
  assert built.rejected == tuple(Rejected(int(n), path, why) for n, path, why in lines[1:])
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    'manifest.json',
    'rejected-train.csv',
    *(f'train-{i:05d}-of-00003.tfrecord' for i in range(3)),
    'train.index.npz',
  ]


def test_the_manifest_says_what_is_in_the_split(tmp_path, video_root):
  build.build(make_plan(tmp_path, video_root), run_here)
  made = manifest.load(tmp_path)
  source = made.source['splits']['train']
  assert made.tasks['label'].classes == ('even', 'odd')
  assert made.source['generator'] == 'tools.build_records'
  assert source['rejected'] == 2
  assert source['frames'] == 40
  assert source['seconds_histogram'] == {'0': 10}
  assert source['frame_rate_histogram'] == {'25': 10}
  assert source['jpeg_psnr_db']['frames'] == 10
  assert 35 < source['jpeg_psnr_db']['min'] <= source['jpeg_psnr_db']['median'] < 55
  assert {k: source['plan'][k] for k in ('size', 'quality', 'fps', 'rows', 'shards')} == {
    'size': 256, 'quality': 4, 'fps': None, 'rows': 12, 'shards': 3,
  }  # fmt: skip


def test_rows_are_shuffled_the_same_way_each_time(tmp_path, video_root):
  plans = [make_plan(tmp_path, video_root, rows=make_rows(range(100, 200))) for _ in range(2)]
  assert plans[0] == plans[1]
  order = [row.number for task in plans[0].tasks for row in task.rows]
  assert order != sorted(order)
  assert sorted(order) == list(range(102, 202))
  assert [len(task.rows) for task in plans[0].tasks] == [34, 33, 33]


@pytest.mark.parametrize(('rows', 'shards'), [(1, 1), (40, 5), (500, 16), (2048, 16), (2561, 21)])
def test_the_default_number_of_shards_depends_on_the_rows_alone(tmp_path, rows, shards):
  plan = make_plan(tmp_path, '.', rows=make_rows(range(rows)), shards=None)
  assert len(plan.tasks) == shards


def test_a_finished_split_is_found_done(tmp_path, video_root):
  first = build.build(make_plan(tmp_path, video_root), run_here)
  again = build.build(make_plan(tmp_path, video_root), None)
  assert again == dataclasses.replace(first, already=True)


def test_another_split_keeps_the_first_and_its_index(tmp_path, video_root, monkeypatch):
  build.build(make_plan(tmp_path, video_root), run_here)
  rows = make_rows([0, 1])
  build.build(make_plan(tmp_path, video_root, split='test', rows=rows, shards=1), run_here)
  made = manifest.load(tmp_path)
  assert {name: split.examples for name, split in made.splits.items()} == {'train': 10, 'test': 2}
  assert set(made.source['splits']) == {'train', 'test'}
  assert sorted(keys(tmp_path, 'test')) == ['key0', 'key1']
  monkeypatch.setattr(index, 'build', None)  # Both indexes must be there.
  assert [len(index.open_index(tmp_path, made, split)) for split in ('train', 'test')] == [10, 2]


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'size': 32}, 'size 256 there, 32 now'),
    ({'rows': make_rows(range(11))}, 'rows 12 there, 11 now'),
    ({'shards': 2}, 'shards 3 there, 2 now'),
  ],
)
@pytest.mark.parametrize('finished', [True, False])
def test_other_rows_or_settings_are_an_error(tmp_path, video_root, change, message, finished):
  def stop_in_the_second_shard(plan, tasks):
    build.build_shard(tasks[0])
    raise KeyboardInterrupt

  plan = make_plan(tmp_path, video_root)
  if finished:
    build.build(plan, run_here)
  else:
    with pytest.raises(KeyboardInterrupt):
      build.build(plan, stop_in_the_second_shard)
  with pytest.raises(DataError, match=f'begun with other rows or settings.*{message}.*delete'):
    build.build(make_plan(tmp_path, video_root, **change), run_here)
  assert build.build(plan, run_here).examples == 10


@pytest.mark.parametrize(
  ('groups', 'message'),
  [
    ({'label': LabelGroup(('even', 'odd', 'new'))}, "only given: ['new']"),
    ({'label': LabelGroup(('odd', 'even'))}, "the classes of 'label' differ"),
    ({'label': GROUPS['label'], 'more': LabelGroup(('x',))}, "has the label groups ['label']"),
  ],
)
def test_a_split_with_other_classes_is_an_error(tmp_path, video_root, groups, message):
  build.build(make_plan(tmp_path, video_root), run_here)
  with pytest.raises(DataError) as caught:
    build.build(make_plan(tmp_path, video_root, split='test', groups=groups), run_here)
  assert message in str(caught.value)


def test_a_dataset_of_another_kind_is_not_touched(tmp_path, video_root):
  split = records.write_split(
    tmp_path,
    'train',
    [records.encode_example([b'x'], [0], 'k', height=1, width=1, frame_rate=1)],
    1,
  )
  manifest.write(tmp_path, manifest.create([split], {'label': (['even', 'odd'], False)}))
  with pytest.raises(DataError, match='holds a dataset made by another program'):
    build.build(make_plan(tmp_path, video_root, split='test'), run_here)


def test_when_every_row_is_rejected_there_is_no_dataset_and_the_next_try_starts_afresh(
  tmp_path, video_root
):
  rows = make_rows([5, 7])
  plan = make_plan(tmp_path, video_root, rows=rows, shards=2)
  with pytest.raises(
    DataError, match=r'none of the 2 rows gave a record\. The first: row 7, v 5 ü'
  ):
    build.build(plan, run_here)
  assert [path.name for path in tmp_path.iterdir()] == ['rejected-train.csv']
  videos.write_video(tmp_path / rows[0].path, 4)
  assert build.build(make_plan(tmp_path, tmp_path, rows=rows, shards=2), run_here).examples == 1


def test_a_shard_without_records_is_left_out(tmp_path, video_root):
  plan = make_plan(tmp_path, video_root, rows=make_rows([0, 5]), shards=2)
  build.build(plan, run_here)
  assert [shard.examples for shard in manifest.load(tmp_path).splits['train'].shards] == [1]


@pytest.mark.parametrize('damage', ['torn shard', 'lost shard', 'torn note', 'leftovers'])
def test_finished_shards_are_kept_and_torn_ones_are_made_again(tmp_path, video_root, damage):
  def stop(plan, tasks):
    for task in tasks[:2]:
      build.build_shard(task)
    raise KeyboardInterrupt

  build.build(make_plan(tmp_path / 'whole', video_root), run_here)
  plan = make_plan(tmp_path / 'cut', video_root)
  with pytest.raises(KeyboardInterrupt):
    build.build(plan, stop)
  shard = plan.directory / plan.tasks[0].name
  if damage == 'torn shard':
    shard.write_bytes(shard.read_bytes()[:-9])
  elif damage == 'lost shard':
    shard.unlink()
  elif damage == 'torn note':
    plan.tasks[0].note.write_text('{"examples": 1')
  else:
    (plan.folder / '.x.tfrecord.1234.tmp').write_text('torn')
  redone = []

  def run(plan, tasks):
    redone.extend(task.name for task in tasks)
    run_here(plan, tasks)

  build.build(plan, run)
  wanted = [2] if damage == 'leftovers' else [0, 2]
  assert redone == [plan.tasks[i].name for i in wanted]
  assert hashes(tmp_path / 'cut') == hashes(tmp_path / 'whole')
  assert not plan.folder.exists()


def test_the_same_split_is_not_built_twice_at_once(tmp_path, video_root):
  plan = make_plan(tmp_path, video_root)

  def run(plan, tasks):
    with pytest.raises(DataError, match='another process is building this split'):
      build.build(plan, run_here)
    run_here(plan, tasks)

  assert build.build(plan, run).examples == 10


def rows_of(classes, clips=1):
  """Rows of videos `CLASS/NUMBER.mp4`, `clips` of each."""
  return tuple(
    Row(1, f'{name}/{n}.mp4', {'label': (name,)}, f'{name}{n}{clip}', clip, clip + 1)
    for name, count in classes.items()
    for n in range(count)
    for clip in range(clips)
  )


def test_a_fraction_of_each_class_is_held_out_video_by_video():
  rows = rows_of({'a': 10, 'b': 5, 'c': 1}, clips=3)
  train, test = build.hold_out(rows, 0.2)
  assert sorted((*train, *test), key=rows.index) == list(rows)
  assert not {row.path for row in train} & {row.path for row in test}
  counts = Counter(row.labels['label'][0] for row in test)
  assert counts == {'a': 6, 'b': 3}
  assert build.hold_out(rows[::-1], 0.2)[1] == test[::-1]


@pytest.mark.parametrize(('classes', 'fraction'), [({'a': 4}, 0.1), ({'a': 4}, 1.0), ({'a': 4}, 0)])
def test_a_holdout_that_leaves_a_side_empty_is_an_error(classes, fraction):
  with pytest.raises(DataError, match='holdout'):
    build.hold_out(rows_of(classes), fraction)


@pytest.mark.parametrize('split', ['', 'a/b', '.hidden'])
def test_split_names_are_file_names(tmp_path, split):
  with pytest.raises(DataError, match='expected a plain name'):
    make_plan(tmp_path, '.', split=split)


def test_shards_must_not_outnumber_rows(tmp_path):
  with pytest.raises(DataError, match=r'expected 1 to 12 \(rows\) shards, got 13'):
    make_plan(tmp_path, '.', shards=13)
