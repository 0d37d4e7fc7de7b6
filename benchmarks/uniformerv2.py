"""Compares the parts of UniFormerV2 (Table 9a) on the demo's motions and scenes.

  python -m benchmarks.uniformerv2                         # one seed, `make demo-uniformerv2`
  python -m benchmarks.uniformerv2 --seeds=0,1,2 --strategies=none,global,local,both,both_tdown

For each seed a small image ViT learns from stills. Each strategy starts from it and trains on the motions, and
from it again on the scenes, in as many steps as the others: without blocks, with global ones, with local ones,
with both, and with both and twice the frames at half the resolution in time. Every run keeps its workdir under
OUT: interrupted, the same command goes on, and runs that are complete are not repeated. Ends with a table,
`results.json` and `results.png`.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from benchmarks import comparison
from configs.uniformerv2 import demo
from datasets import demo_scenes
from tools import command
from train_lib import compilation_cache

_SEEDS = flags.DEFINE_list('seeds', ['0'], 'Seeds of the runs.', allow_override=True)
_STRATEGIES = flags.DEFINE_list(
  'strategies',
  ['global', 'local'],
  'Of none, global, local, both and both_tdown.',
  allow_override=True,
)
_EPOCHS = flags.DEFINE_integer(
  'epochs',
  demo.EPOCHS,
  'Epochs of the clips in each run, more than the one of the warm-up.',
  lower_bound=2,
  allow_override=True,
)
_DATA = flags.DEFINE_string(
  'data', demo.DATA, 'Where the datasets are, or are written to.', allow_override=True
)
_OUT = flags.DEFINE_string(
  'out', 'runs/demo_uniformerv2', 'Folder of the runs and results.', allow_override=True
)

COMPARISON = comparison.Comparison(
  strategies={
    'none': 'image ViT',
    'global': 'with global blocks',
    'local': 'with local blocks',
    'both': 'with both',
    'both_tdown': 'both, T-down, 2 x frames',
  },
  metrics={name: name for name in ('motions', 'scenes')},
  epochs='epochs of the clips',
  claims=(
    ('local', 'global', 'motions'),
    ('global', 'local', 'scenes'),
    ('local', 'none', 'motions'),
    ('global', 'none', 'scenes'),
    ('both', 'global', 'motions'),
    ('both', 'local', 'scenes'),
    ('both_tdown', 'both', 'motions'),
  ),
)


def config_of(data: str, strategy: str, epochs: int, seed: int, folder: Path) -> ConfigDict:
  """The demo's config of a strategy on the stills, motions or scenes in a folder."""
  chosen = '' if data == 'stills' else f',row={strategy},epochs={epochs}'
  config = demo.get_config(f'data={data}{chosen}')
  config.seed = seed
  for dataset in config.datasets.values():
    dataset.dir = str(folder / data)
  return config


def train(
  strategies: Sequence[str], seed: int, epochs: int, folder: Path, out: Path
) -> dict[str, dict[str, float]]:
  """Trains the image ViT, then every strategy from it; top-1 of their last evaluations."""
  stills = config_of('stills', 'none', epochs, seed, folder)
  found = comparison.train(f'seed {seed}, stills', stills, out / 'stills')
  print(f'top-1 of stills: {100 * found["top1/stills"]:.1f}')
  results: dict[str, dict[str, float]] = {name: {} for name in strategies}
  for strategy, row in results.items():
    for data in COMPARISON.metrics:
      config = config_of(data, strategy, epochs, seed, folder)
      config.init_from.path = str(out / 'stills')
      workdir = out / f'{strategy}-{data}'
      found = comparison.train(f'seed {seed}, {strategy}, {data}', config, workdir)
      row[data] = found['top1/clips']
  return results


def main() -> None:
  """Trains what is missing and prints the table."""
  seeds = COMPARISON.check(_STRATEGIES.value, _SEEDS.value)
  folder, out, epochs = Path(_DATA.value), Path(_OUT.value), _EPOCHS.value
  # Motions and scenes, and all seeds, are trained by the same programs.
  compilation_cache.use('auto', out)
  demo_scenes.write_stills(folder / 'stills')
  demo_scenes.write_motions(folder / 'motions')
  demo_scenes.write_scenes(folder / 'scenes')
  results: dict[str, list[dict[str, float]]] = {name: [] for name in _STRATEGIES.value}
  for seed in seeds:
    found = train(list(results), seed, epochs, folder, out / f'seed{seed}-{epochs}-epochs')
    for strategy, runs in results.items():
      runs.append(found[strategy])
  COMPARISON.report(out, seeds, epochs, results)


if __name__ == '__main__':
  command.run(main)
