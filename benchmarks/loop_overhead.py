"""Measures what the training loop costs beside the compiled step.

  python -m benchmarks.loop_overhead
  python -m benchmarks.loop_overhead --pause_ms=90 --steps=100 --rounds=5

The compiled step is the demo's real train step followed by a pause of `pause_ms` inside the
program, during which the host is free, as while an accelerator works. It runs three ways, in turn, in each
round: bare (the step called again and again on one batch), in the loop with its batch ready on the
device, and in the loop fed by the reader. Overhead is the loop's time over the bare one's, minus 1,
both measured in the same round; the median over rounds is reported with the extremes.
"""

import contextlib
import dataclasses
import io
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from rich.progress import track

from configs.vivit import demo as demo_config
from datasets import demo
from datasets.dataset import VideoDataset
from tools import command
from train_lib import data
from train_lib import experiment as experiment_lib
from train_lib.example_log import ExampleLog
from train_lib.goodput import Goodput
from train_lib.loop import Hooks, train_steps
from train_lib.mesh import make_mesh
from train_lib.metric_writers import create_writers
from train_lib.preemption import Preemption
from train_lib.program import Batch, Program, build_program

_PAUSE_MS = flags.DEFINE_float(
  'pause_ms', 90.0, 'Pause inside the compiled step, milliseconds.', allow_override=True
)
_STEPS = flags.DEFINE_integer(
  'steps', 100, 'Steps timed in each way and round.', allow_override=True
)
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Rounds.', allow_override=True)


def paced_program(folder: Path, steps: int, pause_seconds: float) -> tuple[Program, VideoDataset]:
  """The demo's program with a pause in its step, and its training split."""
  demo.write(folder, train=80, test=16)
  config = demo_config.get_config()
  config.datasets.demo.dir = str(folder)
  config.duration = f'{steps} steps'
  config.optimizer.warmup = '1 step'
  config.log_every = '50 steps'
  config.evaluation.every = config.checkpoint.every = 'never'
  experiment = experiment_lib.parse(config)
  train = data.open_train_splits(experiment)
  program = build_program(experiment, data.facts_of(experiment, train), make_mesh(experiment.mesh))
  real_step = program.train_step
  scalar = jax.ShapeDtypeStruct((), jnp.float32)

  def pause(loss):
    time.sleep(pause_seconds)
    return np.asarray(loss)

  def step(state, batch):
    state, metrics = real_step(state, batch)
    loss, count = metrics['loss']
    return state, {**metrics, 'loss': (jax.pure_callback(pause, scalar, loss), count)}

  return dataclasses.replace(program, train_step=jax.jit(step, donate_argnums=0)), train


def bare_seconds(program: Program, batch: Batch, steps: int) -> float:
  """Time of `steps` calls of the compiled step and nothing else."""
  state = jax.block_until_ready(program.init())
  begin = time.perf_counter()
  for _ in range(steps):
    state, metrics = program.train_step(state, batch)
  jax.block_until_ready((state, metrics))
  return time.perf_counter() - begin


def loop_seconds(program: Program, stream: Iterator[Batch], steps: int) -> float:
  """Time of the training loop over `steps` steps, its metric writers included."""
  state = jax.block_until_ready(program.init())
  with tempfile.TemporaryDirectory() as folder:
    writer = create_writers(folder, resume_step=0)
    examples = ExampleLog(Path(folder), lambda row: ('demo', str(row)))
    goodput = Goodput()
    hooks = Hooks(
      writer, lambda *_: {}, lambda *_: None, lambda: False, examples, goodput, Preemption()
    )
    begin = time.perf_counter()
    jax.block_until_ready(train_steps(program, state, 0, stream, hooks))
    seconds = time.perf_counter() - begin
    writer.close()
  return seconds


def main() -> None:
  """Runs the rounds and prints the overheads."""
  steps = _STEPS.value
  ready, fed, step_ms = [], [], []
  with tempfile.TemporaryDirectory() as folder:
    program, train = paced_program(Path(folder) / 'data', steps, _PAUSE_MS.value / 1000)
    stream = data.train_stream(program, train, 0)
    batch = next(stream)
    bare_seconds(program, batch, 2)  # Compiles.
    for _ in track(range(_ROUNDS.value), 'rounds', transient=True):
      with contextlib.redirect_stdout(io.StringIO()):
        bare = bare_seconds(program, batch, steps)
        ready.append(loop_seconds(program, itertools.repeat(batch), steps) / bare - 1)
        fed.append(loop_seconds(program, stream, steps) / bare - 1)
      step_ms.append(1000 * bare / steps)
    stream.close()
  print(f'compiled step             {statistics.median(step_ms):.1f} ms, {steps} steps a round')
  for name, values in (('batch ready on the device', ready), ('batches from the reader', fed)):
    low, middle, high = (100 * f(values) for f in (min, statistics.median, max))
    print(f'overhead, {name:<25} {middle:5.2f} %  [{low:.2f} .. {high:.2f}], {len(values)} rounds')


if __name__ == '__main__':
  command.run(main)
