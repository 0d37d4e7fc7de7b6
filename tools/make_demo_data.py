"""Writes the demo dataset: 8 classes of motion that only the order of frames tells apart.

Example:
  python -m tools.make_demo_data --out=data/demo
  python -m tools.make_demo_data --out=data/tiny --seed=1 --train=64 --test=16
"""

import time

from absl import flags

from datasets import demo
from tools import command

_OUT = flags.DEFINE_string('out', None, 'Directory to write the dataset to.', required=True)
_SEED = flags.DEFINE_integer('seed', 0, 'Seed that decides every pixel.', lower_bound=0)
_TRAIN = flags.DEFINE_integer('train', 1600, 'Training clips, a multiple of 8.')
_TEST = flags.DEFINE_integer('test', 160, 'Test clips, a multiple of 8.')


def main() -> None:
  """Writes the dataset, or finds that it is there already."""
  begin = time.monotonic()
  made = demo.write(_OUT.value, seed=_SEED.value, train=_TRAIN.value, test=_TEST.value)
  sizes = ', '.join(f'{split.examples} {split.name}' for split in made.splits.values())
  print(
    f'{_OUT.value}: {sizes} clips of {len(demo.CLASSES)} classes '
    f'({time.monotonic() - begin:.1f} s). Label group: {demo.GROUP!r}.'
  )


if __name__ == '__main__':
  command.run(main)
