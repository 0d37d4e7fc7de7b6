"""What became of every leaf when a model was filled from a checkpoint."""

import collections
import dataclasses
import re

import numpy as np

from train_lib.state import STATISTICS


@dataclasses.dataclass(frozen=True)
class Row:
  """What became of one leaf; `target` or `source` is '' if there is none.

  Attributes:
    status: 'loaded', 'resized' (positions), 'inflated' (a kernel, or the bias that belongs to it),
      'new' or 'skipped'.
    how: what was done to the array, '' for a plain copy.
  """

  status: str
  target: str
  source: str
  target_shape: tuple[int, ...] = ()
  source_shape: tuple[int, ...] = ()
  how: str = ''

  @property
  def size(self) -> int:
    """Number of entries: of the model's leaf, or of the file's if it was skipped."""
    return int(np.prod(self.source_shape if self.status == 'skipped' else self.target_shape))


@dataclasses.dataclass(frozen=True)
class LoadReport:
  """One `Row` per model leaf, then one per unused leaf of the file; `str` is a table of groups.

  Attributes:
    notes: what else people should know, a line each.
  """

  source: str
  layout: str
  rows: tuple[Row, ...]
  notes: tuple[str, ...] = ()

  def count(self, *statuses: str) -> int:
    """Number of entries of leaves, parameters and statistics, whose row has one of `statuses`."""
    return sum(row.size for row in self.rows if row.status in statuses)

  def __str__(self) -> str:
    groups: dict[tuple[str, ...], list[Row]] = collections.defaultdict(list)
    for row in self.rows:
      groups[row.status, _group(row.target), _group(row.source), row.how].append(row)
    lines = [('status', 'model', 'checkpoint', 'leaves', 'numbers', 'how')]
    for (status, target, source, how), rows in groups.items():
      shape = f'{rows[0].source_shape} -> {rows[0].target_shape}' if how else ''
      size = sum(row.size for row in rows)
      lines.append(
        (
          status,
          target or '-',
          source or '-',
          str(len(rows)),
          f'{size:,}',
          f'{how} {shape}'.strip(),
        )
      )
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    table = [
      '  '.join([*(x.ljust(w) for x, w in zip(line, widths)), line[5]]).rstrip() for line in lines
    ]
    return '\n'.join(
      [f'{self.source} (layout: {self.layout})', *table, self._totals(), *self.notes]
    )

  def _totals(self) -> str:
    sizes = dict.fromkeys(('loaded', 'resized', 'inflated', 'new', 'skipped'), 0)
    for row in self.rows:
      if not (row.target or row.source).startswith(f'{STATISTICS}/'):
        sizes[row.status] += row.size
    filled = sizes['loaded'] + sizes['resized'] + sizes['inflated']
    total = filled + sizes['new']
    parts = [f'{status} {size:,}' for status, size in sizes.items()]
    return f'parameters: {", ".join(parts)}; {filled:,} of {total:,} in the model are filled'


def _group(path: str) -> str:
  """Three levels of a path, all layers as one."""
  path = re.sub(r'(encoderblock|global)_\d+', r'\1_*', path)
  return '/'.join(path.split('/')[: 3 if path.startswith('trunk/') else 2])
