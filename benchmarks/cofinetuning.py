"""Compares co-finetuning with transfer learning on the demo data, at equal total steps.

  python -m benchmarks.cofinetuning                       # one seed, `make demo-cofinetune`
  python -m benchmarks.cofinetuning --seeds=0,1,2 --strategies=transfer,weighted,alternating

Transfer learning trains on the classification dataset, then on the detection dataset from there, each
for as many epochs as co-finetuning trains on the sum of both (Beyond Transfer Learning, Tables 1, 3
and 4). Every run keeps its workdir under OUT: interrupted, the same command goes on, and runs that
are complete are not repeated. Ends with a table, `results.json` and `results.png`.
"""

import contextlib
import copy
import io
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from configs.cofinetune import demo
from datasets import demo_actors
from errors import ConfigError
from tools import command
from train_lib import run
from train_lib.files import write_atomically

_SEEDS = flags.DEFINE_list('seeds', ['0'], 'Seeds of the runs.')
_STRATEGIES = flags.DEFINE_list(
  'strategies', ['transfer', 'weighted'], 'Of transfer, weighted, alternating and uniform.'
)
_EPOCHS = flags.DEFINE_integer('epochs', demo.EPOCHS, 'Epochs of each stage.', lower_bound=1)
_DATA = flags.DEFINE_string('data', demo.DATA, 'Where the datasets are, or are written to.')
_OUT = flags.DEFINE_string('out', 'runs/cofinetuning', 'Folder of the runs and results.')

NAMES = {
  'transfer': 'transfer learning',
  'weighted': 'co-finetuning',
  'alternating': 'co-finetuning, alternating',
  'uniform': 'co-finetuning, uniform',
}
METRICS = {
  'mAP': 'mAP/actors',
  'head': 'mAP_head/actors',
  'mid': 'mAP_mid/actors',
  'tail': 'mAP_tail/actors',
  'top-1 of actions': 'top1/actions',
}
_COLORS = ('#9aa3b2', '#2f6db3', '#e08e2b', '#3c9a5f')


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
  """Trains the stages of a strategy; the last evaluation's metrics, by their names in `METRICS`."""
  metrics: dict[str, float] = {}
  start: Path | None = None
  for stage, argument in stages(strategy, epochs).items():
    workdir = out / f'seed{seed}-{epochs}-epochs' / stage
    config = config_of(argument, seed, data, start)
    with _watched(f'seed {seed}, {stage}', workdir.with_suffix('.log')):
      run.run('train', copy.deepcopy(config), str(workdir))
    metrics.update(_final_metrics(workdir, config))
    start = workdir
  return {name: metrics[key] for name, key in METRICS.items()}


def _final_metrics(workdir: Path, config: ConfigDict) -> dict[str, float]:
  metrics: dict[str, float] = {}
  for name in config.datasets:
    last = max((workdir / 'eval' / name / 'test').iterdir())
    metrics |= json.loads((last / 'metrics.json').read_text())
  return metrics


@contextlib.contextmanager
def _watched(title: str, log: Path) -> Iterator[None]:
  """Shows the steps of a training as a bar; what it prints goes to a file."""
  log.parent.mkdir(parents=True, exist_ok=True)
  begin = time.monotonic()
  columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn())
  with Progress(*columns, TimeRemainingColumn(), transient=True) as bar, open(log, 'a') as file:
    task = bar.add_task(title, total=None)

    class Watch(io.TextIOBase):
      def write(self, text: str) -> int:
        file.write(text)
        found = re.match(r'step ([\d,]+)/([\d,]+)', text)
        if found:
          done, total = (int(x.replace(',', '')) for x in found.groups())
          bar.update(task, completed=done, total=total)
        return len(text)

    with contextlib.redirect_stdout(Watch()):
      yield
  print(f'{title}: {time.monotonic() - begin:.0f} s, {log}', flush=True)


def table(results: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
  """Mean and standard deviation over seeds, in percent, of every strategy."""
  lines = [' ' * 28 + ''.join(f'{name:>18}' for name in METRICS)]
  for strategy, runs in results.items():
    cells = []
    for name in METRICS:
      values = 100 * np.array([r[name] for r in runs])
      spread = f' ± {values.std(ddof=1):4.1f}' if len(values) > 1 else ''
      cells.append(f'{values.mean():5.1f}{spread}')
    lines.append(f'{NAMES[strategy]:28}' + ''.join(f'{cell:>18}' for cell in cells))
  return '\n'.join(lines)


def verdicts(results: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
  """Whether the paper's claims hold here, seed by seed."""
  claims = [('weighted', 'transfer', 'tail'), ('weighted', 'transfer', 'mAP')]
  claims += [('weighted', 'alternating', 'mAP')]
  lines = []
  for one, other, metric in claims:
    if one not in results or other not in results:
      continue
    gains = [100 * (a[metric] - b[metric]) for a, b in zip(results[one], results[other])]
    listed = ', '.join(f'{gain:+.1f}' for gain in gains)
    holds = 'holds' if np.mean(gains) > 0 else 'DOES NOT HOLD'
    better = f'{sum(gain > 0 for gain in gains)} of {len(gains)} seeds'
    lines.append(
      f'{NAMES[one]} beats {NAMES[other]} on {metric}: {holds} on average, in {better} ({listed})'
    )
  return lines


def chart_png(path: Path, results: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
  """Bars of every metric by strategy, with the seeds as dots."""
  figure = Figure(figsize=(8, 4), layout='constrained')
  axes = figure.add_subplot()
  width = 0.8 / len(results)
  for i, (strategy, runs) in enumerate(results.items()):
    for place, name in enumerate(METRICS):
      values = [100 * r[name] for r in runs]
      x = place + (i - (len(results) - 1) / 2) * width
      label = NAMES[strategy] if place == 0 else None
      axes.bar(x, np.mean(values), 0.92 * width, color=_COLORS[i], label=label)
      axes.plot([x] * len(values), values, '.', color='#1f2430', markersize=4)
  axes.set_xticks(range(len(METRICS)), list(METRICS))
  axes.set_ylabel('percent')
  axes.set_title('Demo data, equal total steps', loc='left', fontsize=11)
  axes.spines[['top', 'right']].set_visible(False)
  axes.legend(frameon=False)
  FigureCanvasAgg(figure).print_png(path)


def main() -> None:
  """Trains what is missing and prints the table."""
  unknown = sorted(set(_STRATEGIES.value) - set(NAMES))
  if unknown:
    raise ConfigError(f'--strategies: {unknown} are unknown; known: {sorted(NAMES)}.')
  data, out = Path(_DATA.value), Path(_OUT.value)
  demo_actors.write_actions(data / 'actions')
  demo_actors.write_actors(data / 'actors')
  results: dict[str, list[dict[str, float]]] = {name: [] for name in _STRATEGIES.value}
  for seed in map(int, _SEEDS.value):
    for strategy, runs in results.items():
      runs.append(train(strategy, seed, _EPOCHS.value, data, out))
  summary: dict[str, Any] = {'seeds': _SEEDS.value, 'epochs': _EPOCHS.value, 'results': results}
  write_atomically(out / 'results.json', json.dumps(summary, indent=2) + '\n')
  chart_png(out / 'results.png', results)
  print(f'\nDemo data, {_EPOCHS.value} epochs, {len(_SEEDS.value)} seed(s), in percent:\n')
  print('\n'.join([table(results), '', *verdicts(results)]))
  print(f'\n  results       {out / "results.json"}\n  picture       {out / "results.png"}')


if __name__ == '__main__':
  command.run(main)
