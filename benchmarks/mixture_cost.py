"""Measures what a step costs more in a mixture than in a run of its dataset alone.

  python -m benchmarks.mixture_cost
  python -m benchmarks.mixture_cost --rounds=101 --steps=20

On the demo of co-finetuning: the compiled step of the mixture on batches of one dataset, against the
step of a run that has this dataset only, on the same batch. Both are timed in turn in each round;
printed is the median over rounds of their ratio, minus 1, with the quartiles. Also says how many
programs the mixture has compiled, by label structure.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from absl import flags
from rich.progress import track

from benchmarks.cofinetuning import config_of
from datasets import demo_actors
from tools import command
from train_lib import data
from train_lib import experiment as experiment_lib
from train_lib.mesh import make_mesh
from train_lib.program import Program, build_program

_ROUNDS = flags.DEFINE_integer(
  'rounds', 41, 'Rounds of measurement.', lower_bound=2, allow_override=True
)
_STEPS = flags.DEFINE_integer(
  'steps', 10, 'Steps timed in a round.', lower_bound=1, allow_override=True
)

STAGES = {'actions': 'stage=pretrain', 'actors': 'stage=finetune'}


def built(argument: str, folder: Path) -> tuple[Program, data.Splits]:
  """The program of a variant of the demo, and its training data."""
  experiment = experiment_lib.parse(config_of(argument, 0, folder, None))
  train = data.open_train_splits(experiment)
  facts = data.facts_of(experiment, train)
  return build_program(experiment, facts, make_mesh(experiment.mesh)), train


class Runner:
  """A program's train step on one batch, again and again."""

  def __init__(self, program: Program, batch: Any):
    self._program, self._batch = program, batch
    self._state = program.init()
    self.seconds(2)  # Compiles.

  def seconds(self, steps: int) -> float:
    """Time of so many steps."""
    begin = time.monotonic()
    for _ in range(steps):
      self._state, metrics = self._program.train_step(self._state, self._batch)
    jax.block_until_ready(metrics)
    return time.monotonic() - begin


def main() -> None:
  """Runs the rounds and prints the ratios."""
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    demo_actors.write_actions(folder / 'actions', train=128, test=16)
    demo_actors.write_actors(folder / 'actors', train=128, test=8)
    mixture, _ = built('', folder)
    for dataset, argument in STAGES.items():
      alone, train = built(argument, folder)
      stream = data.train_stream(alone, train, 0)
      batch = next(stream)
      stream.close()
      runners = [Runner(mixture, batch), Runner(alone, batch)]
      ratios, milliseconds = [], []
      for i in track(range(_ROUNDS.value), dataset, transient=True):
        order = runners if i % 2 else runners[::-1]
        timed = {runner: runner.seconds(_STEPS.value) for runner in order}
        ratios.append(timed[runners[0]] / timed[runners[1]] - 1)
        milliseconds.append(1000 * timed[runners[1]] / _STEPS.value)
      low, middle, high = (100 * q for q in statistics.quantiles(ratios, n=4))
      print(
        f'{dataset}: {middle:+.2f} % [{low:+.2f} .. {high:+.2f}] over {_ROUNDS.value} rounds, at '
        f'{statistics.median(milliseconds):.1f} ms a step alone'
      )
    compiled = mixture.train_step._cache_size()  # type: ignore[attr-defined]
    print(f'programs compiled by the mixture: {compiled}, for {len(STAGES)} label structures')


if __name__ == '__main__':
  command.run(main)
