"""Compares joint training on images and clips, clips alone, and dense tubelets, on the demo data.

  python -m benchmarks.tubevit                         # one seed, `make demo-tubevit`
  python -m benchmarks.tubevit --seeds=0,1,2 --strategies=video,joint,dense

Joint training has as many minibatches of clips as training on clips alone, and those of images in
between. Dense tubelets have the compute of sparse tubes on clips alone: forward FLOPs of a clip times
clips, so fewer steps where a clip costs more. Each schedule ends where its run ends. Every run keeps its
workdir under OUT: interrupted, the same command goes on, and runs that are complete are not repeated.
Ends with a table, `results.json` and `results.png`.
"""

import copy
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from benchmarks import comparison
from configs.tubevit import demo
from datasets import demo_tubes
from tools import command
from train_lib import cost, data
from train_lib.experiment import parse

_SEEDS = flags.DEFINE_list('seeds', ['0'], 'Seeds of the runs.', allow_override=True)
_STRATEGIES = flags.DEFINE_list(
  'strategies', ['video', 'joint'], 'Of video, joint and dense.', allow_override=True
)
_EPOCHS = flags.DEFINE_integer(
  'epochs',
  demo.EPOCHS,
  'Epochs of the clips in each run but those of dense tubelets.',
  lower_bound=1,
  allow_override=True,
)
_DATA = flags.DEFINE_string(
  'data', demo.DATA, 'Where the datasets are, or are written to.', allow_override=True
)
_OUT = flags.DEFINE_string(
  'out', 'runs/demo_tubevit', 'Folder of the runs and results.', allow_override=True
)

_CLIPS = 'top-1 of clips'
_APPEARANCE, _MOTION = 'their appearance', 'their motion'
COMPARISON = comparison.Comparison(
  strategies={
    'video': 'sparse tubes, clips alone',
    'joint': 'sparse tubes, with images',
    'dense': 'dense tubelets, clips alone',
  },
  metrics={name: name for name in (_CLIPS, _APPEARANCE, _MOTION)},
  title='Demo data',
  epochs='epochs of the clips (of dense tubelets: equal FLOPs)',
  claims=(('joint', 'video', _CLIPS), ('video', 'dense', _CLIPS)),
)


def config_of(strategy: str, epochs: int, folder: Path) -> ConfigDict:
  """The demo's config on the data in a folder; of dense tubelets with the compute of `video`."""
  config = demo.get_config(f'mode={strategy},epochs={epochs}')
  for name in config.datasets:
    config.datasets[name].dir = str(folder / name)
  if strategy == 'dense':
    video = config_of('video', epochs, folder)
    demo.set_steps(config, round(steps(video) * flops(video) / flops(config)))
  return config


def steps(config: ConfigDict) -> int:
  """Minibatches of clips in a run."""
  return int(config.duration.split()[0]) // len(config.datasets)


def flops(config: ConfigDict) -> float:
  """FLOPs of a forward pass on one clip, a multiply-add counted as one."""
  experiment = parse(config)
  facts = data.facts_of(experiment, data.open_train_splits(experiment))
  return cost.cost_of(experiment, facts, 'clips').flops


def spent(config: ConfigDict) -> dict[str, float]:
  """What a run spends on clips: minibatches of them, clips, and FLOPs of a forward pass on one."""
  count = steps(config)
  clips = count * parse(config).batch_size_of('clips')
  return {'steps': count, 'clips': clips, 'flops_of_a_clip': flops(config)}


def describe(strategy: str, spent: Mapping[str, float]) -> str:
  """What a strategy spends on clips, for people."""
  clips, one = spent['clips'], spent['flops_of_a_clip']
  return (
    f'{COMPARISON.strategies[strategy]:28}{clips:>8,} clips of {one / 1e6:.1f} MFLOPs, '
    f'{clips * one / 1e12:.3f} TFLOPs in forward passes'
  )


def train(strategy: str, seed: int, config: ConfigDict, workdir: Path) -> dict[str, float]:
  """Trains a strategy; top-1 of the last evaluation, of clips and of either part of their classes."""
  config = copy.deepcopy(config)
  config.seed = seed
  metrics = comparison.train(f'seed {seed}, {strategy}', config, workdir)
  if 'images' in config.datasets:
    print(f'top-1 of images: {100 * metrics["top1/images"]:.1f}')
  last = max((workdir / 'eval' / 'clips' / config.datasets.clips.eval_split).iterdir())
  return {_CLIPS: metrics['top1/clips'], **parts((last / 'predictions.jsonl').read_text())}


def parts(predictions: str) -> dict[str, float]:
  """How often the best class of a clip has the right appearance, and the right motion.

  Args:
    predictions: the text of `predictions.jsonl`.
  """
  clips = [json.loads(line)['clips'] for line in predictions.splitlines()]
  pairs = np.array([(clip['label'], clip['top5'][0]['class']) for clip in clips])
  motions = len(demo_tubes.MOTIONS)
  return {
    _APPEARANCE: float(np.mean(np.equal(*(pairs // motions).T))),
    _MOTION: float(np.mean(np.equal(*(pairs % motions).T))),
  }


def main() -> None:
  """Trains what is missing and prints the cost of each strategy and the table."""
  seeds = COMPARISON.check(_STRATEGIES.value, _SEEDS.value)
  folder, out, epochs = Path(_DATA.value), Path(_OUT.value), _EPOCHS.value
  demo_tubes.write_images(folder / 'images')
  demo_tubes.write_clips(folder / 'clips')
  configs = {name: config_of(name, epochs, folder) for name in _STRATEGIES.value}
  clips = {name: spent(config) for name, config in configs.items()}
  print('\n'.join(describe(*item) for item in clips.items()), flush=True)
  results: dict[str, list[dict[str, float]]] = {name: [] for name in configs}
  for seed in seeds:
    for strategy, config in configs.items():
      workdir = out / f'seed{seed}-{epochs}-epochs' / strategy
      results[strategy].append(train(strategy, seed, config, workdir))
  COMPARISON.report(out, seeds, epochs, results, spent=clips)


if __name__ == '__main__':
  command.run(main)
