"""What the tool says of a dataset, the sheet it writes, and the exit code of the check."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from datasets import check, demo_tubes, manifest, records, samples, sources
from datasets.manifest import TaskLabels
from tests.datasets import detections
from tools import browse

ROOT = Path(__file__).parents[2]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
  command = [sys.executable, '-m', 'tools.browse', *arguments]
  environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'HOME': str(cwd)}
  return subprocess.run(
    command, cwd=cwd, env=environment, check=False, capture_output=True, text=True
  )


def squeezed(text: str) -> list[str]:
  return [' '.join(line.split()) for line in text.splitlines()]


def test_overview(demo_data_dir):
  contents = sources.contents(demo_data_dir)
  dataset = sources.open_dataset(demo_data_dir, 'test', {})
  lines = squeezed(browse.overview(contents, dataset))
  assert lines[:11] == [
    str(demo_data_dir),
    'train 32 videos',
    'test 16 videos',
    '',
    'test: 16 videos, 400 frames',
    'frames 25',
    'frame rate 12.5 a second',
    'duration 2 s, together 0.01 h',
    '',
    'motion: 8 classes, one a video, 2 examples',
    f'moves left 2 {"█" * 32}',
  ]
  assert len(lines) == 18


def test_overview_of_what_is_not_known_and_left_out(demo_data_dir):
  dataset = sources.open_dataset(demo_data_dir, 'test', {})
  dataset.frame_rate = np.array([0.0] * 4 + [10.0] * 6 + [25.0] * 6)
  dataset.defects = tuple(f'defect {i}' for i in range(12))
  lines = squeezed(browse.overview(sources.contents(demo_data_dir), dataset))
  assert lines[6:9] == [
    'frame rate 10 to 25 a second, median 17.5',
    'duration 1 to 2.5 s, median 1.75, together 0.01 h',
    'of 4 videos the frame rate is not known',
  ]
  assert lines[9] == 'left out: defect 0'
  assert lines[18:20] == [
    'left out: defect 9',
    'left out: 12 records; --check lists every defect',
  ]
  dataset.frame_rate = np.zeros(16)
  lines = squeezed(browse.overview(sources.contents(demo_data_dir), dataset))
  assert lines[6:8] == ['frame rate unknown', 'duration unknown, together 0.00 h']


def test_counts_of_groups(tmp_path):
  examples = [
    records.encode_example([b'x'], labels, str(i), height=1, width=1, frame_rate=1.0)
    for i, labels in enumerate([[0, 2], [0, 2, 3], [1]])
  ]
  groups = {'verb': (['run', 'sit'], False), 'tags': (['a', 'b', 'c'], True)}
  split = records.write_split(tmp_path, 'train', examples, 1)
  manifest.write(tmp_path, manifest.create([split], groups))
  contents = sources.contents(tmp_path)
  counts = browse.label_counts(contents.groups, sources.open_dataset(tmp_path, 'train', {}))
  assert {name: count.tolist() for name, count in counts.items()} == {
    'verb': [2, 1],
    'tags': [2, 1, 0],
  }
  lines = squeezed('\n'.join(browse.class_table('tags', contents.groups['tags'], counts['tags'])))
  assert lines == [
    'tags: 3 classes, any number a video, 0 to 2, median 1 examples',
    f'a 2 {"█" * 32}',
    f'b 1 {"█" * 16}',
    'c 0',
    '1 of 3 classes have no example',
  ]


def test_overview_and_sheet_of_boxes(tmp_path):
  seen = [detections.proposal(detections.THIRD, 0.5), detections.proposal(detections.FIRST, 0.75)]
  examples = [detections.example('a', proposals=seen), detections.example('b', [])]
  dataset = detections.dataset(tmp_path, examples)
  lines = squeezed(browse.overview(sources.contents(tmp_path), dataset))
  assert lines[7:12] == [
    'annotated 2 boxes, 0 to 2, median 1 a keyframe',
    'detected 2 boxes, 0 to 2, median 1 a keyframe, scores 0.5 to 0.75, median 0.62',
    '',
    'action: 4 classes, any number a box, 0 to 1, median 1 boxes',
    f'stand 1 {"█" * 32}',
  ]
  shown = browse.Shown('how', samples.plain_samples(dataset, 2, 0))
  browse.draw_sheet(tmp_path / 'sheet.png', dataset, shown)
  red, green, blue = (
    np.asarray(Image.open(tmp_path / 'sheet.png').convert('RGB'), int).reshape(-1, 3).T
  )
  assert (green - red > 80).sum() > 200  # Annotated boxes,
  assert (red - blue > 80).sum() > 200  # and detected ones: the rest is grey.


def test_of_many_classes_the_fullest_and_the_emptiest():
  group = TaskLabels(tuple(f'class {i}' for i in range(41)), False, 0)
  lines = squeezed('\n'.join(browse.class_table('label', group, np.arange(41) * 1000)))
  assert len(lines) == 1 + 15 + 1 + 15 + 1
  assert lines[1].startswith('class 40 40,000 █')
  assert lines[15].startswith('class 26 26,000')
  assert lines[16] == '... 11 more'
  assert lines[17].startswith('class 14 14,000')
  assert lines[31:] == ['class 0 0', '1 of 41 classes have no example']
  assert len(browse.class_table('label', group, np.ones(41))) == 32
  forty = TaskLabels(group.classes[:40], False, 0)
  assert len(browse.class_table('label', forty, np.ones(40))) == 41


def test_sheet_without_a_config(demo_data_dir, tmp_path):
  done = run(f'--data={demo_data_dir}', '--clips=3', cwd=tmp_path)
  assert (done.returncode, done.stderr) == (0, '')
  assert 'train: 32 videos' in done.stdout
  assert done.stdout.endswith(f'config shows training clips:\n  {tmp_path}/browse.png\n')
  width, height = Image.open(tmp_path / 'browse.png').size
  assert 1500 < width < 2000
  assert 600 < height < 1000
  first = (tmp_path / 'browse.png').read_bytes()
  again = run(f'--data={demo_data_dir}', '--clips=2', '--split=test', cwd=tmp_path)
  assert again.stdout.endswith(f'{tmp_path}/browse.png (replaced)\n')
  assert 'test: 16 videos' in again.stdout
  assert (tmp_path / 'browse.png').read_bytes() != first
  none = run(f'--data={demo_data_dir}', '--clips=0', '--out=none.png', cwd=tmp_path)
  assert none.returncode == 0
  assert not (tmp_path / 'none.png').exists()


def test_sheets_of_a_config(demo_data_dir, tmp_path):
  config = [f'--config={ROOT}/configs/vivit/demo.py', '--config.augment.mix.mixup_alpha=0.3']
  directory = f'--config.datasets.demo.dir={demo_data_dir}'
  train = run(*config, directory, '--clips=2', '--out=train.png', cwd=tmp_path)
  assert train.returncode == 0
  assert '2 clips, as vivit/demo trains on them first, seed 0:' in train.stdout
  test = run(
    *config, f'--data={demo_data_dir}', '--split=test', '--clips=2', '--seed=3', cwd=tmp_path
  )
  assert test.returncode == 0
  assert '2 clips, the first views that vivit/demo is evaluated on' in test.stdout
  assert [Image.open(tmp_path / name).size[0] > 1500 for name in ('train.png', 'browse.png')]


def test_mistakes(demo_data_dir, tmp_path):
  assert 'Needed: --data=DIR or --config=FILE' in run(cwd=tmp_path).stderr
  missing = run(f'--data={demo_data_dir}', '--split=val', cwd=tmp_path)
  assert missing.returncode == 1
  assert "no split 'val'; the manifest has ['test', 'train']" in missing.stderr
  assert list(tmp_path.iterdir()) == []


def test_check_prints_writes_and_fails(demo_data_dir, tmp_path):
  sound = run(f'--data={demo_data_dir}', '--check', '--split=test', cwd=tmp_path)
  assert (sound.returncode, sound.stderr) == (0, '')
  assert sound.stdout == f'{demo_data_dir}: no defects in 16 records (400 frames).\n'
  assert not (tmp_path / 'defects.csv').exists()
  examples = [
    records.encode_example([b'x'], [0], 'k', height=1, width=1, frame_rate=1.0) for _ in range(4)
  ]
  made = manifest.create(
    [records.write_split(tmp_path, 'train', examples, 1)], {'label': (['a'], False)}
  )
  manifest.write(tmp_path, made)
  done = run(f'--data={tmp_path}', '--check', cwd=tmp_path)
  assert (done.returncode, done.stderr) == (1, '')
  lines = done.stdout.splitlines()
  assert "split 'train' has no index yet" in lines[0]
  shard = 'train-00000-of-00001.tfrecord'
  assert lines[1].startswith(f'{shard}, record 0, byte ')
  assert "key 'k': decode: frame 0: cannot be decoded" in lines[1]
  assert lines[-3:] == [
    '... and 5 more',
    f'{tmp_path}: 15 defects in 4 records (4 frames): decode 4, frames 4, format 4, key 3.',
    f'All of them: {tmp_path}/defects.csv',
  ]
  assert len(lines) == 1 + 10 + 3
  assert len((tmp_path / 'defects.csv').read_text().splitlines()) == 16


def test_text_of_a_shards_defect():
  defect = check.Defect('a', check.SHARD, 7, '', 'framing', 'truncated')
  text = browse.report_text('data', check.Report((defect,), 3, 9, ()))
  assert text == 'a, byte 7: framing: truncated\ndata: 1 defect in 3 records (9 frames): framing 1.'


def test_images_are_called_so_and_drawn(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)  # The sheet names the place, and is as wide as that needs.
  place = Path('images')
  demo_tubes.write_images(place, train=8, test=8)
  dataset = sources.open_dataset(place, 'test', {'appearance': 'appearance'})
  lines = squeezed(browse.overview(sources.contents(place), dataset))
  assert lines[1:6] == [
    'train 8 images',
    'test 8 images',
    '',
    'test: 8 images',
    '',
  ]
  drawn = samples.plain_samples(dataset, 2, 0)
  for sample in drawn:
    assert sample.pixels.shape == (1, 64, 64, 3) and sample.marks == ['0']
    assert sample.lines == [sample.key, 'whole frame of 64 x 64 px']
  browse.draw_sheet(tmp_path / 'sheet.png', dataset, browse.Shown('how', drawn))
  with Image.open(tmp_path / 'sheet.png') as sheet:
    assert sheet.width < 1000 and np.asarray(sheet.convert('L')).min() < 128
