"""The command: flags to splits, what it prints, and how it fails."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver

from datasets import index, manifest
from datasets.record_dataset import RecordDataset
from errors import ConfigError, DataError
from tests.datasets import videos
from tests.datasets.test_build import run_here
from tools import build_records

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='session')
def video_root(tmp_path_factory):
  """Class folders 'jump' with 5 videos and 'run and hide' with 6, one of which is no video."""
  root = tmp_path_factory.mktemp('classes')
  for folder, count in (('jump', 5), ('run and hide', 5)):
    (root / folder).mkdir()
    for number in range(count):
      videos.write_video(root / folder / f'{number}.mp4', 4)
  (root / 'run and hide' / 'x.mp4').write_text('no video')
  return root


@pytest.fixture
def build_in(tmp_path, monkeypatch, video_root):
  """Calls the command in this process with flags; returns the manifest."""
  # Other commands imported in this process may have put flags of theirs in the place of these.
  importlib.reload(build_records)
  monkeypatch.setitem(flags.FLAGS.__dict__, '__flags_parsed', True)  # and not so afterwards
  monkeypatch.setattr(
    build_records.workers, 'run_processes', lambda plan, tasks, workers: run_here(plan, tasks)
  )

  def run(**given):
    out = tmp_path / 'out'
    texts = {name: str(value) for name, value in given.items()}
    with flagsaver.as_parsed(**{'video_root': str(video_root), 'out': str(out), **texts}):
      build_records.main()
    return manifest.load(out)

  return run


def sizes(made):
  return {name: split.examples for name, split in made.splits.items()}


def keys(tmp_path, made, split):
  found = index.open_index(tmp_path / 'out', made, split)
  return sorted(found.key(row) for row in range(len(found)))


def write_csv(tmp_path, text):
  path = tmp_path / 'clips.csv'
  path.write_text(text, encoding='utf-8')
  return str(path)


def test_class_folders_with_a_part_held_out(build_in, tmp_path, capsys):
  made = build_in(holdout=0.2)
  assert sizes(made) == {'train': 8, 'test': 2}
  assert [key.split('/')[0] for key in keys(tmp_path, made, 'test')] == ['jump', 'run and hide']
  assert made.tasks['label'].classes == ('jump', 'run and hide')
  output = capsys.readouterr().out
  assert 'run and hide/x.mp4: cannot be read as a video' in output
  assert not set(keys(tmp_path, made, 'train')) & set(keys(tmp_path, made, 'test'))
  build_in(holdout=0.2)
  assert capsys.readouterr().out.count('already built, nothing to do.') == 2


def test_a_csv_names_the_splits(build_in, tmp_path, capsys):
  path = write_csv(
    tmp_path,
    'path,label,start,end,split\n'
    'jump/0.mp4,jump,,,train\n'
    'jump/0.mp4,jump,,,train\n'
    'jump/1.mp4,jump,0.04,0.12,val\n'
    'run and hide/gone.mp4,"hide, then run",,,train\n'
    'run and hide/2.mp4,"hide, then run",,,train\n',
  )
  made = build_in(csv=path, size=32)
  assert sizes(made) == {'train': 2, 'val': 1}
  assert made.tasks['label'].classes == ('hide, then run', 'jump')
  assert keys(tmp_path, made, 'val') == ['jump/1.mp4@0.04-0.12']
  source = made.source['splits']['train']
  assert source['annotations']['file'] == 'clips.csv'
  assert len(source['annotations']['sha256']) == 64
  assert source['plan']['size'] == 32
  output = capsys.readouterr().out
  assert 'train: 2 written, 2 rejected.' in output
  assert 'row 3, jump/0.mp4: same path, start and end as row 2' in output
  assert 'row 5, run and hide/gone.mp4: no such video file.' in output
  assert f'all rejected rows: {tmp_path}/out/rejected-train.csv' in output
  assert 'val: 1 written, 0 rejected.' in output


def test_one_split_of_a_csv(build_in, tmp_path):
  path = write_csv(
    tmp_path, 'path,label,split\njump/0.mp4,jump,train\nrun and hide/0.mp4,run,val\n'
  )
  assert sizes(build_in(csv=path, split='val')) == {'val': 1}
  assert sizes(build_in(csv=path)) == {'val': 1, 'train': 1}
  with pytest.raises(ConfigError, match=r"--split=dev: .* names \['train', 'val'\]"):
    build_in(csv=path, split='dev')


def test_a_later_split_takes_the_classes_of_the_dataset(build_in, tmp_path, capsys):
  build_in()
  path = write_csv(tmp_path, 'path,label\njump/0.mp4,jump\njump/1.mp4,swim\n')
  made = build_in(csv=path, split='test')
  assert sizes(made) == {'train': 10, 'test': 1}
  assert made.tasks['label'].classes == ('jump', 'run and hide')
  assert "'swim' is not among the 2 classes of 'label'" in capsys.readouterr().out


def test_several_label_groups(build_in, tmp_path):
  path = write_csv(tmp_path, 'path,label:verb,label:tags\njump/0.mp4,jump,a|b\njump/1.mp4,hop,\n')
  made = build_in(csv=path, multi_label='tags')
  assert made.tasks['verb'].classes == ('hop', 'jump')
  assert (made.tasks['tags'].classes, made.tasks['tags'].multi_label) == (('a', 'b'), True)


def test_a_public_layout(build_in, tmp_path):
  path = write_csv(
    tmp_path, 'label,youtube_id,time_start,time_end,split\njump,0,0,1,train\nrun,1,0,1,val\n'
  )
  made = build_in(csv=path, layout='kinetics', split='validation', trimmed=True)
  assert sizes(made) == {'validation': 1}


def test_whole_videos_in_place_of_segments(build_in, tmp_path, capsys):
  segments = [{'label': 'Jump', 'segment': [0, 0.05]}, {'label': 'Jump', 'segment': [0.08, 0.12]}]
  database = {
    '0': {'subset': 'training', 'annotations': segments},
    '1': {'subset': 'validation', 'annotations': segments},
  }
  path = write_csv(tmp_path, json.dumps({'database': database}))
  made = build_in(csv=path, layout='activitynet', whole_videos='validation')
  assert sizes(made) == {'train': 2, 'validation': 1}
  assert keys(tmp_path, made, 'validation') == ['jump/1.mp4']
  assert made.source['splits']['train']['annotations']['whole_videos'] == ['validation']


def test_segments_cut_into_clips(build_in, tmp_path, capsys):
  # The videos have 4 frames, 0.16 s.
  segments = [{'label': 'Jump', 'segment': [0, 0.17]}, {'label': 'Jump', 'segment': [0.04, 0.07]}]
  others = [{'label': 'Jump', 'segment': [0, 0.09]}, {'label': 'Jump', 'segment': [0.04, 0.08]}]
  database = {
    '0': {'subset': 'training', 'annotations': segments},
    '1': {'subset': 'validation', 'annotations': others},
  }
  path = write_csv(tmp_path, json.dumps({'database': database}))
  made = build_in(csv=path, layout='activitynet', segment_seconds=0.04)
  # Of the first four clips and a left hundredth, of the second one and as much as half of another.
  expected = ['0-0.04', '0.04-0.07', '0.04-0.08', '0.08-0.12', '0.12-0.16']
  assert keys(tmp_path, made, 'train') == sorted(f'jump/0.mp4@{times}' for times in expected)
  assert made.source['splits']['train']['annotations']['segment_seconds'] == 0.04
  output = capsys.readouterr().out
  assert 'train: 5 written, 1 rejected.' in output
  assert 'the last 0.01 s of jump/0.mp4@0-0.17 are less than half a clip' in output
  assert 'validation: 2 written, 2 rejected.' in output
  assert {name: split['rejected'] for name, split in made.source['splits'].items()} == {
    'train': 1,
    'validation': 2,
  }
  listed = {name: (tmp_path / 'out' / f'rejected-{name}.csv').read_text() for name in made.splits}
  assert 'jump/1' not in listed['train']
  assert listed['validation'].splitlines()[1:] == [
    '2,jump/1.mp4,the last 0.01 s of jump/1.mp4@0-0.09 are less than half a clip',
    '2,jump/1.mp4,its part jump/1.mp4@0.04-0.08 is also one of row 2',
  ]


def test_boxes_of_keyframes(build_in, tmp_path, capsys):
  (tmp_path / 'map.pbtxt').write_text('item { name: "sit" id: 11 } item { name: "run" id: 10 }')
  box = '0.25,0.25,0.5,0.5'
  path = write_csv(
    tmp_path,
    f'0,0.08,{box},10,0\n0,0.080,{box},11,0\n0,0.08,{box},12,0\n1,0.04,{box},10\n'
    f'1,0.08,{box},11\n2,1,{box},10\n2,1,{box},11\ngone,1,{box},10\n',
  )
  (tmp_path / 'seen.csv').write_text(f'0,0.08,{box},,0.5\n0,0.12,{box},,0.5\n2,1.0,{box},,0.5\n')
  (tmp_path / 'out.csv').write_text('1,0.08\n')
  flags_given = {
    'layout': 'ava', 'csv': path, 'labelmap': tmp_path / 'map.pbtxt',
    'proposals': tmp_path / 'seen.csv', 'excluded': tmp_path / 'out.csv', 'clip_seconds': 0.08,
  }  # fmt: skip
  made = build_in(**flags_given)
  assert sizes(made) == {'train': 2}
  assert made.tasks['label'] == manifest.TaskLabels(('run', 'sit'), True, 0, True, (10, 11))
  dataset = RecordDataset(tmp_path / 'out', 'train', {'actions': 'label'})
  row = [dataset.key(row) for row in range(2)].index('0,0.08')
  assert dataset.num_frames.tolist() == [2, 2]
  assert dataset.keyframe_seconds(row) == 0.08
  assert dataset.class_ids('actions') == (10, 11)
  found = dataset.regions(row, 'actions')
  assert found.boxes.tolist() == [[0.25, 0.25, 0.5, 0.5]] * 2
  assert found.labels.tolist() == [[1, 1], [0, 0]]
  assert found.scores.tolist() == [1, 0.5]
  output = capsys.readouterr().out
  assert 'train: 2 written, 3 rejected.' in output
  assert "row 3, clips.csv: class '12' is not in the label map of 2 classes, 10 to 11." in output
  assert 'row 6, jump/2.mp4: the keyframe at 1 s is beyond the end of the file.' in output
  totals = (
    'clips.csv: 8 rows = 3 used + 4 rejected + 1 of excluded keyframes\n'
    'seen.csv: 3 rows = 2 used + 1 of other keyframes\n'
    'out.csv: 1 rows = 1 used\n'
  )
  assert output.endswith(totals)
  build_in(**flags_given)
  assert capsys.readouterr().out.endswith(totals)
  (tmp_path / 'map.pbtxt').write_text('item { name: "sit" id: 1 } item { name: "run" id: 0 }')
  with pytest.raises(DataError, match=r"label group 'label' is \(several labels, of boxes, ids\)"):
    build_in(**{**flags_given, 'split': 'val', 'csv': write_csv(tmp_path, f'0,0.08,{box},1\n')})
  with pytest.raises(ConfigError, match='--layout=ava needs --labelmap=FILE'):
    build_in(layout='ava', csv=path)


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'quality': 1}, r'quality: expected 2 \(best\) to 31'),
    ({'size': 255}, 'size: expected an even number'),
    ({'fps': -1.0}, 'fps: expected more than 0'),
    ({'workers': 0}, '--workers: expected at least 1'),
    ({'holdout': 0.2, 'split': 'val'}, '--holdout makes the splits itself'),
    ({'layout': 'kinetics'}, '--layout=kinetics needs an annotation file'),
  ],
)
def test_flags_that_cannot_be(build_in, given, message):
  with pytest.raises(ConfigError, match=message):
    build_in(**given)


def test_nothing_written_is_an_error(build_in, tmp_path):
  path = write_csv(tmp_path, 'path,label\ngone.mp4,jump\n')
  with pytest.raises(DataError, match='none of the 1 rows gave a record'):
    build_in(csv=path)


def test_the_command_line(tmp_path, video_root):
  def run(*flags):
    return subprocess.run(
      [sys.executable, '-m', 'tools.build_records', f'--out={tmp_path / "out"}', *flags],
      cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip

  failed = run(f'--video_root={tmp_path / "nowhere"}')
  assert failed.returncode == 1
  assert failed.stderr.startswith('DataError: ')
  assert 'Traceback' not in failed.stderr
  done = run(f'--video_root={video_root}', '--workers=1')
  assert (done.returncode, done.stderr) == (0, '')
  # Of a slow machine's progress there are lines between the two.
  lines = [line for line in done.stdout.splitlines() if 'ETA' not in line]
  assert lines[lines.index('train: 11 rows to convert ...') + 1] == 'train: 10 written, 1 rejected.'
