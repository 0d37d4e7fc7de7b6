"""Writes the demo datasets, whose classes are motions of simple shapes.

Kinds: `motion`, 8 classes that only the order of frames tells apart; `actors`, two datasets of 16
shared motions: OUT/actions for classification, and OUT/actors for detection, several actors a clip,
with few training examples of some motions; `relations`, three datasets with 8 motions each, OUT/blocks,
OUT/stars and OUT/comets, most of them shared under other names and looks; `tubes`, OUT/images of 8
striped shapes, and OUT/clips of them in motion, 32 classes; `scenes`, OUT/stills of 12 things, and
OUT/motions and OUT/scenes, 8 classes each that single frames do not tell apart; `videos`, no dataset but
a folder of mp4s for each of 6 classes, to make one of.

Example:
  python -m tools.make_demo_data --out=data/demo
  python -m tools.make_demo_data --out=data/tiny --seed=1 --train=64 --test=16
  python -m tools.make_demo_data --kind=actors --out=data/demo_actors
  python -m tools.make_demo_data --kind=relations --out=data/demo_relations
  python -m tools.make_demo_data --kind=tubes --out=data/demo_tubes
  python -m tools.make_demo_data --kind=scenes --out=data/demo_scenes
  python -m tools.make_demo_data --kind=videos --out=videos
"""

import functools
import time
from collections.abc import Callable
from pathlib import Path

from absl import flags

from datasets import (
  demo,
  demo_actors,
  demo_relations,
  demo_scenes,
  demo_tubes,
  demo_videos,
  manifest,
)
from errors import ConfigError
from tools import command

_OUT = flags.DEFINE_string('out', None, 'Directory to write to.', allow_override=True)
_KIND = flags.DEFINE_enum(
  'kind',
  'motion',
  ['motion', 'actors', 'relations', 'tubes', 'scenes', 'videos'],
  'What to write.',
  allow_override=True,
)
_SEED = flags.DEFINE_integer(
  'seed', 0, 'Seed that decides every pixel.', lower_bound=0, allow_override=True
)
_TRAIN = flags.DEFINE_integer(
  'train',
  None,
  'Training clips of motion and of each dataset of relations, a multiple of 8, or of OUT/actions, '
  'OUT/motions and OUT/scenes, of 16, or of OUT/clips, of 32. Default: 1600, of actions and relations '
  '480, of OUT/clips 320, of OUT/motions and OUT/scenes 640.',
  allow_override=True,
)
_TEST = flags.DEFINE_integer(
  'test',
  None,
  'Test clips, likewise. Default: 160, of relations, OUT/clips, OUT/motions and OUT/scenes 320.',
  allow_override=True,
)
_ACTORS_TRAIN = flags.DEFINE_integer(
  'actors_train',
  None,
  'Training clips of OUT/actors, a multiple of 8. Default: 96.',
  allow_override=True,
)
_ACTORS_TEST = flags.DEFINE_integer(
  'actors_test', None, 'Test clips, likewise. Default: 240.', allow_override=True
)
_IMAGES_TRAIN = flags.DEFINE_integer(
  'images_train',
  None,
  'Training images of OUT/images, a multiple of 8, or of OUT/stills, of 12. Default: 2400.',
  allow_override=True,
)
_IMAGES_TEST = flags.DEFINE_integer(
  'images_test',
  None,
  'Test images, likewise. Default: 320, of OUT/stills 240.',
  allow_override=True,
)
_VIDEOS = flags.DEFINE_integer(
  'videos', 30, 'Of kind videos: how many of each class.', 1, allow_override=True
)


def main() -> None:
  """Writes the datasets, or finds that they are there already."""
  if not _OUT.value:
    raise ConfigError('--out is missing: name the directory to write to.')
  if _KIND.value == 'motion':
    _write(demo.write, _OUT.value, _TRAIN.value, _TEST.value)
    return
  out = Path(_OUT.value)
  if _KIND.value == 'videos':
    begin = time.monotonic()
    made = demo_videos.write(out, seed=_SEED.value, videos=_VIDEOS.value)
    classes = len(demo_videos.CLASSES)
    print(f'{out}: {made} videos of {classes} classes ({time.monotonic() - begin:.1f} s).')
    return
  if _KIND.value == 'relations':
    for name in demo_relations.LOOKS:
      write = functools.partial(demo_relations.write, name=name)
      _write(write, out / name, _TRAIN.value, _TEST.value)
    return
  images = (_IMAGES_TRAIN.value, _IMAGES_TEST.value)
  if _KIND.value == 'scenes':
    _write(demo_scenes.write_stills, out / 'stills', *images, what='stills')
    _write(demo_scenes.write_motions, out / 'motions', _TRAIN.value, _TEST.value)
    _write(demo_scenes.write_scenes, out / 'scenes', _TRAIN.value, _TEST.value)
    return
  if _KIND.value == 'tubes':
    _write(demo_tubes.write_images, out / 'images', *images, what='images')
    _write(demo_tubes.write_clips, out / 'clips', _TRAIN.value, _TEST.value)
    return
  _write(demo_actors.write_actions, out / 'actions', _TRAIN.value, _TEST.value)
  _write(demo_actors.write_actors, out / 'actors', _ACTORS_TRAIN.value, _ACTORS_TEST.value)


def _write(
  write: Callable[..., manifest.Manifest],
  directory: str | Path,
  train: int | None,
  test: int | None,
  *,
  what: str = 'clips',
) -> None:
  begin = time.monotonic()
  given = {'train': train, 'test': test}
  sizes = {split: count for split, count in given.items() if count is not None}
  made = write(directory, seed=_SEED.value, **sizes)
  counts = ', '.join(f'{split.examples} {split.name}' for split in made.splits.values())
  for name, group in made.tasks.items():
    print(
      f'{directory}: {counts} {what} of {group.num_classes} classes'
      f'{" of boxes" * group.regions} ({time.monotonic() - begin:.1f} s). Label group: {name!r}.'
    )


if __name__ == '__main__':
  command.run(main)
