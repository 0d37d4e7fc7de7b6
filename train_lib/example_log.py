"""Which examples a step trained on: listed for every step on request, and for those that went wrong."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from train_lib import json_lines
from train_lib.json_lines import JsonLines

EVERY_STEP = 'examples.jsonl'
NONFINITE = 'nonfinite.jsonl'


class ExampleLog:
  """Writes `examples.jsonl` and `nonfinite.jsonl` of a run.

  A line is `{"step": s, "dataset": name, "examples": [ids]}` for the update that made step s, the
  ids in the order of the global batch; in `nonfinite.jsonl` with the `values` that are not finite.

  Args:
    folder: of the run; exists.
    dataset: its name in the config.
    key: row of the dataset's index -> id of the example.
    resume_step: the step just restored: later lines of an earlier run are dropped.
    every_step: whether to write `examples.jsonl`.
  """

  def __init__(
    self,
    folder: Path,
    dataset: str,
    key: Callable[[int], str],
    resume_step: int | None = None,
    every_step: bool = False,
  ):
    self.folder = folder
    self.dataset = dataset
    self.every_step = every_step
    self._key = key
    self._resume_step = resume_step
    self._files: dict[str, JsonLines] = {}
    if jax.process_index() == 0:
      for name in (EVERY_STEP, NONFINITE):
        if (folder / name).exists() or (every_step and name == EVERY_STEP):
          self._open(name)

  def _open(self, name: str) -> JsonLines:
    if name not in self._files:
      self._files[name] = JsonLines(self.folder / name, self._resume_step)
    return self._files[name]

  def trained(self, step: int, rows: Sequence[jax.Array]) -> None:
    """Lists the examples of the steps up to `step`.

    Args:
      step: The last of them.
      rows: Of each step, [B] int, global.
    """
    if self.every_step:
      for i, ids in enumerate(map(self._ids, rows)):
        self._append(EVERY_STEP, step - len(rows) + 1 + i, {'examples': ids})

  def nonfinite(self, step: int, rows: jax.Array, values: Mapping[str, float]) -> list[str]:
    """Lists the examples of a step with the values that were not finite; returns the ids."""
    ids = self._ids(rows)
    encoded = {name: json_lines.encode(value) for name, value in values.items()}
    self._append(NONFINITE, step, {'examples': ids, 'values': encoded})
    return ids

  def _append(self, name: str, step: int, values: Mapping[str, Any]) -> None:
    if jax.process_index() == 0:
      self._open(name).append(step, {'dataset': self.dataset, **values})

  def _ids(self, rows: jax.Array) -> list[str]:
    whole: Any = rows
    if jax.process_count() > 1:
      whole = multihost_utils.process_allgather(rows, tiled=True)
    return [self._key(int(row)) for row in np.asarray(whole)]

  def close(self) -> None:
    """Closes the files."""
    for file in self._files.values():
      file.close()
