"""The loop: one way to train, evaluate or inspect an experiment."""

import collections
import dataclasses
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from datasets import reader
from errors import ConfigError, TrainingDivergedError
from train_lib import checkpoint, cost, data, evaluation, tables
from train_lib import experiment as experiment_lib
from train_lib.console import duration, say, scalars
from train_lib.durations import due
from train_lib.initial import Weights, fresh_state, read_weights
from train_lib.mesh import make_mesh
from train_lib.metric_writers import create_writers
from train_lib.program import Batch, Program, build_program
from train_lib.state import TrainState

# Steps dispatched ahead of the device; more would only hold more batches in its memory.
STEPS_IN_FLIGHT = 2


def run(mode: str, config: Mapping[str, Any], workdir: str) -> None:
  """Runs an experiment.

  Args:
    mode: `'train'` (resumes if the workdir has a checkpoint), `'eval'` (of the newest checkpoint,
      or of `init_from`), or `'init'` (builds, prints what there is to know, and stops).
    config: As `experiment.parse` takes it.
    workdir: Folder of the run; `'init'` writes nothing to it.

  Raises:
    TubeletError: One of its kinds, before anything is compiled or written where that is possible.
  """
  experiment = experiment_lib.parse(config)
  mesh = make_mesh(experiment.mesh)
  if mode == 'init':
    _inspect(build_program(experiment, data.facts_or_nominal(experiment), mesh))
    return
  train_data = data.open_split(experiment, experiment.dataset[1].train_split)
  eval_data = data.open_split(experiment, experiment.dataset[1].eval_split)
  program = build_program(experiment, data.facts_of(experiment, train_data), mesh)
  fresh = checkpoint.latest_step(Path(workdir)) is None
  if mode == 'eval' and fresh and not experiment.init_from.path:
    raise ConfigError(
      f'--mode=eval found no checkpoint in {workdir}. Train first, or set `init_from.path` (and '
      '`init_from.load_head`) to evaluate other weights.'
    )
  weights = read_weights(program) if fresh else None
  folder = _writable(Path(workdir))
  run_ = Run(program, folder, experiment_lib.to_json(config), train_data, eval_data)
  try:
    state, step = run_.restore_or_init(weights)
    run_.train(state, step) if mode == 'train' else run_.evaluate(state, step)
  finally:
    run_.close()


class Run:
  """A run in its workdir: what training and evaluation share."""

  def __init__(
    self,
    program: Program,
    folder: Path,
    config_json: str,
    train_data: reader.VideoDataset,
    eval_data: reader.VideoDataset,
  ):
    self.program = program
    self.folder = folder
    self.config_json = config_json
    self.train_data = train_data
    self.eval_data = eval_data
    self.checkpointer = checkpoint.Checkpointer(folder, program.experiment.checkpoint)

  def restore_or_init(self, weights: Weights | None) -> tuple[TrainState, int]:
    """The newest checkpoint's state, or a fresh one filled with `weights`, and its step."""
    step = self.checkpointer.latest_step
    if step is None:
      return fresh_state(self.program, weights), 0
    where = self.checkpointer.folder / str(step)
    meta = self.checkpointer.restore_meta(step)
    checkpoint.check_class_names(meta, self.program.facts, where)
    checkpoint.check_position(meta, self._position(step), where)
    state = self.checkpointer.restore(step, self.program.abstract_state)
    path = self.program.experiment.init_from.path
    ignored = f' `init_from` {path} was for its start and is not read again.' if path else ''
    say(f'Resuming at step {step:,} from {where}.{ignored}')
    return state, step

  def train(self, state: TrainState, start: int) -> None:
    """Trains from step `start` to the end."""
    lengths = self.program.lengths
    if start >= lengths.total:
      say(f'{self.folder} is already trained to step {start:,} of {lengths.total:,}.')
      self._say_where(start)
      return
    if jax.process_index() == 0:
      (self.folder / 'config.json').write_text(self.config_json)
    say(tables.parameter_table(state.params))
    self._say_plan()
    writer = create_writers(self.folder, resume_step=start)
    stream = data.train_stream(self.program, self.train_data, start)
    hooks = Hooks(writer, self.evaluate, self.save)
    try:
      train_steps(self.program, state, start, stream, hooks)
    finally:
      stream.close()
      writer.close()
    self.checkpointer.wait()
    self._say_where(lengths.total)

  def evaluate(self, state: TrainState, step: int) -> dict[str, float]:
    """Evaluates, writes the results under `eval/<step>`, and returns the metrics."""
    begin = time.monotonic()
    results = evaluation.evaluate(self.program, state.eval_variables, self.eval_data)
    folder = self.folder / 'eval' / f'{step:08d}'
    evaluation.write_results(results, folder, self.program, self.eval_data)
    seconds = duration(time.monotonic() - begin)
    say(f'eval at {step:,}: {scalars(results.metrics)} | {results.examples:,} videos in {seconds}')
    return results.metrics

  def save(self, state: TrainState, step: int, metrics: Mapping[str, float] | None) -> None:
    """Starts saving a checkpoint."""
    meta = checkpoint.describe(
      json.loads(self.config_json), self.program.facts, self._position(step), metrics
    )
    self.checkpointer.save(state, meta, metrics)

  def close(self) -> None:
    """Finishes pending saves."""
    self.checkpointer.close()

  def _position(self, step: int) -> dict[str, Any]:
    return data.position(self.program.experiment, self.train_data, step)

  def _say_plan(self) -> None:
    lengths, mesh = self.program.lengths, self.program.mesh
    epochs = lengths.total / lengths.epoch
    devices = mesh.devices.flat[0].device_kind
    say(
      f'Training {lengths.total:,} steps ({epochs:.1f} epochs of {len(self.train_data):,} clips) '
      f'on {mesh.size} x {devices}, {dict(mesh.shape)}. Compiling the first step ...'
    )

  def _say_where(self, step: int) -> None:
    results = self.folder / 'eval' / f'{step:08d}'
    pictures = ', '.join(str(p) for p in sorted(results.glob('*.png')))
    say(
      f'\nDone.\n  checkpoint    {self.checkpointer.folder / str(step)}\n'
      f'  metrics       {self.folder / "metrics.jsonl"}\n'
      f'  TensorBoard   tensorboard --logdir {self.folder}\n'
      f'  predictions   {results / "predictions.jsonl"}\n'
      f'  pictures      {pictures or "none (evaluation.pictures is off)"}'
    )


@dataclasses.dataclass(frozen=True)
class Hooks:
  """What the loop calls besides the train step.

  Attributes:
    writer: CLU metric writer.
    evaluate: (state, step) -> metrics.
    save: (state, step, metrics of this step's evaluation or None).
  """

  writer: Any
  evaluate: Callable[[TrainState, int], dict[str, float]]
  save: Callable[[TrainState, int, Mapping[str, float] | None], None]


def train_steps(
  program: Program, state: TrainState, start: int, stream: Iterator[Batch], hooks: Hooks
) -> TrainState:
  """Trains from `start` to the end. The order within a step is part of exact resuming.

  For each step: evaluate if due, save if due (both before the next batch is taken, so a restored
  run takes the same one), take a batch, step, and only at log steps bring metrics to the host.

  Raises:
    TrainingDivergedError: A loss or norm is not finite; names the steps it happened in.
  """
  lengths = program.lengths
  log = MetricLog(program.experiment.batch_size, lengths.total, start)
  for step in range(start, lengths.total + 1):
    last = step == lengths.total
    metrics = None
    if step > start and (last or due(step, lengths.evaluate)):
      metrics = hooks.evaluate(state, step)
      hooks.writer.write_scalars(step, {f'eval/{k}': v for k, v in metrics.items()})
      log.resume_clock()
    if step > start and (last or due(step, lengths.checkpoint)):
      hooks.writer.flush()
      hooks.save(state, step, metrics)
    if last:
      break
    batch = next(stream)
    state, step_metrics = program.train_step(state, batch)
    log.add(step_metrics)
    if due(step + 1, lengths.log) or step + 1 == lengths.total:
      values = log.collect(step + 1)
      hooks.writer.write_scalars(step + 1, {f'train/{k}': v for k, v in values.items()})
  return state


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
      self.resume_clock()

  def resume_clock(self) -> None:
    """Restarts the clock after time that was not training."""
    self._time, self._timed_from = time.monotonic(), len(self._pending)

  def collect(self, step: int) -> dict[str, float]:
    """Means since the last call, with the speed; prints the progress line.

    Raises:
      TrainingDivergedError: One of the means is not finite.
    """
    fetched = jax.device_get(self._pending)
    elapsed = max(time.monotonic() - self._time, 1e-9)
    timed = len(fetched) - self._timed_from
    sums = jax.tree.map(lambda *x: np.sum(np.stack(x), 0), *fetched)
    values = {k: float(s / max(n, 1e-9)) for k, (s, n) in sums.items()}
    bad = sorted(k for k, v in values.items() if not math.isfinite(v))
    if bad:
      raise TrainingDivergedError(
        f'{", ".join(f"{k} = {values[k]}" for k in bad)} in steps {self._logged + 1:,} to {step:,}. '
        'The last checkpoint is kept. Lower `optimizer.learning_rate`, lengthen '
        '`optimizer.warmup`, or clip with `optimizer.max_grad_norm`.'
      )
    shown = {k: v for k, v in values.items() if k == 'loss' or k.startswith('top1')}
    line = f'step {step:,}/{self._total:,} | {scalars(shown)} | lr {values["learning_rate"]:.3g}'
    if timed > 0:
      values['clips_per_second'] = timed * self._batch_size / elapsed
      eta = (self._total - step) * elapsed / timed
      line += f' | {values["clips_per_second"]:.1f} clips/s | ETA {duration(eta)}'
    say(line)
    self._pending.clear()
    self._logged = step
    self._time, self._timed_from = time.monotonic(), 0
    return values


def _inspect(program: Program) -> None:
  state = fresh_state(program, read_weights(program))
  say(tables.parameter_table(state.params))
  result = cost.cost_of(program.experiment, program.facts)
  say(tables.cost_table(result))
  lengths = program.lengths
  say(
    f'{program.experiment.name}: {result.parameters:,} parameters, '
    f'{result.flops / 1e9:,.1f} GFLOPs a view (multiply-add = 1); {lengths.total:,} steps, '
    f'{lengths.total / lengths.epoch:.1f} epochs; classes and counts from {program.facts.source}.'
  )


def _writable(folder: Path) -> Path:
  """Creates the workdir.

  Raises:
    ConfigError: It cannot be created or written to.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder)
    os.close(handle)
    os.unlink(name)
  except OSError as error:
    raise ConfigError(
      f'--workdir={folder} is not writable: {error.strerror}. Choose another folder.'
    ) from error
  return folder
