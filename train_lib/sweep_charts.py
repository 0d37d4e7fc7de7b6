"""The picture of a sweep's table: bars with their seeds, or a curve over the number that it varies."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train_lib.pictures import save_png
from train_lib.sweep_results import COST, Group, scale, value_of, varied_keys

_COLORS = ('#2f6db3', '#e08e2b', '#3c9a5f', '#b3475f', '#7a5fb3', '#8a6d3b', '#9aa3b2')
_INK, _MUTED = '#1f2430', '#6b7280'
_LOG_FROM = 8.0  # largest over smallest value, from which on the axis is logarithmic


def chart_png(path: Path, table: Group, metrics: Mapping[str, str]) -> None:
  """Draws the runs of a table that have finished: dots are seeds, the spread is their deviation.

  A line where a single number tells the rows apart, bars otherwise.

  Args:
    path: The PNG file; its folder exists.
    table: The table.
    metrics: Label -> metric; costs are left out.
  """
  metrics = {label: metric for label, metric in metrics.items() if not metric.startswith(COST)}
  width = min(16.0, max(6.0, 2.2 + 0.35 * len(table.rows) * len(metrics)))
  figure = Figure(figsize=(width, 4.0), layout='constrained')
  axes = figure.add_subplot()
  number = varied_number(table)
  if number:
    _curves(axes, table, metrics, *number)
  else:
    _bars(axes, table, metrics)
  axes.set_ylabel('percent' if all(scale(m) > 1 for m in metrics.values()) else '', color=_INK)
  if table.title:
    axes.set_title(table.title, loc='left', fontsize=11, color=_INK)
  axes.spines[['top', 'right']].set_visible(False)
  axes.grid(axis='y', color='#e5e7eb', linewidth=0.8, zorder=0)
  axes.tick_params(colors=_MUTED)
  axes.legend(frameon=False, fontsize=9, labelcolor=_INK)
  save_png(figure, path)


def varied_number(table: Group) -> tuple[str, dict[str, float]] | None:
  """The config key and its value in each row, if that is a number, and the only thing that differs."""
  first = {name: results[0].run for name, results in table.rows.items()}
  every = [result for results in table.rows.values() for result in results]
  differing = [
    key for key in varied_keys(every) if len({str(value_of(r, key)) for r in first.values()}) > 1
  ]
  same_config = len({run.config for run in first.values()}) == 1
  if len(differing) != 1 or not same_config or len(first) < 3:
    return None
  values = {name: value_of(run, differing[0]) for name, run in first.items()}
  if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values.values()):
    return None
  return differing[0], values


def _curves(
  axes: Axes, table: Group, metrics: Mapping[str, str], key: str, places: Mapping[str, float]
) -> None:
  for i, (label, metric) in enumerate(metrics.items()):
    color = _COLORS[i % len(_COLORS)]
    found = {places[name]: table.values(name, metric) for name in table.rows}
    xs = sorted(x for x, values in found.items() if values)
    means = [statistics.mean(found[x]) for x in xs]
    spreads = [_deviation(found[x]) for x in xs]
    axes.plot(xs, means, '-o', color=color, label=label, zorder=3)
    lows, highs = zip(*((m - s, m + s) for m, s in zip(means, spreads))) if xs else ((), ())
    axes.fill_between(xs, lows, highs, color=color, alpha=0.18, linewidth=0, zorder=2)
    for x in xs:
      _dots(axes, x, found[x])
  if min(places.values()) > 0 and max(places.values()) / min(places.values()) >= _LOG_FROM:
    axes.set_xscale('log')
    axes.minorticks_off()
  axes.set_xticks(sorted(places.values()), [f'{x:g}' for x in sorted(places.values())])
  axes.set_xlabel(key, color=_INK)


def _bars(axes: Axes, table: Group, metrics: Mapping[str, str]) -> None:
  width = 0.8 / len(table.rows)
  for i, name in enumerate(table.rows):
    color, label = _COLORS[i % len(_COLORS)], name
    for place, metric in enumerate(metrics.values()):
      values = table.values(name, metric)
      if not values:
        continue
      x = place + (i - (len(table.rows) - 1) / 2) * width
      axes.bar(x, statistics.mean(values), 0.92 * width, color=color, label=label, zorder=2)
      axes.errorbar(x, statistics.mean(values), _deviation(values), color=_MUTED, zorder=3)
      _dots(axes, x, values)
      label = '_nolegend_'
  axes.set_xticks(range(len(metrics)), list(metrics))


def _deviation(values: Sequence[float]) -> float:
  return statistics.stdev(values) if len(values) > 1 else 0.0


def _dots(axes: Axes, x: float, values: Sequence[float]) -> None:
  axes.plot([x] * len(values), values, '.', color=_INK, markersize=4, zorder=4)
