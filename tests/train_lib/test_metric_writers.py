"""The JSON lines survive kills and restarts, and TensorBoard gets the same numbers."""

import json
import math
import time

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from errors import ConfigError, DataError
from train_lib.metric_writers import JsonlWriter, TensorBoardWriter, create_writers, read_scalars


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


def shown(workdir, name):
  """(step, value) pairs as TensorBoard reads them."""
  events = EventAccumulator(str(workdir))
  events.Reload()
  return [(event.step, event.value) for event in events.Scalars(name)]


def test_create_writers_writes_both(tmp_path):
  workdir = tmp_path / 'new' / 'run'
  writer = create_writers(workdir)
  writer.write_scalars(7, {'loss': jnp.float32(1.5), 'accuracy': np.float64(0.25)})
  writer.flush()
  assert shown(workdir, 'loss') == [(7, 1.5)]
  writer.write_scalars(8, {'loss': math.inf})
  writer.close()
  assert [(row['step'], row['loss']) for row in read_scalars(workdir / 'metrics.jsonl')] == [
    (7, 1.5),
    (8, math.inf),
  ]
  assert shown(workdir, 'loss') == [(7, 1.5), (8, math.inf)]
  assert shown(workdir, 'accuracy') == [(7, 0.25)]
  create_writers(workdir, resume_step=5).close()
  assert read_scalars(workdir / 'metrics.jsonl') == []


def test_tensorboard_leaves_out_what_was_lost(tmp_path, monkeypatch):
  clock = iter(range(1_700_000_000, 1_800_000_000))
  monkeypatch.setattr(time, 'time', lambda: float(next(clock)))
  first = TensorBoardWriter(tmp_path)
  for step in (10, 20, 30):
    first.write_scalars(step, {'loss': float(step)})
  first.close()
  second = TensorBoardWriter(tmp_path, resume_step=20)
  second.write_scalars(25, {'loss': 2.5})
  second.close()
  assert shown(tmp_path, 'loss') == [(10, 10.0), (20, 20.0), (25, 2.5)]


def test_other_hosts_write_nothing(tmp_path, monkeypatch):
  monkeypatch.setattr('jax.process_index', lambda: 1)
  writer = create_writers(tmp_path / 'run')
  writer.write_scalars(1, {'loss': 1.0})
  writer.close()
  assert not (tmp_path / 'run').exists()
