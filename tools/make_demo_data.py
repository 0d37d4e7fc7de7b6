"""Writes the demo datasets, whose classes are motions of simple shapes.

Kinds: `motion`, 8 classes that only the order of frames tells apart; `actors`, two datasets of 16
shared motions: OUT/actions for classification, and OUT/actors for detection, several actors a clip,
with few training examples of some motions; `relations`, three datasets with 8 motions each, OUT/blocks,
OUT/stars and OUT/comets, most of them shared under other names and looks.

Example:
  python -m tools.make_demo_data --out=data/demo
  python -m tools.make_demo_data --out=data/tiny --seed=1 --train=64 --test=16
  python -m tools.make_demo_data --kind=actors --out=data/demo_actors
  python -m tools.make_demo_data --kind=relations --out=data/demo_relations
"""

import functools
import time
from collections.abc import Callable
from pathlib import Path

from absl import flags

from datasets import demo, demo_actors, demo_relations, manifest
from errors import ConfigError
from tools import command

_OUT = flags.DEFINE_string('out', None, 'Directory to write to.', allow_override=True)
_KIND = flags.DEFINE_enum('kind', 'motion', ['motion', 'actors', 'relations'], 'What to write.')
_SEED = flags.DEFINE_integer('seed', 0, 'Seed that decides every pixel.', lower_bound=0)
_TRAIN = flags.DEFINE_integer(
  'train',
  None,
  'Training clips of motion and of each dataset of relations, a multiple of 8, or of OUT/actions, of '
  '16. Default: 1600, of actions and relations 480.',
)
_TEST = flags.DEFINE_integer('test', None, 'Test clips, likewise. Default: 160, of relations 320.')
_ACTORS_TRAIN = flags.DEFINE_integer(
  'actors_train', None, 'Training clips of OUT/actors, a multiple of 8. Default: 96.'
)
_ACTORS_TEST = flags.DEFINE_integer('actors_test', None, 'Test clips, likewise. Default: 240.')


def main() -> None:
  """Writes the datasets, or finds that they are there already."""
  if not _OUT.value:
    raise ConfigError('--out is missing: name the directory to write to.')
  if _KIND.value == 'motion':
    _write(demo.write, _OUT.value, _TRAIN.value, _TEST.value)
    return
  out = Path(_OUT.value)
  if _KIND.value == 'relations':
    for name in demo_relations.LOOKS:
      write = functools.partial(demo_relations.write, name=name)
      _write(write, out / name, _TRAIN.value, _TEST.value)
    return
  _write(demo_actors.write_actions, out / 'actions', _TRAIN.value, _TEST.value)
  _write(demo_actors.write_actors, out / 'actors', _ACTORS_TRAIN.value, _ACTORS_TEST.value)


def _write(
  write: Callable[..., manifest.Manifest],
  directory: str | Path,
  train: int | None,
  test: int | None,
) -> None:
  begin = time.monotonic()
  given = {'train': train, 'test': test}
  sizes = {split: count for split, count in given.items() if count is not None}
  made = write(directory, seed=_SEED.value, **sizes)
  counts = ', '.join(f'{split.examples} {split.name}' for split in made.splits.values())
  for name, group in made.tasks.items():
    print(
      f'{directory}: {counts} clips of {group.num_classes} classes'
      f'{" of boxes" * group.regions} ({time.monotonic() - begin:.1f} s). Label group: {name!r}.'
    )


if __name__ == '__main__':
  command.run(main)
