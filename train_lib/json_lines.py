"""Files of one JSON object a line that a killed run leaves readable and a resumed one continues."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging

from errors import DataError
from train_lib.files import write_atomically


class JsonLines:
  """Appends objects with an integer `step` to a file; every line is on its way to disk at once.

  Args:
    path: the file; its folder exists.
    resume_step: lines of an earlier run with a larger step are dropped, so that a step appears
      once; None keeps all. A last line cut short by a kill is dropped either way.

  Raises:
    DataError: a line of the existing file, other than the last, is not such an object.
  """

  def __init__(self, path: str | os.PathLike[str], resume_step: int | None = None):
    self.path = Path(path)
    _drop_lines_after(self.path, resume_step)
    self._file = self.path.open('a', encoding='utf-8')

  def append(self, step: int, values: Mapping[str, Any]) -> None:
    """Appends `{"step": step, **values}`."""
    self._file.write(json.dumps({'step': int(step), **values}, allow_nan=False) + '\n')
    self._file.flush()

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


def encode(value: Any) -> float | int | str:
  """A number for JSON, which has no NaN or infinity: they become strings that `float` reads back."""
  number = value if isinstance(value, int) else float(value)
  if math.isfinite(number):
    return number
  return 'NaN' if math.isnan(number) else 'Infinity' if number > 0 else '-Infinity'


def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """The objects of a file; a last line without a newline, cut short by a kill, is left out.

  Raises:
    DataError: another line is not an object with an integer `step`.
  """
  path = Path(path)
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
  kept = [row for row in read(path) if step is None or row['step'] <= step]
  write_atomically(path, ''.join(json.dumps(row) + '\n' for row in kept))
