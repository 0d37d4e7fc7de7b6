"""The way of docs/own_data.md and docs/data.md, on videos that the test makes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.datasets.videos import write_video

ROOT = Path(__file__).parents[2]
TINY = (
  '--config=configs/finetune.py:trunk=vivit,size=Ti,frames=4,crop=32',
  '--config.compute_dtype=float32',
  '--config.trunk.num_layers=1',
  '--config.trunk.temporal_num_layers=0',
  '--config.batch_size=4',
  '--config.duration=4 steps',
  '--config.evaluation.batch_size=4',
  '--config.evaluation.every=never',
  '--config.checkpoint.every=never',
)


def command(*arguments):
  environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
  done = subprocess.run(
    [sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, env=environment
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


def falling(number, up):
  """A bright bar that moves down, or up, over a dark frame."""
  frame = np.full((48, 64, 3), 30, np.uint8)
  top = (40 - 2 * number if up else 2 * number) % 44
  frame[top : top + 5] = 220
  return frame


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
  """`sinks` and `rises`, five videos each, and a file that is none."""
  root = tmp_path_factory.mktemp('videos of mine')
  for name, up in (('sinks', False), ('rises', True)):
    (root / name).mkdir()
    for i in range(5):
      write_video(root / name / f'ä {i}.mp4', 20, pictures=lambda n, up=up, i=i: falling(n + i, up))
  (root / 'rises' / 'broken.mp4').write_bytes(b'')
  return root


def test_from_a_folder_of_videos_to_a_training_run(videos, tmp_path):
  data, workdir = tmp_path / 'data', tmp_path / 'my run'
  built = command(
    '-m',
    'tools.build_records',
    f'--video_root={videos}',
    f'--out={data}',
    '--holdout=0.2',
    '--workers=1',
  )
  counts = re.findall(r'(\w+): (\d+) written, (\d+) rejected\.', built)
  assert [split for split, *_ in counts] == ['train', 'test']
  assert [sum(int(count[i]) for count in counts) for i in (1, 2)] == [10, 1]
  held_out = int(counts[1][1])
  assert held_out >= 1
  looked = command('-m', 'tools.browse', f'--data={data}', f'--out={tmp_path / "look.png"}')
  assert 'sinks' in looked
  assert (tmp_path / 'look.png').stat().st_size > 10_000
  trained = command('main.py', *TINY, f'--config.datasets.own.dir={data}', f'--workdir={workdir}')
  assert 'Done.' in trained
  assert f"predict       python -m tools.predict '--checkpoint={workdir}' --video=FILE" in trained
  assert 'top1/label by class, worst first\n' in trained
  (metrics,) = workdir.glob('eval/own/test/*/metrics.json')
  assert json.loads(metrics.read_text())['examples'] == held_out
  predictions = (metrics.parent / 'predictions.jsonl').read_text().splitlines()
  names = {top['name'] for line in predictions for top in json.loads(line)['label']['top5']}
  assert names == {'rises', 'sinks'}


def test_straight_from_the_videos(videos, tmp_path):
  lines = [
    f'{name}/ä {i}.mp4,{name},{"test" if i == 4 else "train"}'
    for name in ('sinks', 'rises')
    for i in range(5)
  ]
  text = '\n'.join(['path,label,split', *lines, 'rises/broken.mp4,rises,train'])
  (videos / 'clips.csv').write_text(text, encoding='utf-8')
  workdir = tmp_path / 'run'
  done = command('main.py', *TINY, f'--config.datasets.own.dir={videos}', f'--workdir={workdir}')
  assert 'Done.' in done
  (metrics,) = workdir.glob('eval/own/test/*/metrics.json')
  assert json.loads(metrics.read_text())['examples'] == 2
