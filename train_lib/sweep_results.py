"""What a sweep has found: tables with mean and spread over seeds, and whether its claims hold."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import ConfigError
from train_lib.files import write_atomically
from train_lib.sweep import Description, folder_name
from train_lib.sweep_runs import Run
from train_lib.sweep_states import FINISHED, look

TABLE, ROWS = 'results.md', 'results.csv'
COST = 'cost/'
"""Beginning of metrics that say what a model costs: the same for every seed, and in no picture."""


@dataclass(frozen=True)
class Result:
  """A run and what came of it.

  Attributes:
    run: What it is.
    state: One of the names in `sweep_states`.
    why: Of a run that has no result.
    metrics: Of its last evaluation, as fractions but for losses; empty unless it has finished.
  """

  run: Run
  state: str
  why: str
  metrics: Mapping[str, float]


def collect(
  runs: Sequence[Run], description: Description, states: Mapping[Path, tuple[str, str]]
) -> list[Result]:
  """Reads the results of what has finished.

  Args:
    runs: Of the sweep.
    description: Its description.
    states: Folder of a run -> its state and why, of those that have not.
  """
  results = []
  for run in runs:
    found = look(run)
    if not found.finished:
      results.append(Result(run, *states.get(run.workdir, ('not finished', '')), {}))
      continue
    extra = description.extra_metrics(run.workdir) if description.extra_metrics else {}
    results.append(Result(run, FINISHED, '', {**found.metrics, **extra}))
  return results


def metrics_shown(results: Sequence[Result], description: Description) -> dict[str, str]:
  """Label -> metric of the tables: the description's, or what the configs choose checkpoints by."""
  if description.metrics:
    return dict(description.metrics)
  best = [result.run.resolved['checkpoint']['best_metric'] for result in results]
  every = sorted({name for result in results for name in result.metrics})
  chosen = list(dict.fromkeys(filter(None, best))) or every
  return {name: name for name in chosen}


def check_metrics(results: Sequence[Result], metrics: Mapping[str, str]) -> None:
  """Raises ConfigError where no run that has finished has a metric of the tables."""
  known = sorted({name for result in results for name in result.metrics})
  for label, metric in metrics.items():
    if known and metric not in known:
      raise ConfigError(
        f'METRICS: {label!r} is {metric!r}, which no evaluation gave; there are {", ".join(known)}.'
      )


# --- Tables ---


@dataclass(frozen=True)
class Group:
  """A table.

  Attributes:
    title: Its title; may be empty.
    rows: Name -> results of its seeds, in order.
  """

  title: str
  rows: Mapping[str, Sequence[Result]]

  def values(self, name: str, metric: str) -> list[float]:
    """The metric of every seed of a row that has it; of fractions in percent."""
    found = [r.metrics[metric] for r in self.rows[name] if metric in r.metrics]
    return [scale(metric) * value for value in found]


def scale(metric: str) -> float:
  """Factor of a metric for people: accuracies and precisions are shown in percent."""
  return 1.0 if metric.startswith(('loss', COST)) else 100.0


def groups(results: Sequence[Result]) -> list[Group]:
  """The tables, in the order of their first rows."""
  shown = [result for result in results if result.run.shown]
  titles = dict.fromkeys(title for result in shown for title in result.run.groups)
  tables = []
  for title in titles:
    rows: dict[str, list[Result]] = {}
    for result in shown:
      if title in result.run.groups:
        rows.setdefault(result.run.name, []).append(result)
    tables.append(Group(title, rows))
  return tables


def cells(group: Group, metrics: Mapping[str, str]) -> list[list[str]]:
  """The table as text: a head, then for every row its name, mean ± deviation of each metric, and how
  many seeds these are of."""
  lines = [['', *metrics, 'seeds']]
  for name, results in group.rows.items():
    finished = sum(result.state == FINISHED for result in results)
    count = str(finished) if finished == len(results) else f'{finished} of {len(results)}'
    lines.append(
      [name, *(spread(group.values(name, m), scale(m)) for m in metrics.values()), count]
    )
  return lines


def spread(values: Sequence[float], factor: float) -> str:
  """`'93.2 ± 5.9'`: mean and sample standard deviation, of several values; counts that are equal have none."""
  digits = 1 if factor > 1 else 3
  if not values:
    return '-'
  mean = f'{statistics.mean(values):.{digits}f}'
  varies = len(values) > 1 and (factor > 1 or len(set(values)) > 1)
  return f'{mean} ± {statistics.stdev(values):.{digits}f}' if varies else mean


def text_table(lines: Sequence[Sequence[str]]) -> str:
  """Columns of equal width, names on the left and numbers on the right."""
  widths = [max(map(len, column)) for column in zip(*lines)]
  return '\n'.join(
    '  '.join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:]))])
    for line in lines
  )


def markdown(lines: Sequence[Sequence[str]]) -> str:
  """The table for a README."""
  escaped = [[cell.replace('|', r'\|') for cell in line] for line in lines]
  head, *rows = [f'| {" | ".join(line)} |' for line in escaped]
  return '\n'.join([head, '|---' + '|---:' * (len(lines[0]) - 1) + '|', *rows])


# --- Claims ---


def verdicts(
  tables: Sequence[Group], metrics: Mapping[str, str], claims: Sequence[tuple[str, ...]]
) -> list[str]:
  """Whether the claims hold, by table, on average and seed by seed.

  Raises:
    ConfigError: A claim is about no row or no metric that there is.
  """
  lines = []
  for claim in claims:
    if len(claim) not in (3, 4):
      raise ConfigError(f'CLAIMS: expected (row, other row, metric[, table]), got {claim!r}.')
    one, other, label, *title = claim
    fitting = [
      table
      for table in tables
      if one in table.rows and other in table.rows and title in ([], [table.title])
    ]
    if not fitting or label not in metrics:
      raise ConfigError(
        f'CLAIMS: {claim!r} is about no two rows of a table and a metric of METRICS: expected '
        f'(row, other row, metric[, table]) of {[list(table.rows) for table in tables]} and '
        f'{list(metrics)}.'
      )
    lines += [_verdict(table, one, other, label, metrics[label]) for table in fitting]
  return lines


def _verdict(table: Group, one: str, other: str, label: str, metric: str) -> str:
  def by_seed(name: str) -> dict[int, float]:
    return {r.run.seed: r.metrics[metric] for r in table.rows[name] if metric in r.metrics}

  first, second = by_seed(one), by_seed(other)
  seeds = sorted(first.keys() & second.keys())
  where = f'{table.title}: ' if table.title else ''
  what = f'{where}{one} beats {other} on {label}'
  if not seeds:
    return f'{what}: NOT KNOWN, no seed of both has finished'
  gains = [scale(metric) * (first[seed] - second[seed]) for seed in seeds]
  holds = 'holds' if statistics.mean(gains) > 0 else 'DOES NOT HOLD'
  ahead = f'{sum(gain > 0 for gain in gains)} of {len(gains)} seeds'
  listed = ', '.join(f'{gain:+.1f}' for gain in gains)
  return f'{what}: {holds} on average, in {ahead} ({listed})'


# --- Files ---


def varied_keys(results: Sequence[Result]) -> list[str]:
  """The config keys that rows change, in order."""
  return list(dict.fromkeys(key for result in results for key in result.run.changes))


def value_of(run: Run, key: str) -> Any:
  """A run's value of a dotted key, whether its row or its config says it; None: it has no such key."""
  value: Any = run.resolved
  for part in key.split('.'):
    if not isinstance(value, Mapping) or part not in value:
      return None
    value = value[part]
  return value


def write_rows(path: Path, results: Sequence[Result], out: Path) -> None:
  """One line a run: its name, tables, seed, what rows change, every metric (fractions), its state and
  its folder below OUT."""
  keys = varied_keys(results)
  metrics = sorted({name for result in results for name in result.metrics})
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(['run', 'group', 'seed', *keys, *metrics, 'state', 'workdir'])
  for result in results:
    run = result.run
    changed = [value_of(run, key) for key in keys]
    measured = [result.metrics.get(name, '') for name in metrics]
    folder = run.workdir.relative_to(out)
    writer.writerow(
      [run.name, '; '.join(run.groups), run.seed, *changed, *measured, result.state, folder]
    )
  write_atomically(path, text.getvalue())


def write_tables(
  path: Path,
  tables: Sequence[Group],
  metrics: Mapping[str, str],
  claims: Sequence[str],
  pictures: Sequence[Path],
) -> None:
  """The tables with their pictures, and the verdicts, as Markdown."""
  parts = []
  for table, picture in zip(tables, pictures, strict=True):
    parts += [f'### {table.title}'] if table.title else []
    parts += [markdown(cells(table, metrics)), f'![{table.title}]({picture.name})']
  parts += ['\n'.join(f'- {claim}' for claim in claims)] if claims else []
  write_atomically(path, '\n\n'.join(parts) + '\n')


def picture_of(out: Path, table: Group) -> Path:
  """Where a table's picture goes."""
  return out / (f'results_{folder_name(table.title)}.png' if table.title else 'results.png')
