"""A comparison of two evaluations as text, JSON and csv."""

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

from train_lib.compare import CHANCE, Comparison
from train_lib.compare_picture import comparison_png
from train_lib.files import write_atomically
from train_lib.paired import Means, Outcomes
from train_lib.results import Results

LISTED = 5
"""Lines of each list in the report."""


def report(comparison: Comparison) -> str:
  """The text for a terminal."""
  lines = [_header(comparison), '', _table(comparison), '', verdict(comparison)]
  lines += [f'Note: {note}' for note in comparison.notes]
  gains = [c for c in comparison.classes if c.b > c.a]
  losses = [c for c in reversed(comparison.classes) if c.b < c.a]
  for title, classes in (('gains', gains), ('losses', losses)):
    if classes:
      lines += ['', f'Largest {title}, {comparison.measure} by class, {len(classes):,} in all']
      lines += [f'  {c.a:6.1%} -> {c.b:6.1%}  {c.name} ({c.n:,})' for c in classes[:LISTED]]
  if confusions := [c for c in comparison.confusions if c.a != c.b][:LISTED]:
    lines += ['', 'Confusions that changed most, videos in A -> B']
    lines += [f'  {c.a:4,} -> {c.b:4,}  {c.true} taken for {c.predicted}' for c in confusions]
  for title, gained in (('gained', True), ('lost', False)):
    if found := [c for c in comparison.changed if c.gained == gained]:
      lines += ['', f'Videos {title}, {len(found):,} in all']
      lines += [f'  {c.id}: {" + ".join(c.names)}, {c.a} -> {c.b}' for c in found[:LISTED]]
  return '\n'.join(lines)


def verdict(comparison: Comparison) -> str:
  """What the first score says, in a sentence."""
  name, score = next(iter(comparison.scores.items()))
  low, high = score.interval
  sides = 'B has the higher' if score.difference > 0 else 'A has the higher'
  if not score.difference:
    return f'{name} is the same.'
  points = _points(abs(score.difference))
  if isinstance(score, Means) and (score.better_b - score.better_a) * score.difference < 0:
    return (
      f'{sides} {name} by {points} points, but the other is better in more classes: A in '
      f'{score.better_a:,}, B in {score.better_b:,} (p = {score.p_value:.2g}).'
    )
  if score.p_value < CHANCE:
    return f'{sides} {name} by {points} points; chance rarely does that (p = {score.p_value:.2g}).'
  return (
    f'{sides} {name}, but it could be chance (p = {score.p_value:.2g}): {_points(low)} to '
    f'{_points(high)} points fit.'
  )


def as_json(comparison: Comparison) -> dict[str, Any]:
  """All there is, shares in [0, 1]."""
  return {
    'task': comparison.task,
    'a': _side(comparison.a),
    'b': _side(comparison.b),
    'common': comparison.common,
    'scores': {name: _score(score) for name, score in comparison.scores.items()},
    'verdict': verdict(comparison),
    'notes': list(comparison.notes),
    'measure': comparison.measure,
    'classes': [dataclasses.asdict(c) for c in comparison.classes],
    'confusions': [dataclasses.asdict(c) for c in comparison.confusions],
    'changed': [dataclasses.asdict(c) for c in comparison.changed],
  }


def write(comparison: Comparison, folder: Path) -> list[Path]:
  """Writes `compare.json`, `compare.csv` (a row a class), `changed.csv` (a row a video) and `compare.png`.

  Args:
    comparison: What to write.
    folder: It exists.

  Returns:
    The files.
  """
  files = [folder / name for name in ('compare.json', 'compare.csv', 'changed.csv', 'compare.png')]
  write_atomically(files[0], json.dumps(as_json(comparison), indent=1, ensure_ascii=False) + '\n')
  header = ('class', 'n', f'{comparison.measure} of A', f'{comparison.measure} of B', 'difference')
  rows = [(c.name, c.n, f'{c.a:.6f}', f'{c.b:.6f}', f'{c.b - c.a:.6f}') for c in comparison.classes]
  write_atomically(files[1], _csv(header, rows))
  changed = [
    (c.id, ' + '.join(c.names), c.a, c.b, 'gained' if c.gained else 'lost')
    for c in comparison.changed
  ]
  write_atomically(files[2], _csv(('id', 'true', 'A', 'B', 'change'), changed))
  comparison_png(files[3], comparison, verdict(comparison))
  return files


def _csv(header: tuple[str, ...], rows: list[Any]) -> str:
  text = io.StringIO()
  csv.writer(text, lineterminator='\n').writerows([header, *rows])
  return text.getvalue()


def _header(comparison: Comparison) -> str:
  shown = [results.metrics.get('shown', 'unknown') for results in (comparison.a, comparison.b)]
  lines = []
  for side, results, how in zip('AB', (comparison.a, comparison.b), shown, strict=True):
    lines.append(f'{side}  {results.where}: {len(results.lines):,} videos')
    if shown[0] != shown[1]:
      lines.append(f'   shown otherwise: {how}')
  return '\n'.join([*lines, *([f'   both shown: {shown[0]}'] if shown[0] == shown[1] else [])])


def _table(comparison: Comparison) -> str:
  lines = [f'{comparison.task:<16}{"A":>8}{"B":>8}{"B - A":>8}   95 %            p']
  for name, score in comparison.scores.items():
    low, high = score.interval
    lines.append(
      f'{name:<16}{score.a:8.1%}{score.b:8.1%}{_points(score.difference):>8}   '
      f'{f"[{_points(low)}, {_points(high)}]":<16}{score.p_value:.2g}{_counts(score)}'
    )
  return '\n'.join(lines)


def _counts(score: Outcomes | Means) -> str:
  if isinstance(score, Means):
    return f'   over {score.n:,} classes: {score.better_a:,} better in A, {score.better_b:,} in B'
  return f'   of {score.n:,} videos: {score.only_a:,} right in A alone, {score.only_b:,} in B alone'


def _points(share: float) -> str:
  return f'{100 * share:+.1f}' if share else '0.0'


def _side(results: Results) -> dict[str, Any]:
  return {'path': str(results.path), 'examples': len(results.lines), 'metrics': results.metrics}


def _score(score: Outcomes | Means) -> dict[str, Any]:
  counts = (
    {'better_a': score.better_a, 'better_b': score.better_b}
    if isinstance(score, Means)
    else dataclasses.asdict(score)
  )
  return {
    'n': score.n,
    'a': score.a,
    'b': score.b,
    'difference': score.difference,
    'interval': list(score.interval),
    'p_value': score.p_value,
    **counts,
  }
