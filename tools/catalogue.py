"""Prints what is known about the papers' datasets: classes, sizes, views to test with, flips, sources.

python -m tools.catalogue
python -m tools.catalogue --name=ssv2
python -m tools.catalogue --json        # everything, or with --name one dataset
"""

import dataclasses
import difflib
import json
from collections.abc import Iterable

from absl import flags
from rich.console import Console
from rich.table import Table

from datasets.catalogue import DATASETS, Dataset, Size
from errors import ConfigError
from tools import command

# Several tools may be loaded by one process, in tests: each one's own flag counts.
_NAME = flags.DEFINE_string('name', None, 'Show one dataset in full.', allow_override=True)
_JSON = flags.DEFINE_bool('json', False, 'Print JSON instead of a table.', allow_override=True)


def find(name: str) -> Dataset:
  """The dataset called so.

  Raises:
    ConfigError: there is none; the message names the nearest.
  """
  if name in DATASETS:
    return DATASETS[name]
  close = difflib.get_close_matches(name, DATASETS, n=1, cutoff=0.4)
  hint = f' Did you mean {close[0]!r}?' if close else ''
  raise ConfigError(f'--name={name}: no such dataset.{hint} Known: {", ".join(DATASETS)}.')


def overview(datasets: Iterable[Dataset]) -> Table:
  """A row per dataset: name, classes, first stated sizes, length, views, flip, layout."""
  table = Table(box=None, header_style='bold', pad_edge=False)
  for column in ('name', 'classes', 'train', 'val', 'test', 'seconds', 'views', 'flip', 'layout'):
    number = column in ('train', 'val', 'test', 'seconds')
    table.add_column(column, justify='right' if number else 'left', no_wrap=True)
  for dataset in datasets:
    size = dataset.sizes[0] if dataset.sizes else Size('')
    views = dict.fromkeys(f'{view.temporal}x{view.spatial}' for view in dataset.views)
    table.add_row(
      dataset.name,
      ', '.join(f'{count} {group}' for group, count in dataset.tasks.items()),
      *map(_count, (size.train, size.validation, size.test)),
      '' if dataset.seconds is None else f'{dataset.seconds:g}',
      ' '.join(views),
      dataset.flip.rule,
      dataset.layout,
    )
  return table


def detail(dataset: Dataset) -> Table:
  """Every fact of a dataset, with who states it."""
  table = Table(box=None, show_header=False, pad_edge=False)
  table.add_column(style='bold', no_wrap=True)
  table.add_column()
  table.add_row(dataset.name, dataset.title)
  table.add_row('classes', ', '.join(f'{n} ({group})' for group, n in dataset.tasks.items()))
  table.add_row('train examples', f'{dataset.train_examples:,}: {dataset.source}')
  for size in dataset.sizes:
    numbers = zip(('train', 'validation', 'test'), dataclasses.astuple(size)[1:], strict=True)
    stated = ', '.join(f'{split} {_count(count)}' for split, count in numbers if count)
    table.add_row('size', f'{stated}: {size.source}')
  if dataset.seconds is not None:
    table.add_row('mean length', f'{dataset.seconds:g} s')
  for view in dataset.views:
    table.add_row('test views', f'{view.temporal} x {view.spatial}, {view.paper}: {view.note}')
  table.add_row('flip', f'{dataset.flip.rule}: {dataset.flip.reason}')
  for one, other in dataset.flip.pairs:
    table.add_row('', f'{one} <-> {other}')
  table.add_row('annotations', dataset.annotations)
  table.add_row('read with', f'--layout={dataset.layout}' if dataset.layout else 'no layout')
  if dataset.notes:
    table.add_row('notes', dataset.notes)
  return table


def _count(number: int | None) -> str:
  return '' if number is None else f'{number:,}'


def main() -> None:
  """Prints the catalogue, or one dataset of it."""
  chosen = [find(_NAME.value)] if _NAME.value else list(DATASETS.values())
  if _JSON.value:
    values = {dataset.name: dataclasses.asdict(dataset) for dataset in chosen}
    print(json.dumps(values, indent=2))
  else:
    table = detail(chosen[0]) if _NAME.value else overview(chosen)
    # A terminal that is too narrow for the overview breaks its lines; nothing is left out.
    console = Console(width=None if _NAME.value else max(Console().width, 120))
    console.print(table, markup=False)


if __name__ == '__main__':
  command.run(main)
