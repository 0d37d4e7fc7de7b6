"""Which classes a run gets right: top-1 by class from the predictions of an evaluation."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

# Classes that are listed, unless there are hardly more.
_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class ClassAccuracy:
  """A class with the number of its examples, and of those whose best class it was."""

  name: str
  right: int
  examples: int


def accuracies(predictions: Path, task: str, names: Sequence[str]) -> list[ClassAccuracy]:
  """The classes that have examples, worst first and of equals the larger one.

  Args:
    predictions: A `predictions.jsonl` of an evaluation.
    task: With one label a clip.
    names: Of its classes, in label order.
  """
  right, examples = [0] * len(names), [0] * len(names)
  with predictions.open(encoding='utf-8') as lines:
    for line in lines:
      found = json.loads(line)[task]
      examples[found['label']] += 1
      right[found['label']] += found['top5'][0]['class'] == found['label']
  rows = [ClassAccuracy(*row) for row in zip(names, right, examples, strict=True) if row[2]]
  return sorted(rows, key=lambda row: (row.right / row.examples, -row.examples))


def report(predictions: Path, tasks: Mapping[str, Sequence[str]]) -> str:
  """Top-1 by class for people, of many classes the worst; empty where there are no predictions.

  Args:
    predictions: As `accuracies` takes it.
    tasks: Those with one label a clip -> names of their classes.
  """
  if not predictions.is_file():
    return ''
  lines = []
  for task, names in tasks.items():
    rows = accuracies(predictions, task, names)
    shown = rows if len(rows) <= _SHOWN + 2 else rows[:_SHOWN]
    width = max((len(row.name) for row in shown), default=0)
    lines.append(f'  top1/{task} by class, worst first')
    lines += [
      f'    {row.name:<{width}}  {row.right / row.examples:6.1%}  ({row.right} of {row.examples})'
      for row in shown
    ]
    if len(shown) < len(rows):
      lines.append(f'    ... {len(rows) - len(shown)} classes more')
  return '\n'.join(lines)
