"""Two evaluations of the same videos: what changed, where, and whether it could be chance.

All is computed from what evaluations write. Tasks with one label a clip have top-1 and top-5, classes
and confusions. Of tasks with several, and of boxes, not every score is written: they have the average
precision by class that each evaluation computed, and the former whether the best class is a label.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from errors import ConfigError, DataError
from train_lib.paired import Means, Outcomes
from train_lib.results import Key, Results

CHANCE = 0.05
"""A p-value from which on a difference is said to be possibly chance."""


@dataclasses.dataclass(frozen=True)
class ClassChange:
  """A class in both evaluations.

  Attributes:
    name: Of the class.
    n: Examples; labels of boxes.
    a: Share of them that A has right, or A's average precision, in [0, 1].
    b: B's, likewise.
  """

  name: str
  n: int
  a: float
  b: float


@dataclasses.dataclass(frozen=True)
class Confusion:
  """How often each took a class for another one: `a` and `b` are counts."""

  true: str
  predicted: str
  a: int
  b: int


@dataclasses.dataclass(frozen=True)
class Changed:
  """An example that one has right and the other has not; `a` and `b` are the classes predicted."""

  id: str
  names: tuple[str, ...]
  a: str
  b: str
  gained: bool


@dataclasses.dataclass(frozen=True)
class Comparison:
  """What differs between two evaluations of a task.

  Attributes:
    task: Its name.
    a: The one evaluation.
    b: The other.
    common: Number of examples compared.
    scores: Name of a score -> A's and B's.
    classes: The largest gains of B over A first.
    confusions: Those whose counts differ most first; of tasks with one label a clip.
    changed: What A or B alone has right, in A's order.
    notes: What a reader has to know.
  """

  task: str
  a: Results
  b: Results
  common: int
  scores: Mapping[str, Outcomes | Means]
  classes: tuple[ClassChange, ...]
  confusions: tuple[Confusion, ...]
  changed: tuple[Changed, ...]
  notes: tuple[str, ...]

  @property
  def measure(self) -> str:
    """What `classes` have."""
    return 'top-1' if 'top-1' in self.scores else 'AP'


def compare(a: Results, b: Results, task: str = '', intersect: bool = False) -> Comparison:
  """Compares two evaluations example by example.

  Args:
    a: The one.
    b: The other; differences are B less A.
    task: What to compare; '': the only task that both have.
    intersect: Whether to leave out what they do not share, rather than to refuse.

  Raises:
    ConfigError: `task` is not one of both, or there is a choice.
    DataError: The evaluations are of different examples or labels and `intersect` is False, they have
      nothing in common, or a file lacks what evaluation writes.
  """
  task = _task(a, b, task)
  kind = _kind(a, task)
  if kind != _kind(b, task):
    raise DataError(
      f'Task {task!r} is of {kind} in {a.path} and of {_kind(b, task)} in {b.path}: '
      'evaluations can be compared that have the same kind of labels.'
    )
  keys, notes = _common(a, b, task, kind, intersect)
  whole = len(keys) == len(a.lines) == len(b.lines)
  if kind == 'one label a clip':
    return _of_one_label(a, b, task, keys, notes)
  scores: dict[str, Outcomes | Means] = {}
  changed: tuple[Changed, ...] = ()
  if kind == 'several labels a clip':
    pairs = list(_lines(a, b, task, keys))
    right = [[_best(line) in line['name'] for line in pair] for _, *pair in pairs]
    scores['hit-1'], changed = Outcomes.of(*zip(*right, strict=True)), _changed(pairs, right)
    notes.append('hit-1: the best class is one of the labels.')
  classes = _precisions(a, b, task, notes) if whole else ()
  if not whole:
    notes.append('Average precision needs all scores of all examples, so it is left out here.')
  if classes:
    columns = np.array([(c.a, c.b) for c in classes]).T
    scores = {'mAP': Means(*columns), **scores}
    notes.append(
      'mAP: interval and p are over classes. They tell whether most classes gain, not what other '
      'videos would give.'
    )
  if not scores:
    raise DataError(f'Nothing of task {task!r} can be compared: {" ".join(notes)}')
  return Comparison(task, a, b, len(keys), scores, classes, (), changed, tuple(notes))


def _task(a: Results, b: Results, wanted: str) -> str:
  both = [task for task in a.tasks if task in b.tasks]
  if wanted and wanted not in both:
    raise ConfigError(f'--task={wanted}: {a.path} has {a.tasks}, {b.path} has {b.tasks}.')
  if not wanted and len(both) != 1:
    raise ConfigError(
      f'{a.path} has the tasks {a.tasks} and {b.path} has {b.tasks}: '
      + ('name one by --task.' if both else 'they share none.')
    )
  return wanted or both[0]


def _kind(results: Results, task: str) -> str:
  found = next(line[task] for line in results.lines.values() if task in line)
  if isinstance(found, list):
    return 'boxes'
  several = isinstance(found, dict) and isinstance(found.get('label'), list)
  return 'several labels a clip' if several else 'one label a clip'


def _common(
  a: Results, b: Results, task: str, kind: str, intersect: bool
) -> tuple[list[Key], list[str]]:
  """What both evaluated with the same labels, in A's order, and notes."""
  shared = [key for key in a.lines if key in b.lines]
  alike = [key for key in shared if _label(a, key, task, kind) == _label(b, key, task, kind)]
  agreed = set(alike)
  left_out = [
    f'{len(keys):,} {what}, such as {keys[0][0]!r}'
    for what, keys in (
      ('only in A', [key for key in a.lines if key not in b.lines]),
      ('only in B', [key for key in b.lines if key not in a.lines]),
      ('with another label', [key for key in shared if key not in agreed]),
    )
    if keys
  ]
  counts = f'A has {len(a.lines):,} examples, B {len(b.lines):,}, {len(alike):,} in common'
  reason = f'{counts} ({"; ".join(left_out)})'
  if left_out and not (intersect and alike):
    hint = ' Evaluate both on the same split, or compare what they share by --intersect.'
    raise DataError(
      f'{a.path} (A) and {b.path} (B) are evaluations of different examples: {reason}.'
      + (hint if alike else '')
    )
  notes = [f'Only what both have is compared: {reason}.'] if left_out else []
  hashes = [results.metrics.get('data') for results in (a, b)]
  if None not in hashes and hashes[0] == hashes[1]:
    return alike, notes
  if repeated := [key[0] for key in a.lines if key[1]]:
    raise DataError(
      f'{a.path}: the id {repeated[0]!r} stands there more than once, and {b.path} may be of other '
      'data: which is which cannot be told.'
    )
  if None in hashes:
    notes.append('Whether the data are the same is not known: a metrics.json is missing.')
  else:
    notes.append(
      'The data are not the same files: ids and labels agree, but their hashes in metrics.json do not.'
    )
  return alike, notes


def _label(results: Results, key: Key, task: str, kind: str) -> Any:
  """The names of what is true of an example; of boxes, which have no labels there, None."""
  if kind == 'boxes':
    return None
  found, several = results.lines[key].get(task), kind == 'several labels a clip'
  fields = found if isinstance(found, dict) else {}
  name, top = fields.get('name'), fields.get('top5')
  names = name if several and isinstance(name, list) else [name]
  best = top[0].get('name') if isinstance(top, list) and top and isinstance(top[0], dict) else None
  ranked = several or isinstance(fields.get('rank'), int)
  if not ranked or not all(isinstance(text, str) for text in (*names, best)):
    raise DataError(
      f'{results.path}: {key[0]!r} lacks one of name, {"" if several else "rank, "}top5 of {task!r}, '
      'or has something else there: it was written by an earlier version, or changed by hand. '
      'Evaluate again by `python main.py --mode=eval`.'
    )
  return tuple(sorted(names)) if several else name


def _lines(a: Results, b: Results, task: str, keys: list[Key]) -> Iterator[tuple[str, Any, Any]]:
  """(id, A's, B's) of a task."""
  for key in keys:
    yield key[0], a.lines[key][task], b.lines[key][task]


def _of_one_label(
  a: Results, b: Results, task: str, keys: list[Key], notes: list[str]
) -> Comparison:
  pairs = list(_lines(a, b, task, keys))
  ranks = np.array([[line['rank'] for line in pair] for _, *pair in pairs])  # [n, 2]
  right = ranks <= 1
  return Comparison(
    task=task,
    a=a,
    b=b,
    common=len(keys),
    scores={f'top-{k}': Outcomes.of(*(ranks <= k).T) for k in (1, 5)},
    classes=_accuracies([one['name'] for _, one, _ in pairs], right),
    confusions=_confusions(pairs),
    changed=_changed(pairs, right),
    notes=tuple(notes),
  )


def _accuracies(names: list[str], right: np.ndarray) -> tuple[ClassChange, ...]:
  """By how many more examples of a class B has right."""
  places: dict[str, list[int]] = {}
  for place, name in enumerate(names):
    places.setdefault(name, []).append(place)
  sums = {name: right[own].sum(0) for name, own in places.items()}
  order = sorted(sums, key=lambda name: (int(sums[name][0] - sums[name][1]), name))
  return tuple(
    ClassChange(name, len(places[name]), *(float(x) / len(places[name]) for x in sums[name]))
    for name in order
  )


def _confusions(pairs: list[tuple[str, Any, Any]]) -> tuple[Confusion, ...]:
  counts = [
    Counter((line['name'], _best(line)) for line in lines)
    for lines in ([one for _, one, _ in pairs], [two for _, _, two in pairs])
  ]
  wrong = {names for count in counts for names in count if names[0] != names[1]}
  found = [Confusion(*names, *(count[names] for count in counts)) for names in wrong]
  return tuple(sorted(found, key=lambda c: (-abs(c.b - c.a), -c.a - c.b, c.true, c.predicted)))


def _changed(pairs: list[tuple[str, Any, Any]], right: Any) -> tuple[Changed, ...]:
  return tuple(
    Changed(key, _names(one), _best(one), _best(two), bool(right_b))
    for (key, one, two), (right_a, right_b) in zip(pairs, right, strict=True)
    if right_a != right_b
  )


def _names(line: Mapping[str, Any]) -> tuple[str, ...]:
  return tuple(line['name']) if isinstance(line['name'], list) else (line['name'],)


def _best(line: Mapping[str, Any]) -> str:
  return str(line['top5'][0]['name'])


def _precisions(a: Results, b: Results, task: str, notes: list[str]) -> tuple[ClassChange, ...]:
  """Of the classes that both score, by name."""
  ours, theirs = a.classes(task), b.classes(task)
  both = [name for name in ours if name in theirs]
  if other := [name for name in both if ours[name].n != theirs[name].n]:
    raise DataError(
      f'{a.path.parent} (A) and {b.path.parent} (B) are evaluations with different labels: of '
      f'{other[0]!r} there are {ours[other[0]].n:,} in A and {theirs[other[0]].n:,} in B; '
      f'{len(other):,} classes differ. Evaluate both on the same annotations.'
    )
  scored = [name for name in both if None not in (ours[name].ap, theirs[name].ap)]
  if not scored:
    notes.append('There is no average precision that both have.')
  elif odd := sorted({*ours} ^ {*theirs}):
    notes.append(f'{len(odd):,} classes are in one evaluation only, such as {odd[0]!r}.')
  found = [
    ClassChange(name, ours[name].n, ours[name].ap or 0.0, theirs[name].ap or 0.0) for name in scored
  ]
  return tuple(sorted(found, key=lambda c: (c.a - c.b, c.name)))
