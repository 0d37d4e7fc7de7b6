"""The picture of two evaluations compared."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from train_lib.compare import Comparison
from train_lib.paired import Outcomes
from train_lib.pictures import save_png, shorten

_INK, _MUTED, _GRID = '#1f2430', '#6b7280', '#e5e7eb'
_GAIN, _LOSS, _A, _B = '#1a9850', '#d73027', '#9aa3b2', '#5b9bd0'
_BOTH = '#c9dcf0'
_BARS = 10  # Classes at each end, and half the confusions.
_ROW, _TOP = 0.24, 1.9  # inches of a bar's row, and of all that is no row


def comparison_png(path: Path, comparison: Comparison, title: str) -> None:
  """Draws who is right where, the classes that gain and lose most, and what is confused; atomically.

  Args:
    path: The PNG file; its folder exists.
    comparison: What to draw.
    title: Stands above.
  """
  gains = [c for c in comparison.classes if c.b > c.a][:_BARS]
  losses = [c for c in comparison.classes if c.b < c.a][-_BARS:]
  changes = [(f'{c.name} ({c.n:,})', c.b - c.a) for c in (*gains, *losses)]
  confusions = [c for c in comparison.confusions if c.a != c.b][: 2 * _BARS]
  rows = max(len(changes), len(confusions), 6)
  figure = Figure(figsize=(15 if confusions else 8.5, _TOP + _ROW * rows), layout='constrained')
  figure.suptitle(f'{comparison.task}: {title}', x=0.01, ha='left', fontsize=12, color=_INK)
  outcomes = [s for s in comparison.scores.values() if isinstance(s, Outcomes)][:1]
  grid = figure.add_gridspec(
    1 + len(outcomes), 2 if confusions else 1, height_ratios=[*[0.5] * len(outcomes), _ROW * rows]
  )
  for score in outcomes:
    _draw_outcomes(figure.add_subplot(grid[0, :]), score)
  _draw_changes(figure.add_subplot(grid[-1, 0]), changes, comparison.measure)
  if confusions:
    labels = [f'{shorten(c.true, 24)} → {shorten(c.predicted, 24)}' for c in confusions]
    _draw_pairs(figure.add_subplot(grid[-1, 1]), labels, [(c.a, c.b) for c in confusions])
  save_png(figure, path)


def _draw_outcomes(axes: Axes, score: Outcomes) -> None:
  """One bar of all examples, by which of the two is right."""
  left = 0
  parts = (
    ('both right', score.both, _BOTH),
    ('A alone', score.only_a, _LOSS),
    ('B alone', score.only_b, _GAIN),
    ('both wrong', score.neither, _GRID),
  )
  for name, count, color in parts:
    axes.barh(0, count, left=left, color=color, label=f'{name} {count:,}')
    left += count
  axes.set_xlim(0, score.n)
  axes.axis('off')
  axes.legend(
    loc='upper left', bbox_to_anchor=(0, 0.05), ncols=4, frameon=False, fontsize=9, labelcolor=_INK
  )


def _draw_changes(axes: Axes, changes: Sequence[tuple[str, float]], measure: str) -> None:
  """Classes by gain, the largest on top."""
  _name_rows(axes, [shorten(name, 40) for name, _ in changes])
  values = [100 * change for _, change in changes]
  axes.barh(range(len(values)), values, color=[_GAIN if x > 0 else _LOSS for x in values], zorder=2)
  axes.axvline(0, color=_MUTED, linewidth=0.8, zorder=3)
  title = f'{measure} by class, B less A, in points' if changes else 'No class changed.'
  axes.set_title(title, fontsize=10, color=_INK, loc='left')


def _draw_pairs(axes: Axes, labels: Sequence[str], counts: Sequence[tuple[int, int]]) -> None:
  """Counts of A and B, a pair of bars a row."""
  _name_rows(axes, labels)
  for side, (name, color) in enumerate((('A', _A), ('B', _B))):
    places = [row + 0.4 * side - 0.2 for row in range(len(labels))]
    axes.barh(places, [pair[side] for pair in counts], 0.38, color=color, label=name, zorder=2)
  axes.xaxis.set_major_locator(MaxNLocator(integer=True))
  axes.set_title('Confusions that changed most, in videos', fontsize=10, color=_INK, loc='left')
  axes.legend(loc='lower right', frameon=False, fontsize=9, labelcolor=_INK)


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
  axes.set_yticks(range(len(names)), names, fontsize=8)
  axes.set_ylim(max(len(names), 6) - 0.4, -0.6)
  axes.grid(axis='x', color=_GRID, linewidth=0.8, zorder=0)
  axes.tick_params(length=0, labelsize=8, colors=_INK)
  for spine in axes.spines.values():
    spine.set_visible(False)
