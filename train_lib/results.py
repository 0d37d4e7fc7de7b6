"""Results of an evaluation, read back from the files that it wrote."""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from errors import ConfigError, DataError

PREDICTIONS = 'predictions.jsonl'
Key = tuple[str, int]
"""Id of an example, and how many before it in the file have the same one."""


class Precision(NamedTuple):
  """Of a class: its positive examples, or labels of boxes, and its average precision, None without any."""

  n: int
  ap: float | None


@dataclasses.dataclass(frozen=True)
class Results:
  """What an evaluation wrote.

  Attributes:
    path: its `predictions.jsonl`; what else it wrote is beside it.
    metrics: its `metrics.json`, empty if that is not there.
    lines: example -> its line, in the order of the file.
  """

  path: Path
  metrics: Mapping[str, Any]
  lines: Mapping[Key, Mapping[str, Any]]

  @property
  def where(self) -> Path:
    """The evaluation's folder, or the file where it has another name than evaluations give it."""
    return self.path.parent if self.path.name == PREDICTIONS else self.path

  @property
  def tasks(self) -> list[str]:
    """Names of the tasks that were predicted, sorted."""
    return sorted({task for line in self.lines.values() for task in line if task != 'id'})

  def classes(self, task: str) -> dict[str, Precision]:
    """What each class of a task scored, by name, where average precision scores it; {} of others.

    Raises:
      DataError: two classes have one name, or the file is not what evaluation writes.
    """
    for file in (self.path.with_name(f'{kind}_{task}.json') for kind in ('ap', 'ava')):
      if file.exists():
        return _precisions(file)
    return {}


def find(path: str, dataset: str = '', split: str = '', step: int | None = None) -> Path:
  """The predictions at a path: those of its newest evaluation, if it is a run's folder.

  Args:
    path: a run's folder, a folder of `eval/DATASET/SPLIT/STEP`, or a `predictions.jsonl`.
    dataset: of a run, the dataset; '': the only one evaluated.
    split: of a run, the split; '': the only one evaluated.
    step: of a run, the step; None: the newest.

  Raises:
    DataError: there is no such evaluation.
    ConfigError: a run has evaluations of several datasets or splits.
  """
  given = Path(path)
  if given.is_file():
    return given
  if (given / PREDICTIONS).is_file():
    return given / PREDICTIONS
  there = sorted(given.glob(f'eval/*/*/*/{PREDICTIONS}'))
  if not there:
    raise DataError(
      f'{path}: no evaluation is there. Name a run\'s folder, a folder eval/DATASET/SPLIT/STEP of it, '
      f'or a {PREDICTIONS}; `python main.py --mode=eval` writes them.'
    )  # fmt: skip
  wanted = (dataset or None, split or None, None if step is None else f'{step:08d}')
  chosen = [
    file
    for file in there
    if all(want in (None, part) for want, part in zip(wanted, file.parts[-4:-1], strict=True))
  ]
  if not chosen:
    raise DataError(f'{path}: no evaluation is of what the flags say. There are: {_list(there)}.')
  if len({file.parts[-4:-2] for file in chosen}) > 1:
    raise ConfigError(
      f'{path} has evaluations of several splits, {_list(chosen)}: choose by --dataset and --split.'
    )
  return chosen[-1]


def read(path: Path) -> Results:
  """Reads predictions and what stands beside them.

  Raises:
    DataError: a file cannot be read, or is not of the form that evaluation writes.
  """
  lines: dict[Key, Mapping[str, Any]] = {}
  seen: Counter[str] = Counter()
  content = _text(path).rstrip()
  if not content:
    raise DataError(f'{path} is empty: nothing was evaluated.')
  for number, text in enumerate(content.split('\n'), start=1):
    line = _parsed(text, f'{path}, line {number}')
    if not isinstance(line.get('id'), str):
      raise DataError(f'{path}, line {number}: expected an object with an id, got {text[:80]!r}.')
    lines[line['id'], seen[line['id']]] = line
    seen[line['id']] += 1
  metrics = path.with_name('metrics.json')
  return Results(path, _json(metrics) if metrics.exists() else {}, lines)


def _precisions(file: Path) -> dict[str, Precision]:
  content = _json(file)
  try:
    classes = content.get('detected_boxes', content)['classes']
    found = {str(c['name']): _precision(c) for c in classes}
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise DataError(
      f'{file}: expected "classes" with name, positives or annotated, and ap: {error!r}. Evaluate again.'
    ) from error
  if len(found) < len(classes):
    raise DataError(f'{file}: two classes have one name, and classes are matched by name.')
  return found


def _precision(entry: Mapping[str, Any]) -> Precision:
  n = entry['positives'] if 'positives' in entry else entry['annotated']
  return Precision(int(n), None if entry['ap'] is None else float(entry['ap']))


def _json(path: Path) -> dict[str, Any]:
  return _parsed(_text(path), str(path))


def _text(path: Path) -> str:
  try:
    return path.read_text(encoding='utf-8')
  except (OSError, UnicodeDecodeError) as error:
    raise DataError(f'{path} cannot be read: {error}.') from error


def _parsed(text: str, where: str) -> dict[str, Any]:
  try:
    value = json.loads(text)
  except json.JSONDecodeError as error:
    raise DataError(f'{where}: no JSON: {error}. Evaluate again.') from error
  if not isinstance(value, dict):
    raise DataError(f'{where}: expected a JSON object, got {text[:80]!r}.')
  return value


def _list(files: list[Path]) -> str:
  return ', '.join('/'.join(file.parts[-4:-1]) for file in files)
