"""What programs that compare ways of training share: watched runs, tables, verdicts and a chart."""

import contextlib
import copy
import dataclasses
import io
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from errors import ConfigError
from train_lib import run
from train_lib.files import write_atomically

Results = Mapping[str, Sequence[Mapping[str, float]]]
"""Strategy -> metrics of each seed, as fractions."""

_COLORS = ('#9aa3b2', '#2f6db3', '#e08e2b', '#3c9a5f', '#b3475f', '#7a5fb3', '#8a6d3b')


@dataclasses.dataclass(frozen=True)
class Comparison:
  """What is compared.

  Attributes:
    strategies: name on the command line -> name for people.
    metrics: name for people -> metric of the evaluation.
    claims: (strategy, other strategy, metric) where the first should be ahead.
    title: of the picture.
    epochs: what the number of epochs counts.
  """

  strategies: Mapping[str, str]
  metrics: Mapping[str, str]
  claims: Sequence[tuple[str, str, str]]
  title: str = 'Demo data, equal total steps'
  epochs: str = 'epochs'

  def check(self, strategies: Sequence[str], seeds: Sequence[str]) -> list[int]:
    """Checks the lists of the command line; the seeds.

    Raises:
      ConfigError: a list is empty or repeats itself, a strategy is not known, or a seed is not a
        whole number of at least 0.
    """
    unknown = sorted(set(strategies) - set(self.strategies))
    if unknown:
      raise ConfigError(f'--strategies: {unknown} are unknown; known: {sorted(self.strategies)}.')
    odd = [seed for seed in seeds if not seed.isdecimal()]
    if odd:
      raise ConfigError(f'--seeds: {odd} are not whole numbers of at least 0.')
    numbers = [int(seed) for seed in seeds]
    for flag, values in (('strategies', strategies), ('seeds', numbers)):
      if not values or len(set(values)) < len(values):
        raise ConfigError(f'--{flag}: expected at least one, each once; got {list(values)}.')
    return numbers

  def table(self, results: Results) -> str:
    """Mean and standard deviation over seeds, in percent, of every strategy."""
    lines = [' ' * 28 + ''.join(f'{name:>18}' for name in self.metrics)]
    for strategy, runs in results.items():
      cells = []
      for name in self.metrics:
        values = 100 * np.array([r[name] for r in runs])
        spread = f' ± {values.std(ddof=1):4.1f}' if len(values) > 1 else ''
        cells.append(f'{values.mean():5.1f}{spread}')
      lines.append(f'{self.strategies[strategy]:28}' + ''.join(f'{cell:>18}' for cell in cells))
    return '\n'.join(lines)

  def verdicts(self, results: Results) -> list[str]:
    """Whether the claims about strategies that were run hold, seed by seed."""
    lines = []
    for one, other, metric in self.claims:
      if one not in results or other not in results:
        continue
      gains = [
        100 * (a[metric] - b[metric]) for a, b in zip(results[one], results[other], strict=True)
      ]
      listed = ', '.join(f'{gain:+.1f}' for gain in gains)
      holds = 'holds' if np.mean(gains) > 0 else 'DOES NOT HOLD'
      better = f'{sum(gain > 0 for gain in gains)} of {len(gains)} seeds'
      names = f'{self.strategies[one]} beats {self.strategies[other]}'
      lines.append(f'{names} on {metric}: {holds} on average, in {better} ({listed})')
    return lines

  def chart_png(self, path: Path, results: Results) -> None:
    """Bars of every metric by strategy, with the seeds as dots."""
    figure = Figure(figsize=(8, 4), layout='constrained')
    axes = figure.add_subplot()
    width = 0.8 / len(results)
    for i, (strategy, runs) in enumerate(results.items()):
      for place, name in enumerate(self.metrics):
        values = [100 * r[name] for r in runs]
        x = place + (i - (len(results) - 1) / 2) * width
        label = self.strategies[strategy] if place == 0 else None
        color = _COLORS[i % len(_COLORS)]
        axes.bar(x, np.mean(values), 0.92 * width, color=color, label=label)
        axes.plot([x] * len(values), values, '.', color='#1f2430', markersize=4)
    axes.set_xticks(range(len(self.metrics)), list(self.metrics))
    axes.set_ylabel('percent')
    axes.set_title(self.title, loc='left', fontsize=11)
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False)
    FigureCanvasAgg(figure).print_png(path)

  def report(
    self, out: Path, seeds: Sequence[int], epochs: int, results: Results, **more: Any
  ) -> None:
    """Prints the table and the verdicts; writes `results.json`, with `more`, and `results.png`."""
    summary = {'seeds': seeds, 'epochs': epochs, **more, 'results': results}
    write_atomically(out / 'results.json', json.dumps(summary, indent=2) + '\n')
    self.chart_png(out / 'results.png', results)
    print(f'\nDemo data, {epochs} {self.epochs}, {len(seeds)} seed(s), in percent:\n')
    print('\n'.join([self.table(results), '', *self.verdicts(results)]))
    print(f'\n  results       {out / "results.json"}\n  picture       {out / "results.png"}')


def train(title: str, config: ConfigDict, workdir: Path) -> dict[str, float]:
  """Trains, or goes on, and returns the metrics of the last evaluation of every dataset.

  Shows the steps as a bar; what the run prints goes to a file beside the workdir.
  """
  with _watched(title, workdir.with_suffix('.log')):
    run.run('train', copy.deepcopy(config), str(workdir))
  metrics: dict[str, float] = {}
  for name in config.datasets:
    last = max((workdir / 'eval' / name / config.datasets[name].eval_split).iterdir())
    metrics |= json.loads((last / 'metrics.json').read_text())
  return metrics


@contextlib.contextmanager
def _watched(title: str, log: Path) -> Iterator[None]:
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
