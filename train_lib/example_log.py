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
  Of a batch of several datasets, `dataset` lists that of each example.

  Args:
    folder: of the run; exists.
    name_of: `row` of a batch -> dataset and id of the example.
    resume_step: the step just restored: later lines of an earlier run are dropped.
    every_step: whether to write `examples.jsonl`.
  """

  def __init__(
    self,
    folder: Path,
    name_of: Callable[[int], tuple[str, str]],
    resume_step: int | None = None,
    every_step: bool = False,
  ):
    self.folder = folder
    self.every_step = every_step
    self._name_of = name_of
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
      for i, examples in enumerate(map(self._named, rows)):
        self._append(EVERY_STEP, step - len(rows) + 1 + i, examples)

  def nonfinite(self, step: int, rows: jax.Array, values: Mapping[str, float]) -> dict[str, Any]:
    """Lists the examples of a step with the values that were not finite; returns its `dataset` and
    `examples`."""
    examples = self._named(rows)
    encoded = {name: json_lines.encode(value) for name, value in values.items()}
    self._append(NONFINITE, step, {**examples, 'values': encoded})
    return examples

  def _append(self, name: str, step: int, values: Mapping[str, Any]) -> None:
    if jax.process_index() == 0:
      self._open(name).append(step, values)

  def _named(self, rows: jax.Array) -> dict[str, Any]:
    whole: Any = rows
    if jax.process_count() > 1:
      whole = multihost_utils.process_allgather(rows, tiled=True)
    datasets, ids = zip(*(self._name_of(int(row)) for row in np.asarray(whole)))
    one = len(set(datasets)) == 1
    return {'dataset': datasets[0] if one else list(datasets), 'examples': list(ids)}

  def close(self) -> None:
    """Closes the files."""
    for file in self._files.values():
      file.close()
