"""The metrics of a run between log steps: kept on the device, then brought to the host and checked."""

import collections
import math
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from errors import TrainingDivergedError
from train_lib.console import duration, say, scalars
from train_lib.example_log import NONFINITE, ExampleLog
from train_lib.goodput import Goodput
from train_lib.program import Program

# Steps dispatched ahead of the device; more would only hold more batches in its memory.
STEPS_IN_FLIGHT = 2

_SHOWN_IDS = 8


class MetricLog:
  """Keeps (sum, count) metrics on the device between log steps, and the clock of the run."""

  def __init__(
    self,
    program: Program,
    start: int,
    examples: ExampleLog,
    goodput: Goodput,
  ):
    self._examples_seen = program.examples_seen
    self._max_skipped = program.experiment.max_skipped_steps
    self._total = program.lengths.total
    self._logged = start
    self._examples = examples
    self._goodput = goodput
    self._pending: list[Any] = []
    self._rows: list[jax.Array] = []
    self._in_flight: collections.deque[Any] = collections.deque()
    self._time = time.monotonic()
    self._timed_from = 0
    self._compiled: set[frozenset[str]] = set()  # Metrics of the steps compiled so far.

  def add(self, metrics: Any, rows: jax.Array) -> None:
    """Takes a step's metrics and example rows; waits only for the step `STEPS_IN_FLIGHT` before."""
    self._pending.append(metrics)
    self._rows.append(rows)
    self._in_flight.append(metrics)
    if len(self._in_flight) > STEPS_IN_FLIGHT:
      jax.block_until_ready(self._in_flight.popleft())
    if frozenset(metrics) not in self._compiled:  # Compilation is not part of the speed.
      jax.block_until_ready(metrics)
      self._compiled.add(frozenset(metrics))
      self.restart_clock()

  def device_is_idle(self) -> bool:
    """Whether the device has finished every step it was given."""
    newest = jax.tree.leaves(self._in_flight[-1]) if self._in_flight else []
    return all(leaf.is_ready() for leaf in newest)

  def restart_clock(self) -> None:
    """Leaves out of the speed what came before, as after compiling or evaluating."""
    self._time, self._timed_from = time.monotonic(), len(self._pending)

  def collect(self, step: int) -> dict[str, float]:
    """Means since the last call, with speed and time shares; prints the progress line.

    Empty without steps since. Those that were not finite do not count. The learning rate is the
    last step's.

    Raises:
      TrainingDivergedError: More steps than `max_skipped_steps` were not finite.
    """
    if not self._pending:
      return {}
    with self._goodput.spend('steps'):
      fetched = jax.device_get(self._pending)
    elapsed = max(time.monotonic() - self._time, 1e-9)
    timed = len(fetched) - self._timed_from
    self._examples.trained(step, self._rows)
    self._check_finite(fetched, step)
    finite = [metrics for metrics in fetched if not _nonfinite(metrics)]
    values = _means(finite)
    for name in ('learning_rate', 'skipped_steps'):
      if name in fetched[-1]:
        values[name] = float(fetched[-1][name][0])
    if timed > 0:
      values['clips_per_second'] = sum(map(len, self._rows[-timed:])) / elapsed
    self._say(values, step, elapsed / timed if timed > 0 else None)
    seen = self._examples_seen(step)
    values.update({f'examples_seen/{name}': float(count) for name, count in seen.items()})
    values.update(self._goodput.shares())
    self._pending.clear()
    self._rows.clear()
    self._logged = step
    self.restart_clock()
    return values

  def _check_finite(self, fetched: list[Any], step: int) -> None:
    first = step - len(fetched) + 1
    for i, metrics in enumerate(fetched):
      bad = _nonfinite(metrics)
      if not bad:
        continue
      examples = self._examples.nonfinite(first + i, self._rows[i], bad)
      found = ', '.join(f'{name} = {value}' for name, value in bad.items())
      skipped = int(metrics['skipped_steps'][0]) if 'skipped_steps' in metrics else 1
      if skipped > self._max_skipped:
        raise TrainingDivergedError(self._diverged(found, first + i, step, examples))
      say(
        f'step {first + i:,}: {found}: its update was skipped ({skipped} of at most '
        f'{self._max_skipped}); {_shown(examples)}.'
      )

  def _diverged(self, found: str, bad_step: int, step: int, examples: Mapping[str, Any]) -> str:
    skipped = f' after {self._max_skipped} skipped updates' if self._max_skipped else ''
    return (
      f'{found} in steps {self._logged + 1:,} to {step:,}, first at step {bad_step:,}{skipped}: '
      f'{_shown(examples)} (all in '
      f'{self._examples.folder / NONFINITE}). Nothing was saved since. Lower '
      '`optimizer.learning_rate`, lengthen `optimizer.warmup`, clip with '
      '`optimizer.max_grad_norm`, or let `max_skipped_steps` updates be skipped.'
    )

  def _say(self, values: Mapping[str, float], step: int, step_seconds: float | None) -> None:
    shown = {k: v for k, v in values.items() if k == 'loss' or k.startswith(('top1', 'hit1'))}
    line = f'step {step:,}/{self._total:,} | {scalars(shown)} | lr {values["learning_rate"]:.3g}'
    if step_seconds is not None:
      eta = duration((self._total - step) * step_seconds)
      line += f' | {values["clips_per_second"]:.1f} clips/s | ETA {eta}'
    say(line)


def _means(steps: list[Any]) -> dict[str, float]:
  """Mean of each metric over the steps that have it."""
  sums: dict[str, list[Any]] = {}
  for metrics in steps:
    for name, pair in metrics.items():
      sums.setdefault(name, []).append(pair)
  totals = {name: np.sum(np.stack(pairs), 0) for name, pairs in sums.items()}
  return {name: float(s / max(n, 1e-9)) for name, (s, n) in sorted(totals.items())}


def _nonfinite(metrics: Mapping[str, Any]) -> dict[str, float]:
  """The metrics of a step that are not finite."""
  return {k: float(s) for k, (s, n) in sorted(metrics.items()) if not math.isfinite(s)}


def _shown(examples: Mapping[str, Any]) -> str:
  """Datasets and first ids of a batch."""
  ids, datasets = examples['examples'], examples['dataset']
  names = [datasets] if isinstance(datasets, str) else sorted(set(datasets))
  more = f', ... ({len(ids)} in all)' if len(ids) > _SHOWN_IDS else ''
  listed = ', '.join(map(repr, ids[:_SHOWN_IDS]))
  return f'dataset {", ".join(map(repr, names))}, examples {listed}{more}'
