"""The demo as `make demo` runs it, through the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_demo_learns_to_tell_motions_apart(tmp_path):
  data, workdir = tmp_path / 'data', tmp_path / 'run'
  make = [sys.executable, '-m', 'tools.make_demo_data', f'--out={data}']
  subprocess.run(make, cwd=ROOT, check=True)
  train = [sys.executable, 'main.py', '--config=configs/vivit/demo.py', f'--workdir={workdir}']
  train += [f'--config.datasets.demo.dir={data}', '--config.evaluation.every=never']
  ours = ('JAX_DISABLE_MOST_OPTIMIZATIONS', 'XLA_FLAGS')
  as_users_have_it = {k: v for k, v in os.environ.items() if k not in ours}
  done = subprocess.run(
    train, cwd=ROOT, check=True, capture_output=True, text=True, env=as_users_have_it
  )
  results = workdir / 'eval' / 'demo' / 'test' / '00001600'
  metrics = json.loads((results / 'metrics.json').read_text())
  assert metrics['examples'] == 160
  assert metrics['top1/motion'] >= 0.9
  for file in ('predictions.jsonl', 'confusion_motion.png', 'clips_motion.png'):
    assert (results / file).stat().st_size > 0
    assert str(results / file) in done.stdout
