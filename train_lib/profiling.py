"""`--mode=profile`: a few real steps on real data, traced for XProf."""

from collections.abc import Iterator
from pathlib import Path

import jax

from train_lib.console import say
from train_lib.goodput import Goodput
from train_lib.labels import Batch
from train_lib.program import Program
from train_lib.state import TrainState

# Steps before the trace begins, at least and at most, and steps in it.
WARM_UP, LONGEST_WARM_UP, TRACED = 3, 50, 5


def profile(program: Program, state: TrainState, stream: Iterator[Batch], folder: Path) -> Path:
  """Runs some steps, until batches of every dataset are compiled for, then traces `TRACED` more.

  Of a dataset that is not drawn in `LONGEST_WARM_UP` steps no batch is traced.

  Args:
    program: The experiment's program.
    state: Where to start; donated.
    stream: Training batches.
    folder: The trace goes to `plugins/profile` in it, where TensorBoard looks.

  Returns:
    The folder of the trace.
  """
  compiled: set[str] = set()
  step = 0
  with Goodput() as goodput:
    while step < WARM_UP or (len(compiled) < program.num_structures and step < LONGEST_WARM_UP):
      batch = goodput.wait_for_data(stream, lambda: True)
      compiled.add(program.structure_at(step))
      step += 1
      with goodput.spend('steps'):
        state, metrics = program.train_step(state, batch)
        jax.block_until_ready(metrics)
    say(f'Compiled in {goodput.seconds["compiling"]:.1f} s. Tracing {TRACED} steps ...')
  batches = (
    batch for number, batch in enumerate(stream, step) if program.structure_at(number) in compiled
  )
  with Goodput() as goodput, jax.profiler.trace(str(folder)):
    for traced in range(step, step + TRACED):
      batch = goodput.wait_for_data(batches, lambda: True)
      with goodput.spend('steps'), jax.profiler.StepTraceAnnotation('train', step_num=traced):
        state, metrics = program.train_step(state, batch)
        jax.block_until_ready(metrics)
  seconds = goodput.seconds
  say(
    f'step             {1000 * seconds["steps"] / TRACED:.1f} ms, mean of {TRACED}\n'
    f'waiting for data {1000 * seconds["data"] / TRACED:.1f} ms a step\n'
    f'device memory    {_peak_memory()}'
  )
  traces = sorted((folder / 'plugins' / 'profile').iterdir())
  return traces[-1]


def _peak_memory() -> str:
  stats = jax.local_devices()[0].memory_stats()
  if not stats or 'peak_bytes_in_use' not in stats:
    return 'not reported by this platform'
  peak, limit = (stats[k] / 2**30 for k in ('peak_bytes_in_use', 'bytes_limit'))
  return f'{peak:.2f} GiB at the peak, of {limit:.2f}'
