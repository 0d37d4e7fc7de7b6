"""The JSON lines survive kills and restarts, and TensorBoard gets the same numbers."""

import json
import math
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from errors import ConfigError, DataError
from train_lib.metric_writers import JsonlWriter, create_writers, read_scalars


def steps(path) -> list[int]:
  return [row['step'] for row in read_scalars(path)]


def test_lines_are_on_disk_before_close(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  writer = JsonlWriter(path)
  writer.write_scalars(3, {'loss': jnp.float32(0.5), 'accuracy': np.float64(0.25), 'epoch': 2})
  (line,) = path.read_text().splitlines()
  row = json.loads(line)
  assert row.pop('time') > 1.6e9
  assert list(row) == ['step', 'loss', 'accuracy', 'epoch']
  assert row == {'step': 3, 'loss': 0.5, 'accuracy': 0.25, 'epoch': 2}
  writer.write_scalars(np.int64(4), {})
  assert steps(path) == [3, 4]


def test_not_finite_is_valid_json(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  values = {'a': float('nan'), 'b': jnp.inf, 'c': np.float32(-np.inf)}
  JsonlWriter(path).write_scalars(0, values)

  def refuse(constant):
    raise ValueError(constant)

  row = json.loads(path.read_text(), parse_constant=refuse)
  assert (row['a'], row['b'], row['c']) == ('NaN', 'Infinity', '-Infinity')
  (row,) = read_scalars(path)
  assert math.isnan(row['a']) and row['b'] == math.inf and row['c'] == -math.inf


def test_resume_drops_later_steps(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  writer = JsonlWriter(path)
  for step in (10, 20, 20, 30):
    writer.write_scalars(step, {'loss': float(step)})
  writer.close()
  kept = path.read_text().splitlines()[:3]
  writer = JsonlWriter(path, resume_step=20)
  assert path.read_text().splitlines() == kept
  writer.write_scalars(25, {'loss': float('nan')})
  writer.close()
  assert steps(path) == [10, 20, 20, 25]
  JsonlWriter(path, resume_step=30).close()
  assert steps(path) == [10, 20, 20, 25]
  assert [p.name for p in tmp_path.iterdir()] == ['metrics.jsonl']
  JsonlWriter(path, resume_step=0).close()
  assert path.read_text() == ''


def test_without_a_resume_step_everything_stays(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  for _ in range(2):
    JsonlWriter(path).write_scalars(5, {'loss': 1.0})
  assert steps(path) == [5, 5]


def test_a_line_cut_short_is_dropped(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1, "time": 2.0, "loss": 3.0}\n{"step": 2, "ti')
  assert steps(path) == [1]
  JsonlWriter(path).write_scalars(2, {'loss': 4.0})
  assert steps(path) == [1, 2]


@pytest.mark.parametrize('damaged', ['{"step": 1,', '[]', '{"time": 1.0}', ''])
def test_a_damaged_file_is_an_error_and_stays(tmp_path, damaged):
  path = tmp_path / 'metrics.jsonl'
  text = '{"step": 1, "time": 2.0}\n' + damaged + '\n{"step": 2, "time": 2.0}\n'
  path.write_text(text)
  with pytest.raises(DataError, match=r'metrics\.jsonl, line 2: expected a JSON object'):
    JsonlWriter(path, resume_step=1)
  assert path.read_text() == text


def test_reserved_names_are_refused(tmp_path):
  writer = JsonlWriter(tmp_path / 'metrics.jsonl')
  with pytest.raises(ConfigError, match="may not be called 'time'"):
    writer.write_scalars(1, {'time': 2.0})
  assert steps(tmp_path / 'metrics.jsonl') == []


def test_importing_does_not_load_tensorflow():
  code = 'import sys, train_lib.metric_writers; sys.exit("tensorflow" in sys.modules)'
  assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0


def test_create_writers_writes_both(tmp_path):
  workdir = tmp_path / 'new' / 'run'
  writer = create_writers(workdir)
  writer.write_scalars(7, {'loss': jnp.float32(1.5)})
  writer.write_hparams({'learning_rate': 0.1})
  writer.write_texts(7, {'config': 'x'})
  writer.write_images(7, {'image': np.zeros((1, 4, 4, 3), np.uint8)})
  writer.write_histograms(7, {'h': np.arange(5.0)})
  writer.flush()
  writer.close()
  (row,) = read_scalars(workdir / 'metrics.jsonl')
  assert (row['step'], row['loss']) == (7, 1.5)
  events = EventAccumulator(str(workdir), size_guidance={'tensors': 0})
  events.Reload()
  (event,) = events.Tensors('loss')
  assert event.step == 7
  assert float(tensor_util.make_ndarray(event.tensor_proto)) == 1.5
  create_writers(workdir, resume_step=5).close()
  assert read_scalars(workdir / 'metrics.jsonl') == []


def test_jsonl_writer_is_a_clu_writer(tmp_path):
  from clu import metric_writers

  create_writers(tmp_path).close()
  writer = JsonlWriter(tmp_path / 'metrics.jsonl')
  assert isinstance(writer, metric_writers.MetricWriter)
  missing = [n for n in metric_writers.MetricWriter.__abstractmethods__ if not hasattr(writer, n)]
  assert missing == []


def test_other_hosts_write_nothing(tmp_path, monkeypatch):
  monkeypatch.setattr('jax.process_index', lambda: 1)
  writer = create_writers(tmp_path / 'run')
  writer.write_scalars(1, {'loss': 1.0})
  writer.close()
  assert not (tmp_path / 'run').exists()
