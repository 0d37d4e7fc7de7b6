"""Compares MultiTrain with vanilla training on several datasets, on the demo data.

  python -m benchmarks.multitrain                         # one seed, `make demo-multitrain`
  python -m benchmarks.multitrain --seeds=0,1,2 --strategies=vanilla,multitrain,released

All strategies train the same model on the same mixed batches, in as many steps: Table 3 of the paper in
small. Every run keeps its workdir under OUT: interrupted, the same command goes on, and runs that are
complete are not repeated. Ends with a table, `results.json` and `results.png`, then with the class
relations that the projections have learnt against those that the data was made with.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from benchmarks import comparison
from configs.multitrain import demo
from datasets import demo_relations
from projects.multitrain.projection_weights import relations
from tools import command
from train_lib import checkpoint

_SEEDS = flags.DEFINE_list('seeds', ['0'], 'Seeds of the runs.', allow_override=True)
_STRATEGIES = flags.DEFINE_list(
  'strategies',
  ['vanilla', 'multitrain'],
  'Of vanilla, multitrain, released, no_informative, no_projection_add and no_projection.',
  allow_override=True,
)
_EPOCHS = flags.DEFINE_integer(
  'epochs',
  demo.EPOCHS,
  'Epochs of each run, more than the 2 of the warm-up.',
  lower_bound=3,
  allow_override=True,
)
_DATA = flags.DEFINE_string(
  'data', demo.DATA, 'Where the datasets are, or are written to.', allow_override=True
)
_OUT = flags.DEFINE_string(
  'out', 'runs/demo_multitrain', 'Folder of the runs and results.', allow_override=True
)

_MEAN = 'mean top-1'
COMPARISON = comparison.Comparison(
  strategies={
    'vanilla': 'vanilla',
    'multitrain': 'MultiTrain',
    'released': 'MultiTrain, released',
    'no_informative': 'no informative loss',
    'no_projection_add': 'neither, projections apart',
    'no_projection': 'no projection',
  },
  metrics={_MEAN: _MEAN, **{name: f'top1/{name}' for name in demo.DATASETS}},
  claims=(
    ('multitrain', 'vanilla', _MEAN),
    ('released', 'vanilla', _MEAN),
    ('multitrain', 'no_informative', _MEAN),
    ('multitrain', 'no_projection', _MEAN),
  ),
)

Weights = Mapping[tuple[str, str], Any]
"""(source, target) dataset -> projection weights [classes of the source, classes of the target]."""


class Recovered(NamedTuple):
  """What became of a planted relation.

  Attributes:
    source, target: datasets.
    own: class of the source.
    planted: class of the target that shows the same motion.
    found: class of the target that the projection has the largest weight for.
  """

  source: str
  target: str
  own: str
  planted: str
  found: str


def recovered(weights: Weights) -> list[Recovered]:
  """The planted relations, each with the target class that its source class projects to most.

  Classes of the source without a partner in the target are left out. A softmax over the target's
  classes does not see what is added to all weights of a source class, so these are compared with each
  other, and not those of a target class.
  """
  result = []
  for (source, target), pairs in demo_relations.RELATIONS.items():
    own_names, names = (list(demo_relations.LOOKS[name].classes) for name in (source, target))
    for own, planted in pairs:
      best = int(np.argmax(np.asarray(weights[source, target])[own_names.index(own)]))
      result.append(Recovered(source, target, own, planted, names[best]))
  return result


def precision(found: list[Recovered]) -> float:
  """Precision@1: the fraction of planted relations that have the largest weight."""
  return float(np.mean([one.planted == one.found for one in found]))


def chance() -> float:
  """Precision@1 of weights drawn at random."""
  return float(
    np.mean(
      [
        1 / len(demo_relations.LOOKS[target].classes)
        for (_, target), pairs in demo_relations.RELATIONS.items()
        for _ in pairs
      ]
    )
  )


def argument(strategy: str, epochs: int) -> str:
  """Argument of the demo's config."""
  if strategy == 'released':
    return f'variant=released,epochs={epochs}'
  return f'objective={strategy},epochs={epochs}'


def train(strategy: str, seed: int, epochs: int, data: Path, workdir: Path) -> dict[str, float]:
  """Trains a strategy; top-1 of the last evaluation by the names of the datasets, and their mean."""
  config = demo.get_config(argument(strategy, epochs))
  config.seed = seed
  for name in config.datasets:
    config.datasets[name].dir = str(data / name)
  metrics = comparison.train(f'seed {seed}, {strategy}', config, workdir)
  metrics[_MEAN] = float(np.mean([metrics[f'top1/{name}'] for name in demo.DATASETS]))
  return {name: metrics[key] for name, key in COMPARISON.metrics.items()}


def projections(workdir: Path) -> Weights:
  """The projection weights of a run; empty where its objective has none."""
  params, meta = checkpoint.load_params(str(workdir))
  return relations(params, meta['class_names'])


def describe(found: Mapping[str, list[list[Recovered]]]) -> list[str]:
  """Precision@1 of every strategy over its seeds, and each relation of the first seed of the last."""
  lines = [f'planted relations recovered, precision@1 in percent (chance {100 * chance():.1f}):']
  for strategy, runs in found.items():
    values = [100 * precision(run) for run in runs]
    listed = ', '.join(f'{value:.1f}' for value in values)
    lines.append(f'  {COMPARISON.strategies[strategy]:28}{np.mean(values):5.1f}  ({listed})')
  if found:
    strategy, (first, *_) = list(found.items())[-1]
    lines += ['', f'{COMPARISON.strategies[strategy]}, first seed:']
    for (source, target), group in itertools.groupby(first, lambda one: (one.source, one.target)):
      lines.append(f'  {source} -> {target}')
      lines += [_line(one) for one in group]
  return lines


def _line(one: Recovered) -> str:
  mark = 'yes' if one.planted == one.found else f'no: {one.found}'
  return f'    {one.own:22}{one.planted:22}{mark}'


def main() -> None:
  """Trains what is missing and prints the table and the relations."""
  seeds = COMPARISON.check(_STRATEGIES.value, _SEEDS.value)
  data, out = Path(_DATA.value), Path(_OUT.value)
  for name in demo.DATASETS:
    demo_relations.write(data / name, name)
  results: dict[str, list[dict[str, float]]] = {name: [] for name in _STRATEGIES.value}
  found: dict[str, list[list[Recovered]]] = {}
  for seed in seeds:
    for strategy, runs in results.items():
      workdir = out / f'seed{seed}-{_EPOCHS.value}-epochs' / strategy
      runs.append(train(strategy, seed, _EPOCHS.value, data, workdir))
      if weights := projections(workdir):
        found.setdefault(strategy, []).append(recovered(weights))
  COMPARISON.report(out, seeds, _EPOCHS.value, results)
  print('\n' + '\n'.join(describe(found)))


if __name__ == '__main__':
  command.run(main)
