"""The benchmark of the reader runs on tiny data and measures what it says."""

import multiprocessing

import pytest
from rich.progress import Progress

from benchmarks import clip_records, input_pipeline, reader_scaling
from datasets.batches import Loading
from datasets.build import build_shard
from datasets.clip_config import ClipConfig
from datasets.color import ColorJitterConfig
from errors import DataError

FRAMES = 7
CLIP = ClipConfig(frames=4, stride=2, resize=48, crop=32, flip_prob=0.5)
JITTERED = ClipConfig(
  frames=4, stride=2, resize=48, crop=32, flip_prob=0.5, scale_jitter=(0.9, 1.3)
)


def run_here(plan, tasks):
  for task in tasks:
    build_shard(task)


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  patch = pytest.MonkeyPatch()
  patch.setattr(clip_records, 'HEIGHT', 48)
  patch.setattr(clip_records, 'WIDTH', 64)
  yield clip_records.make_videos(tmp_path_factory.mktemp('videos'), 2, FRAMES)
  patch.undo()


@pytest.fixture(scope='module')
def dataset(source, tmp_path_factory):
  folder = tmp_path_factory.mktemp('records')
  return clip_records.make_records(
    folder, source, records=3, frames=FRAMES, quality=4, run=run_here
  )


@pytest.fixture
def bar():
  return Progress(disable=True)


def test_records_are_those_of_the_videos(source, dataset):
  assert source.paths == ('made-48x64x7-0.mp4', 'made-48x64x7-1.mp4')
  keys = sorted(dataset.key(row) for row in range(len(dataset)))
  assert keys == [f'{number}:{source.paths[number % 2]}' for number in range(3)]
  assert dataset.num_frames.tolist() == [FRAMES] * 3
  facts = input_pipeline.describe(dataset, 4)
  assert (facts['height'], facts['width'], facts['records']) == (48, 64, 3)


def test_real_videos_must_be_long_and_large_enough(source):
  assert clip_records.find_videos(source.folder, frames=FRAMES).paths == source.paths
  with pytest.raises(DataError, match='none of the 2 videos has 8 frames'):
    clip_records.find_videos(source.folder, frames=8)


def test_rows_of_the_first_table(source, dataset, bar, capsys):
  rows = input_pipeline.measure_reader(
    dataset, source, rounds=2, count=2, batches=1, bar=bar, plain=CLIP, kinetics=JITTERED
  )
  assert [row.name for row in rows if row.ceiling] == [
    'clip: crop, flip',
    'clip: jitter, flip, colour on the host',
    '4x3 views of a video',
    'batches: crop, flip',
    'batches: jitter, flip, colour on the host',
  ]
  base, *others = rows
  assert len(base.milliseconds) == 2 * len(others)
  assert set(base.ratios) == {1.0}
  assert all(len(row.ratios) == 2 and min(row.milliseconds) > 0 for row in others)
  input_pipeline.print_reader(input_pipeline.describe(dataset, 4), rows)
  assert len(capsys.readouterr().out.splitlines()) == 3 + len(rows)


def test_the_ceiling_holds_for_the_median():
  row = input_pipeline.Measured('x', 1.4, [1.0, 2.0, 9.0], [1.0, 1.4, 9.0])
  assert row.verdict == 'PASS'
  assert row.facts()['ratio_max'] == 9.0
  row.ratios[1] = 1.41
  assert row.verdict == 'over'


def test_scaling_restoring_and_memory(dataset, bar, capsys):
  loadings = {'1 thread': Loading(1)}
  jitter = ColorJitterConfig(prob=1.0, where='host')
  scaling = reader_scaling.measure(
    dataset, CLIP, jitter, batch=2, steps=2, rounds=2, bar=bar, loadings=loadings
  )
  (row,) = scaling.values()
  assert row['clips_a_second'] > 0
  assert row['memory']['rss'] >= row['memory']['uss'] > 1
  assert len(row['workers']) == len(multiprocessing.active_children())
  restoring = reader_scaling.restoring(dataset, CLIP, batch=2, size=50)
  assert list(restoring) == [0, 1_000, 1_000_000]
  soak = reader_scaling.soak(dataset, CLIP, 2, 20, bar)
  assert soak['warm_up'] == 2
  assert soak['most'] >= soak['end'] > 1
  reader_scaling.print_results(
    {'cores': 2, 'scaling': scaling, 'restoring': restoring, 'soak': soak}
  )
  assert 'memory over 20 batches of 2 clips' in capsys.readouterr().out
