"""Where a run's numbers go: TensorBoard events, and `metrics.jsonl` for scripts.

Neither needs TensorFlow, which takes seconds and hundreds of megabytes to import: events are written
with TensorBoard's own protos and record writer.
"""

import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from errors import ConfigError
from train_lib import json_lines
from train_lib.json_lines import JsonLines

_RESERVED = ('step', 'time')


class Writer(Protocol):
  """Takes scalars by step."""

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Writes Python, numpy or JAX scalars."""

  def flush(self) -> None:
    """Brings what was written to the disk."""

  def close(self) -> None:
    """Flushes and closes the file."""


def create_writers(workdir: str | os.PathLike[str], resume_step: int | None = None) -> 'Writers':
  """Returns one writer for `workdir`: TensorBoard events, and scalars in `metrics.jsonl`.

  The JSON lines are on disk at once, TensorBoard's events after a flush. On hosts other than the
  first the writer does nothing.

  Args:
    workdir: a folder on a file system that can append (not an object store); made if missing.
    resume_step: the step just restored: of an earlier run nothing beyond it is kept or shown.

  Raises:
    DataError: `metrics.jsonl` is damaged.
  """
  if jax.process_index() > 0:
    return Writers([])
  path = Path(workdir)
  path.mkdir(parents=True, exist_ok=True)
  return Writers(
    [JsonlWriter(path / 'metrics.jsonl', resume_step), TensorBoardWriter(path, resume_step)]
  )


class Writers:
  """Several writers as one."""

  def __init__(self, writers: Sequence[Writer]):
    self._writers = writers

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Writes Python, numpy or JAX scalars."""
    for writer in self._writers:
      writer.write_scalars(step, scalars)

  def flush(self) -> None:
    """Brings what was written to the disk."""
    for writer in self._writers:
      writer.flush()

  def close(self) -> None:
    """Flushes and closes the files."""
    for writer in self._writers:
      writer.close()


class TensorBoardWriter:
  """Writes scalars to an events file of its own, which TensorBoard reads with those beside it.

  Args:
    folder: where; exists.
    resume_step: TensorBoard leaves out what earlier files have beyond this step.
  """

  def __init__(self, folder: str | os.PathLike[str], resume_step: int | None = None):
    name = f'events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}'
    self._file = RecordWriter((Path(folder) / name).open('ab'))
    self._write(event_pb2.Event(file_version='brain.Event:2'))
    if resume_step is not None:
      start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      self._write(event_pb2.Event(step=resume_step + 1, session_log=start))
    self.flush()

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Writes Python, numpy or JAX scalars, as float32."""
    values = [
      summary_pb2.Summary.Value(tag=name, simple_value=float(value))
      for name, value in scalars.items()
    ]
    self._write(event_pb2.Event(step=int(step), summary=summary_pb2.Summary(value=values)))

  def _write(self, event: event_pb2.Event) -> None:
    event.wall_time = time.time()
    self._file.write(event.SerializeToString())

  def flush(self) -> None:
    """Brings what was written to the disk."""
    self._file.flush()

  def close(self) -> None:
    """Flushes and closes the file."""
    self._file.close()


class JsonlWriter:
  """Appends one JSON object per `write_scalars` call to a file.

  A line is `{"step": int, "time": float seconds since the epoch, name: number, ...}`; NaN and
  infinities are the strings "NaN", "Infinity" and "-Infinity".

  Args:
    path: the file; its folder exists.
    resume_step: as `JsonLines`.

  Raises:
    DataError: as `JsonLines`.
  """

  def __init__(self, path: str | os.PathLike[str], resume_step: int | None = None):
    self._lines = JsonLines(path, resume_step)

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Appends a line of Python, numpy or JAX scalars; ConfigError for the names step and time."""
    clash = [name for name in _RESERVED if name in scalars]
    if clash:
      raise ConfigError(
        f'{self._lines.path}: a scalar may not be called {clash[0]!r}; rename the metric'
      )
    values = {name: json_lines.encode(value) for name, value in scalars.items()}
    self._lines.append(step, {'time': time.time(), **values})

  def flush(self) -> None:
    """Does nothing: every line is flushed when written."""

  def close(self) -> None:
    """Closes the file."""
    self._lines.close()


def read_scalars(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """Reads a `metrics.jsonl`, NaN and infinities as floats again; DataError if it is damaged."""
  return [
    {name: float(v) if isinstance(v, str) else v for name, v in row.items()}
    for row in json_lines.read(path)
  ]
