"""The per-class bar chart of an evaluation, as Fig. 3 of Beyond Transfer Learning."""

import math
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from projects.cofinetune.ava import Evaluation
from projects.cofinetune.ava_csv import GROUPS, ClassGroup
from projects.cofinetune.ava_report import by_frequency, mean_aps

_COLORS = {'head': '#2f6db3', 'mid': '#e08e2b', 'tail': '#3c9a5f', '': '#5b9bd0'}
_INK, _MUTED = '#1f2430', '#6b7280'


def class_chart_png(
  path: Path, evaluation: Evaluation, groups: Mapping[str, ClassGroup], title: str
) -> None:
  """Draws AP by class, the most frequent first, above the number of labels on a log scale.

  Args:
    path: The PNG file; its folder exists. A kill leaves the one before, or the new one.
    evaluation: What to draw.
    groups: Class name -> its group and training labels; empty: one colour, and annotated boxes.
    title: Stands above.
  """
  rows = by_frequency(evaluation, groups)
  figure = Figure(figsize=(max(7.0, 1.8 + 0.26 * len(rows)), 5.2), layout='constrained')
  axes = figure.add_subplot()
  places = range(len(rows))
  heights = [0.0 if math.isnan(score.ap) else score.ap for score, _ in rows]
  axes.bar(places, heights, 0.78, color=[_COLORS[entry.group] for _, entry in rows], zorder=2)
  for place, (score, _) in enumerate(rows):
    if not score.annotated:
      axes.text(place, 0.01, 'n/a', rotation=90, ha='center', va='bottom', fontsize=7, color=_MUTED)
  names = [score.name for score, _ in rows]
  axes.set_xticks(places, names, rotation=45, ha='right', rotation_mode='anchor', fontsize=8)
  axes.set_xlim(-0.7, len(rows) - 0.3)
  axes.set_ylim(0, 1.12 * max(0.1, *heights))
  axes.set_ylabel(f'AP at IoU {evaluation.iou:g}', color=_INK)
  axes.set_title(title, fontsize=11, color=_INK, loc='left', pad=10)
  axes.grid(axis='y', color='#e5e7eb', linewidth=0.8, zorder=0)
  _draw_frequency(axes, [entry.train_labels for _, entry in rows], bool(groups))
  _draw_legend(axes, mean_aps(evaluation, groups))
  _save(figure, path)


def _draw_frequency(axes: Axes, counts: list[int], of_training: bool) -> None:
  """The line of label counts, on an axis of its own at the right."""
  right = axes.twinx()
  right.set_yscale('log')
  right.plot([max(count, 0.5) for count in counts], color=_INK, linewidth=1.2, marker='.')
  right.set_ylabel('labels in training' if of_training else 'annotated boxes', color=_MUTED)
  for each in (axes, right):
    each.tick_params(which='both', colors=_MUTED, length=0)
    for spine in each.spines.values():
      spine.set_visible(False)


def _draw_legend(axes: Axes, means: Mapping[str, float | None]) -> None:
  """mAP overall and of each group."""
  entries = {'': 'all', **{group: group for group in GROUPS if f'mAP_{group}' in means}}
  handles = []
  for group, label in entries.items():
    mean = means[f'mAP_{group}' if group else 'mAP']
    text = f'{label}: mAP {"n/a" if mean is None else f"{mean:.3f}"}'
    color = 'none' if not group and len(entries) > 1 else _COLORS[group]
    handles.append(Patch(color=color, label=text))
  axes.legend(handles=handles, loc='upper right', frameon=False, fontsize=9, labelcolor=_INK)


def _save(figure: Figure, path: Path) -> None:
  FigureCanvasAgg(figure)
  partial = path.with_name(path.name + '.partial')
  figure.savefig(partial, format='png', dpi=110, facecolor='white')
  partial.replace(path)
