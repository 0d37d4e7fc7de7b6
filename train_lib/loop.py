"""The training loop, and the metrics it keeps on the device between log steps."""

import collections
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from errors import TrainingDivergedError
from train_lib.console import duration, say, scalars
from train_lib.durations import due
from train_lib.metric_writers import Writer
from train_lib.program import Batch, Program
from train_lib.state import TrainState

# Steps dispatched ahead of the device; more would only hold more batches in its memory.
STEPS_IN_FLIGHT = 2


@dataclasses.dataclass(frozen=True)
class Hooks:
  """What the loop calls besides the train step.

  Attributes:
    writer: Takes the metrics.
    evaluate: (state, step) -> metrics.
    save: (state, step, metrics of this step's evaluation or None).
  """

  writer: Writer
  evaluate: Callable[[TrainState, int], dict[str, float]]
  save: Callable[[TrainState, int, Mapping[str, float] | None], None]


def train_steps(
  program: Program, state: TrainState, start: int, stream: Iterator[Batch], hooks: Hooks
) -> TrainState:
  """Trains from `start` to the end. The order within a step is part of exact resuming.

  For each step: evaluate if due, save if due (both before the next batch is taken, so a restored
  run takes the same one), take a batch, step, and bring metrics to the host at log steps and before
  every save, so that no state is saved whose metrics were not finite.

  Raises:
    TrainingDivergedError: A loss or norm is not finite; names the steps it happened in.
  """
  lengths = program.lengths
  keep_best = bool(program.experiment.checkpoint.best_metric)
  log = MetricLog(program.experiment.batch_size, lengths.total, start)
  for step in range(start, lengths.total + 1):
    last = step == lengths.total
    metrics = None
    if step > start and (last or due(step, lengths.evaluate)):
      metrics = hooks.evaluate(state, step)
      hooks.writer.write_scalars(step, {f'eval/{k}': v for k, v in metrics.items()})
      log.restart_clock()
    if step > start and saves(step, lengths, keep_best):
      hooks.writer.flush()
      hooks.save(state, step, metrics)
    if last:
      break
    batch = next(stream)
    state, step_metrics = program.train_step(state, batch)
    log.add(step_metrics)
    if due(step + 1, lengths.log) or saves(step + 1, lengths, keep_best):
      values = log.collect(step + 1)
      hooks.writer.write_scalars(step + 1, {f'train/{k}': v for k, v in values.items()})
  return state


def saves(step: int, lengths: Any, keep_best: bool) -> bool:
  """Whether the state at `step` is saved: at its interval, at the end, and after evaluations that
  could make it the best."""
  evaluated = keep_best and due(step, lengths.evaluate)
  return step == lengths.total or evaluated or due(step, lengths.checkpoint)


class MetricLog:
  """Keeps (sum, count) metrics on the device between log steps, and the clock of the run."""

  def __init__(self, batch_size: int, total_steps: int, start: int):
    self._batch_size = batch_size
    self._total = total_steps
    self._logged = start
    self._pending: list[Any] = []
    self._in_flight: collections.deque[Any] = collections.deque()
    self._time = time.monotonic()
    self._timed_from = 0
    self._first = True

  def add(self, metrics: Any) -> None:
    """Takes a step's metrics; waits only for the step `STEPS_IN_FLIGHT` before it."""
    self._pending.append(metrics)
    self._in_flight.append(metrics)
    if len(self._in_flight) > STEPS_IN_FLIGHT:
      jax.block_until_ready(self._in_flight.popleft())
    if self._first:  # Compilation is not part of the speed.
      jax.block_until_ready(metrics)
      self._first = False
      self.restart_clock()

  def restart_clock(self) -> None:
    """Leaves out of the speed what came before, as after compiling or evaluating."""
    self._time, self._timed_from = time.monotonic(), len(self._pending)

  def collect(self, step: int) -> dict[str, float]:
    """Means since the last call, with the speed; prints the progress line.

    The learning rate is the last step's.

    Raises:
      TrainingDivergedError: One of the means is not finite.
    """
    fetched = jax.device_get(self._pending)
    elapsed = max(time.monotonic() - self._time, 1e-9)
    timed = len(fetched) - self._timed_from
    sums = jax.tree.map(lambda *x: np.sum(np.stack(x), 0), *fetched)
    values = {k: float(s / max(n, 1e-9)) for k, (s, n) in sums.items()}
    values['learning_rate'] = float(fetched[-1]['learning_rate'][0])
    self._check_finite(values, step)
    if timed > 0:
      values['clips_per_second'] = timed * self._batch_size / elapsed
    self._say(values, step, elapsed / timed if timed > 0 else None)
    self._pending.clear()
    self._logged = step
    self.restart_clock()
    return values

  def _check_finite(self, values: Mapping[str, float], step: int) -> None:
    bad = sorted(k for k, v in values.items() if not math.isfinite(v))
    if bad:
      raise TrainingDivergedError(
        f'{", ".join(f"{k} = {values[k]}" for k in bad)} in steps {self._logged + 1:,} to {step:,}. '
        'Nothing was saved since. Lower `optimizer.learning_rate`, lengthen `optimizer.warmup`, or '
        'clip with `optimizer.max_grad_norm`.'
      )

  def _say(self, values: Mapping[str, float], step: int, step_seconds: float | None) -> None:
    shown = {k: v for k, v in values.items() if k == 'loss' or k.startswith(('top1', 'hit1'))}
    line = f'step {step:,}/{self._total:,} | {scalars(shown)} | lr {values["learning_rate"]:.3g}'
    if step_seconds is not None:
      eta = duration((self._total - step) * step_seconds)
      line += f' | {values["clips_per_second"]:.1f} clips/s | ETA {eta}'
    say(line)
