"""What a record must hold to be used: one key, frames, and labels that fit the manifest."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from datasets import keyframes, records, region_records
from datasets.manifest import TaskLabels


class Problem(NamedTuple):
  """What is wrong with a record: of which kind, and in words."""

  kind: Literal['layout', 'frames', 'labels', 'regions']
  text: str


def problems(
  example: records.ParsedExample, tasks: Mapping[str, TaskLabels], first_label: int = 0
) -> Iterator[Problem]:
  """Yields what is wrong with a record, the most fundamental first.

  Where labels belong to boxes, a record needs a keyframe, and labels of clips only for other groups.

  Args:
    example: the record.
    tasks: label groups of the manifest.
    first_label: what the first class is called in records.
  """
  found = sorted([*example.context, *example.lists])
  keys = ' or '.join(records.KEY_FALLBACKS)
  wanted = [records.FRAMES, example.label_name, f'{records.KEY} (or {keys})']
  layout = f'The record has {found}; wanted {wanted}.'
  if example.key is None:
    yield Problem('layout', f'no key. {layout}')
  if not example.frames:
    problem = 'no frames' if example.frames is None else f'{records.FRAMES!r} is an empty list'
    yield Problem('layout', f'{problem}. {layout}')
  empty = [i for i, (_, length) in enumerate(example.frames or ()) if length == 0]
  if empty:
    yield Problem('frames', f'frames {empty[:5]} have no bytes. Write the record again.')
  if example.labels is not None:
    yield from _label_problems(example, tasks, first_label)
  elif not all(task.regions for task in tasks.values()):
    yield Problem('layout', f'no labels. {layout}')
  if any(task.regions for task in tasks.values()):
    if region_records.KEYFRAME in example.lists:
      yield from (Problem('regions', text) for text in keyframes.problems(example, tasks))
    else:
      yield Problem('layout', f'no keyframe, {region_records.KEYFRAME!r}. {layout}')


def _label_problems(
  example: records.ParsedExample, tasks: Mapping[str, TaskLabels], first_label: int
) -> Iterator[Problem]:
  count = sum(task.num_classes for task in tasks.values())
  stored = example.labels or []
  labels: list[Any] = [x - first_label if isinstance(x, int) else x for x in stored]
  wrong = [x for x in labels if not isinstance(x, int) or not 0 <= x < count]
  if wrong:
    groups = {
      name: (first_label + t.offset, first_label + t.offset + t.num_classes - 1)
      for name, t in tasks.items()
    }
    wrong = [x + first_label if isinstance(x, int) else x for x in wrong]
    yield Problem(
      'labels',
      f'{example.label_name} holds {wrong[:5]}, expected integers in '
      f'[{first_label}, {first_label + count - 1}] (groups, first to last: {groups}). '
      'Correct the class list of the manifest or write the record again.',
    )
    return
  for name, task in tasks.items():
    own = [x for x in labels if 0 <= x - task.offset < task.num_classes]
    if not task.multi_label and len(own) != 1:
      yield Problem(
        'labels',
        f'{len(own)} labels {own[:5]} in the single-label group {name!r} (global '
        f'indices {task.offset} to {task.offset + task.num_classes - 1}), expected exactly one. '
        'Write the record again, or mark the group multi_label in the manifest.',
      )
