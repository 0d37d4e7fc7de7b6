"""The bar chart of average precision by class, above how often each class occurs."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from train_lib.pictures import save_png, shorten

COLOR = '#5b9bd0'
"""Of bars that belong to no group."""

_INK, _MUTED = '#1f2430', '#6b7280'
_WIDTH, _WIDEST = 0.26, 26.0  # inches of a bar, and at most of all of them
_NAMED = 0.08  # inches of a bar below which names would overlap


class Bar(NamedTuple):
  """A class.

  Attributes:
    name: below its bar.
    ap: average precision in [0, 1]; NaN: there is none.
    frequency: how often the class occurs.
    color: of the bar.
  """

  name: str
  ap: float
  frequency: int
  color: str = COLOR


def class_chart_png(
  path: Path,
  bars: Sequence[Bar],
  legend: Sequence[tuple[str, str]],
  *,
  title: str,
  precision: str,
  counts: str,
) -> None:
  """Draws the bars, and the counts on a log scale, written atomically.

  Args:
    path: The PNG file; its folder exists.
    bars: One or more, from left to right.
    legend: Text and colour of each entry; 'none': no colour.
    title: Stands above.
    precision: What the bars are.
    counts: What the counts are.
  """
  width = min(_WIDTH, _WIDEST / len(bars))
  figure = Figure(figsize=(max(7.0, 1.8 + width * len(bars)), 5.2), layout='constrained')
  axes = figure.add_subplot()
  heights = [0.0 if math.isnan(bar.ap) else bar.ap for bar in bars]
  axes.bar(range(len(bars)), heights, 0.78, color=[bar.color for bar in bars], zorder=2)
  for place, bar in enumerate(bars):
    if math.isnan(bar.ap):
      axes.text(place, 0.01, 'n/a', rotation=90, ha='center', va='bottom', fontsize=7, color=_MUTED)
  _name_bars(axes, [shorten(bar.name, 80) for bar in bars], width)
  axes.set_xlim(-0.7, len(bars) - 0.3)
  axes.set_ylim(0, 1.12 * max(0.1, *heights))
  axes.set_ylabel(precision, color=_INK)
  axes.set_title(title, fontsize=11, color=_INK, loc='left', pad=10)
  axes.grid(axis='y', color='#e5e7eb', linewidth=0.8, zorder=0)
  _draw_counts(axes, [bar.frequency for bar in bars], counts)
  handles = [Patch(color=color, label=text) for text, color in legend]
  axes.legend(handles=handles, loc='upper right', frameon=False, fontsize=9, labelcolor=_INK)
  save_png(figure, path)


def _name_bars(axes: Axes, names: Sequence[str], width: float) -> None:
  if width < _NAMED:
    axes.set_xticks([])
    return
  size = min(8.0, 35 * width)
  axes.set_xticks(
    range(len(names)), names, rotation=45, ha='right', rotation_mode='anchor', fontsize=size
  )


def _draw_counts(axes: Axes, values: Sequence[int], label: str) -> None:
  """The line of counts, on an axis of its own at the right."""
  right = axes.twinx()
  right.set_yscale('log')
  right.plot([max(value, 0.5) for value in values], color=_INK, linewidth=1.2, marker='.')
  right.set_ylabel(label, color=_MUTED)
  for each in (axes, right):
    each.tick_params(which='both', colors=_MUTED, length=0)
    for spine in each.spines.values():
      spine.set_visible(False)
