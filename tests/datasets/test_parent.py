"""Worker processes that end with the process that started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 120
SCRIPT = """
import os, signal, sys
from configs.vivit import demo
from datasets import batches
from datasets.clip_config import ClipConfig
from datasets.sources import open_dataset

if __name__ == '__main__':
  dataset = open_dataset(sys.argv[1], 'train', {'motion': 'motion'})
  clip = ClipConfig(**demo.get_config().datasets.demo.clip)
  loading = batches.Loading(num_threads=1, num_processes=1)
  next(batches.train_batches(dataset, clip, batch_size=2, seed=0, loading=loading))
  os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_trainer_leaves_no_reader_behind(demo_data_dir, tmp_path):
  script = tmp_path / 'killed.py'
  script.write_text(SCRIPT)
  with (tmp_path / 'output').open('w') as output:  # A pipe would be held open by what is left.
    process = subprocess.Popen(
      [sys.executable, str(script), str(demo_data_dir)],
      env={**os.environ, 'PYTHONPATH': str(ROOT)},
      stdout=output,
      stderr=output,
      start_new_session=True,
    )
  assert process.wait() == -signal.SIGKILL, (tmp_path / 'output').read_text()
  deadline = time.monotonic() + PATIENCE_SECONDS
  while is_alive(process.pid):
    assert time.monotonic() < deadline, 'its worker runs on'
    time.sleep(0.05)


def is_alive(group):
  """Whether the group has a process."""
  try:
    os.killpg(group, 0)
  except ProcessLookupError:
    return False
  return True
