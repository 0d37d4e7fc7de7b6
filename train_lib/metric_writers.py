"""Where a run's numbers go: TensorBoard events through CLU, and `metrics.jsonl` for scripts.

Importing `clu.metric_writers`, or any module under it, imports TensorFlow (seconds and hundreds of
megabytes), so this module does it only inside `create_writers`.
"""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from absl import logging

from errors import ConfigError, DataError

if TYPE_CHECKING:
  from clu.metric_writers import MultiWriter

_RESERVED = ('step', 'time')


def create_writers(
  workdir: str | os.PathLike[str], resume_step: int | None = None
) -> 'MultiWriter':
  """Returns one CLU writer for `workdir`: TensorBoard events, and scalars in `metrics.jsonl`.

  The JSON lines are on disk at once, TensorBoard's events after a flush. TensorBoard keeps the events
  of an earlier run beyond `resume_step` and shows both. On hosts other than the first the writer does
  nothing.

  Args:
    workdir: a folder on a file system that can append (not an object store); made if missing.
    resume_step: the step just restored; see `JsonlWriter`.

  Raises:
    DataError: `metrics.jsonl` is damaged.
  """
  from clu import metric_writers

  if jax.process_index() > 0:
    return metric_writers.MultiWriter([])
  # A virtual base class, because a real one would need the import when this module is loaded.
  metric_writers.MetricWriter.register(JsonlWriter)
  path = Path(workdir)
  path.mkdir(parents=True, exist_ok=True)
  # Not CLU's AsyncWriter: interrupted, it writes to a file it has closed. TensorFlow's own writer
  # buffers, and log steps are rare.
  tensorboard = metric_writers.SummaryWriter(str(path))
  return metric_writers.MultiWriter([JsonlWriter(path / 'metrics.jsonl', resume_step), tensorboard])


class JsonlWriter:
  """A CLU metric writer that appends one JSON object per `write_scalars` call to a file.

  A line is `{"step": int, "time": float seconds since the epoch, name: number, ...}` and is flushed
  at once, so a killed run loses nothing. JSON has no NaN or infinity: they are the strings "NaN",
  "Infinity" and "-Infinity", which `float` reads back. Everything but scalars is ignored.

  Args:
    path: the file; its folder exists.
    resume_step: lines of an earlier run with a larger step are dropped, so that a step appears
      once; None keeps all. A last line cut short by a kill is dropped either way.

  Raises:
    DataError: a line of the existing file, other than the last, is not such an object.
  """

  def __init__(self, path: str | os.PathLike[str], resume_step: int | None = None):
    self._path = Path(path)
    _drop_lines_after(self._path, resume_step)
    self._file = self._path.open('a', encoding='utf-8')

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Appends a line of Python, numpy or JAX scalars; ConfigError for the names step and time."""
    clash = [name for name in _RESERVED if name in scalars]
    if clash:
      raise ConfigError(f'{self._path}: a scalar may not be called {clash[0]!r}; rename the metric')
    values = {name: _to_json(value) for name, value in scalars.items()}
    line = json.dumps({'step': int(step), 'time': time.time(), **values}, allow_nan=False)
    self._file.write(line + '\n')
    self._file.flush()

  def write_summaries(
    self, step: int, values: Mapping[str, Any], metadata: Mapping[str, Any] | None = None
  ) -> None:
    """Does nothing."""

  def write_images(self, step: int, images: Mapping[str, Any]) -> None:
    """Does nothing."""

  def write_videos(self, step: int, videos: Mapping[str, Any]) -> None:
    """Does nothing."""

  def write_audios(self, step: int, audios: Mapping[str, Any], *, sample_rate: int) -> None:
    """Does nothing."""

  def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
    """Does nothing."""

  def write_histograms(
    self, step: int, arrays: Mapping[str, Any], num_buckets: Mapping[str, int] | None = None
  ) -> None:
    """Does nothing."""

  def write_hparams(self, hparams: Mapping[str, Any]) -> None:
    """Does nothing."""

  def flush(self) -> None:
    """Does nothing: every line is flushed when written."""

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


def read_scalars(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """Reads a `metrics.jsonl`, NaN and infinities as floats again; DataError if it is damaged."""
  rows = _read_rows(Path(path))
  return [{name: float(v) if isinstance(v, str) else v for name, v in row.items()} for row in rows]


def _to_json(value: Any) -> float | int | str:
  number = value if isinstance(value, int) else float(value)
  if math.isfinite(number):
    return number
  return 'NaN' if math.isnan(number) else 'Infinity' if number > 0 else '-Infinity'


def _read_rows(path: Path) -> list[dict[str, Any]]:
  """The rows of the file; a last line without a newline, cut short by a kill, is left out."""
  rows = []
  lines = path.read_text(encoding='utf-8', errors='replace').split('\n')
  for number, line in enumerate(lines[:-1], start=1):
    try:
      row = json.loads(line)
    except json.JSONDecodeError as error:
      row = str(error)
    if not isinstance(row, dict) or not isinstance(row.get('step'), int):
      raise DataError(
        f'{path}, line {number}: expected a JSON object with an integer "step", got {line[:80]!r}; '
        'repair or move the file'
      )
    rows.append(row)
  if lines[-1]:
    logging.warning('%s: dropped its last line, which was cut short: %r', path, lines[-1][:80])
  return rows


def _drop_lines_after(path: Path, step: int | None) -> None:
  """Rewrites an existing file without the steps beyond `step` or an unfinished last line."""
  if not path.exists():
    return
  kept = [row for row in _read_rows(path) if step is None or row['step'] <= step]
  temporary = path.with_name(path.name + '.tmp')
  with temporary.open('w', encoding='utf-8') as file:
    file.writelines(json.dumps(row) + '\n' for row in kept)
    file.flush()
    os.fsync(file.fileno())
  temporary.replace(path)
