"""The per-class bar chart of an evaluation, as Fig. 3 of Beyond Transfer Learning."""

from collections.abc import Mapping
from pathlib import Path

from projects.cofinetune.ava import Evaluation
from projects.cofinetune.ava_csv import GROUPS, ClassGroup
from projects.cofinetune.ava_report import by_frequency, mean_aps
from train_lib import class_chart

_COLORS = {'head': '#2f6db3', 'mid': '#e08e2b', 'tail': '#3c9a5f', '': class_chart.COLOR}


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
  class_chart.class_chart_png(
    path,
    [
      class_chart.Bar(score.name, score.ap, entry.train_labels, _COLORS[entry.group])
      for score, entry in by_frequency(evaluation, groups)
    ],
    _legend(mean_aps(evaluation, groups)),
    title=title,
    precision=f'AP at IoU {evaluation.iou:g}',
    counts='labels in training' if groups else 'annotated boxes',
  )


def _legend(means: Mapping[str, float | None]) -> list[tuple[str, str]]:
  """mAP overall and of each group."""
  entries = {'': 'all', **{group: group for group in GROUPS if f'mAP_{group}' in means}}
  result = []
  for group, label in entries.items():
    mean = means[f'mAP_{group}' if group else 'mAP']
    text = f'{label}: mAP {"n/a" if mean is None else f"{mean:.3f}"}'
    result.append((text, 'none' if not group and len(entries) > 1 else _COLORS[group]))
  return result
