"""The training loop: the order of evaluating, saving and stepping, which exact resuming rests on."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import jax

from errors import PreemptedError
from train_lib.durations import due
from train_lib.example_log import ExampleLog
from train_lib.goodput import Goodput
from train_lib.labels import Batch
from train_lib.metric_log import MetricLog
from train_lib.metric_writers import Writer
from train_lib.program import Program
from train_lib.state import TrainState


@dataclasses.dataclass(frozen=True)
class Hooks:
  """What the loop calls besides the train step.

  Attributes:
    writer: Takes the metrics.
    evaluate: (state, step) -> metrics; raises `PreemptedError` when asked to stop meanwhile.
    save: (state, step, metrics of this step's evaluation or None, whether the evaluation due at
      this step, if any, was done).
    save_failed: Whether the last save has failed, so that the state is saved again.
    examples: Names the examples of steps.
    goodput: Takes the time.
    stop: Whether the run is asked to stop here; called at the same places in every process.
  """

  writer: Writer
  evaluate: Callable[[TrainState, int], dict[str, float]]
  save: Callable[[TrainState, int, Mapping[str, float] | None, bool], None]
  save_failed: Callable[[], bool]
  examples: ExampleLog
  goodput: Goodput
  stop: Callable[[], bool]


def train_steps(
  program: Program,
  state: TrainState,
  start: int,
  stream: Iterator[Batch],
  hooks: Hooks,
  *,
  evaluated: bool = True,
) -> TrainState:
  """Trains from `start` to the end. The order within a step is part of exact resuming.

  For each step: evaluate if due, save if due (both before the next batch is taken, so a restored
  run takes the same one), take a batch, step, and bring metrics to the host at log steps and before
  every save, so that no state is saved whose metrics were not finite.

  Args:
    program: The experiment's program.
    state: At step `start`; donated.
    start: Updates made so far.
    stream: Batches from step `start` on.
    hooks: What to call.
    evaluated: Whether an evaluation due at `start` was done before the state was saved.

  Raises:
    TrainingDivergedError: More steps than the budget were not finite; names the first.
    PreemptedError: Asked to stop; the state is saved.
  """
  plan = _Plan(program, start, evaluated)
  log = MetricLog(program, start, hooks.examples, hooks.goodput)
  for step in range(start, plan.total + 1):
    try:
      metrics = _evaluate_if_due(plan, state, step, hooks, log)
    except PreemptedError:
      if step > start:
        _write(hooks, log, step)
        hooks.save(state, step, None, not plan.evaluates(step))
      raise
    if plan.saves(step) or (plan.logs(step) and hooks.save_failed()):
      hooks.writer.flush()
      with hooks.goodput.spend('saving'):
        hooks.save(state, step, metrics, True)
    if step == plan.total:
      break
    batch = hooks.goodput.wait_for_data(stream, log.device_is_idle)
    with hooks.goodput.spend('steps'), jax.profiler.StepTraceAnnotation('train', step_num=step):
      state, step_metrics = program.train_step(state, batch)
      log.add(step_metrics, batch['row'])
    if plan.logs(step + 1):
      _write(hooks, log, step + 1)
  return state


class _Plan:
  """What is due at which step."""

  def __init__(self, program: Program, start: int, evaluated: bool):
    self.total = program.lengths.total
    self._lengths = program.lengths
    self._keep_best = bool(program.experiment.checkpoint.best_metric)
    # What was due at `start` was done before it was saved, unless that was cut short: then it is
    # evaluated and saved once more.
    self._start, self._first = start, start + 1 if evaluated else start

  def evaluates(self, step: int) -> bool:
    """Whether the state at `step` is evaluated: at its interval and at the end."""
    return step >= self._first and (step == self.total or due(step, self._lengths.evaluate))

  def saves(self, step: int) -> bool:
    """Whether the state at `step` is saved: at its interval, at the end, and after evaluations that
    could make it the best."""
    best = self._keep_best and self.evaluates(step)
    interval = due(step, self._lengths.checkpoint)
    return step >= self._first and (step in (self._start, self.total) or best or interval)

  def logs(self, step: int) -> bool:
    """Whether metrics are written after the update that makes `step`."""
    return due(step, self._lengths.log) or self.saves(step)


def _evaluate_if_due(
  plan: _Plan, state: TrainState, step: int, hooks: Hooks, log: MetricLog
) -> dict[str, float] | None:
  if hooks.stop():
    raise PreemptedError(f'Asked to stop at step {step:,}.')
  if not plan.evaluates(step):
    return None
  with hooks.goodput.spend('evaluating'):
    metrics = hooks.evaluate(state, step)
  hooks.writer.write_scalars(step, {f'eval/{k}': v for k, v in metrics.items()})
  log.restart_clock()
  return metrics


def _write(hooks: Hooks, log: MetricLog, step: int) -> None:
  values = log.collect(step)
  if values:
    hooks.writer.write_scalars(step, {f'train/{k}': v for k, v in values.items()})
