"""Compares co-finetuning with transfer learning on the demo data, at equal total steps.

  python -m benchmarks.cofinetuning                       # one seed, `make demo-cofinetune`
  python -m benchmarks.cofinetuning --seeds=0,1,2 --strategies=transfer,weighted,alternating

Transfer learning trains on the classification dataset, then on the detection dataset from there, each
for as many epochs as co-finetuning trains on the sum of both (Beyond Transfer Learning, Tables 1, 3
and 4). Every run keeps its workdir under OUT: interrupted, the same command goes on, and runs that
are complete are not repeated. Ends with a table, `results.json` and `results.png`.
"""

from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from benchmarks import comparison
from configs.cofinetune import demo
from datasets import demo_actors
from tools import command

_SEEDS = flags.DEFINE_list('seeds', ['0'], 'Seeds of the runs.', allow_override=True)
_STRATEGIES = flags.DEFINE_list(
  'strategies',
  ['transfer', 'weighted'],
  'Of transfer, weighted, alternating and uniform.',
  allow_override=True,
)
_EPOCHS = flags.DEFINE_integer(
  'epochs', demo.EPOCHS, 'Epochs of each stage.', lower_bound=1, allow_override=True
)
_DATA = flags.DEFINE_string(
  'data', demo.DATA, 'Where the datasets are, or are written to.', allow_override=True
)
_OUT = flags.DEFINE_string(
  'out', 'runs/demo_cofinetune', 'Folder of the runs and results.', allow_override=True
)

COMPARISON = comparison.Comparison(
  strategies={
    'transfer': 'transfer learning',
    'weighted': 'co-finetuning',
    'alternating': 'co-finetuning, alternating',
    'uniform': 'co-finetuning, uniform',
  },
  metrics={
    'mAP': 'mAP/actors',
    'head': 'mAP_head/actors',
    'mid': 'mAP_mid/actors',
    'tail': 'mAP_tail/actors',
    'top-1 of actions': 'top1/actions',
  },
  claims=(
    ('weighted', 'transfer', 'tail'),
    ('weighted', 'transfer', 'mAP'),
    ('weighted', 'alternating', 'mAP'),
  ),
)


def stages(strategy: str, epochs: int) -> dict[str, str]:
  """Name -> argument of the demo's config, in the order in which they are trained."""
  if strategy == 'transfer':
    return {
      'pretrain': f'stage=pretrain,epochs={epochs}',
      'finetune': f'stage=finetune,epochs={epochs}',
    }
  return {strategy: f'sampling={strategy},epochs={epochs}'}


def config_of(argument: str, seed: int, data: Path, start: Path | None) -> ConfigDict:
  """The demo's config with its data, its seed and what it starts from."""
  config = demo.get_config(argument)
  config.seed = seed
  for name in config.datasets:
    config.datasets[name].dir = str(data / name)
  if 'actors' in config.tasks:
    config.tasks.actors.protocol.class_groups = str(data / 'actors' / demo_actors.GROUPS_FILE)
  config.init_from.path = str(start or '')
  return config


def train(strategy: str, seed: int, epochs: int, data: Path, out: Path) -> dict[str, float]:
  """Trains the stages of a strategy; the last evaluation's metrics, by their names for people."""
  metrics: dict[str, float] = {}
  start: Path | None = None
  for stage, argument in stages(strategy, epochs).items():
    workdir = out / f'seed{seed}-{epochs}-epochs' / stage
    config = config_of(argument, seed, data, start)
    metrics |= comparison.train(f'seed {seed}, {stage}', config, workdir)
    start = workdir
  return {name: metrics[key] for name, key in COMPARISON.metrics.items()}


def main() -> None:
  """Trains what is missing and prints the table."""
  seeds = COMPARISON.check(_STRATEGIES.value, _SEEDS.value)
  data, out = Path(_DATA.value), Path(_OUT.value)
  demo_actors.write_actions(data / 'actions')
  demo_actors.write_actors(data / 'actors')
  results: dict[str, list[dict[str, float]]] = {name: [] for name in _STRATEGIES.value}
  for seed in seeds:
    for strategy, runs in results.items():
      runs.append(train(strategy, seed, _EPOCHS.value, data, out))
  COMPARISON.report(out, seeds, _EPOCHS.value, results)


if __name__ == '__main__':
  command.run(main)
