"""Three procedural datasets whose classes overlap in a planted way, under other names and looks.

Each has eight classes, motions of one actor. Motions that two datasets share are planted relations
between classes: `RELATIONS` lists them. Nothing else connects the datasets: names have no words in
common, the order of the classes is another, and shapes, backgrounds, noise and bystanders differ.
Never flip them: left and right are labels.
"""

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import cv2
import numpy as np

from datasets import demo, demo_actors, manifest, records

GROUP = 'action'

_VERSION = 1
_Array = np.ndarray[Any, np.dtype[Any]]


def stripes(rng: np.random.Generator) -> _Array:
  """Grey stripes in any direction, float32 [H, W, 3]."""
  y, x = np.mgrid[0 : demo.SIZE, 0 : demo.SIZE].astype(np.float32)
  direction, period = rng.uniform(0, 2 * np.pi), rng.uniform(7, 14)
  wave = np.sin((x * np.cos(direction) + y * np.sin(direction)) * 2 * np.pi / period)
  grey = rng.uniform(60, 195) + rng.uniform(12, 24) * wave
  return np.repeat(grey[..., None], 3, axis=2).astype(np.float32)


def mosaic(rng: np.random.Generator) -> _Array:
  """Tiles of similar colours, float32 [H, W, 3]."""
  tiles = rng.uniform(50, 205) + rng.uniform(-22, 22, (8, 8, 3))
  size = (demo.SIZE, demo.SIZE)
  return np.asarray(cv2.resize(tiles.astype(np.float32), size, interpolation=cv2.INTER_NEAREST))


@dataclasses.dataclass(frozen=True)
class Look:
  """What a dataset's clips show.

  Attributes:
    classes: class name -> motion of `demo_actors.MOTIONS`, in label order.
    shape: of the actors, a number in `demo_actors.SHAPES`.
    radius: lowest and highest radius of the actor, px.
    background: draws one, float32 [H, W, 3].
    noise: factor of the pixel noise, 1 is +-4 grey levels.
    bystanders: actors that do not move.
  """

  classes: Mapping[str, str]
  shape: int
  radius: tuple[float, float]
  background: Callable[[np.random.Generator], _Array]
  noise: int
  bystanders: int


LOOKS: Mapping[str, Look] = {
  'blocks': Look(
    classes={
      'turns like a clock': 'turns clockwise',
      'slides left': 'moves left',
      'gets smaller': 'shrinks',
      'slides up': 'moves up',
      'appears and vanishes': 'blinks',
      'slides right': 'moves right',
      'gets bigger': 'grows',
      'slides down': 'moves down',
    },
    shape=0,
    radius=(10, 13),
    background=demo.background,
    noise=1,
    bystanders=0,
  ),
  'stars': Look(
    classes={
      'swells': 'grows',
      'sinks': 'moves down',
      'orbits': 'circles clockwise',
      'travels eastwards': 'moves right',
      'spins': 'turns clockwise',
      'hops': 'bounces',
      'travels westwards': 'moves left',
      'dwindles': 'shrinks',
    },
    shape=2,
    radius=(10, 13),
    background=stripes,
    noise=4,
    bystanders=0,
  ),
  'comets': Look(
    classes={
      'falls': 'moves down',
      'climbs aslant': 'moves up-left',
      'drifts to port': 'moves left',
      'flashes': 'blinks',
      'contracts': 'shrinks',
      'rises': 'moves up',
      'loops': 'circles clockwise',
      'drifts to starboard': 'moves right',
    },
    shape=1,
    radius=(8, 11),
    background=mosaic,
    noise=2,
    bystanders=2,
  ),
}
"""The datasets by name."""

RELATIONS: Mapping[tuple[str, str], tuple[tuple[str, str], ...]] = {
  (source, target): tuple(
    (own, other)
    for own, motion in LOOKS[source].classes.items()
    for other, same in LOOKS[target].classes.items()
    if same == motion
  )
  for source, target in itertools.permutations(LOOKS, 2)
}
"""(source, target) dataset -> (class of the source, class of the target) pairs of one motion."""


def write(
  directory: str | os.PathLike[str], name: str, *, seed: int = 0, train: int = 480, test: int = 320
) -> manifest.Manifest:
  """Writes one of the datasets with its indexes; the same request again finds it done.

  Args:
    directory: where to, created when missing.
    name: which, a key of `LOOKS`.
    seed: non-negative; decides every pixel.
    train: clips of the split 'train', a positive multiple of 8 (the number of classes).
    test: clips of the split 'test', likewise.

  Raises:
    DataError: the directory holds another dataset, or a size does not fit.
  """
  look = LOOKS[name]
  sizes = {'train': train, 'test': test}
  for split, count in sizes.items():
    demo_actors.check_size(name, split, count, len(look.classes))
  source = {'generator': f'datasets.demo_relations, {name}', 'version': _VERSION, 'seed': seed}

  def clips(rng: np.random.Generator, split: str, count: int) -> Iterator[bytes]:
    noise = demo_actors.Noise(rng)
    for number in range(count):
      yield _clip(rng, look, number % len(look.classes), f'{split}-{number:05d}', noise)

  group = manifest.Group(tuple(look.classes))
  return demo.find_or_write(directory, {**source, **sizes}, sizes, {GROUP: group}, clips)


def _clip(
  rng: np.random.Generator, look: Look, label: int, key: str, noise: demo_actors.Noise
) -> bytes:
  """One clip, serialised."""
  name, motion = list(look.classes.items())[label]
  still = look.background(rng)
  actors = [_frozen(_actor(rng, look, 'moves left', still)) for _ in range(look.bystanders)]
  actors.append(_actor(rng, look, motion, still))
  scene = demo.Scene(still, actors, look.noise * noise.draw(rng))
  return records.encode_example(
    demo.jpegs(scene),
    [label],
    key,
    height=demo.SIZE,
    width=demo.SIZE,
    frame_rate=demo.FRAME_RATE,
    label_texts=[name],
  )


def _actor(rng: np.random.Generator, look: Look, motion: str, still: _Array) -> demo.Actor:
  radius = rng.uniform(*look.radius)
  drawn = demo_actors.draw_actor(rng, motion, look.shape, radius, still)
  return demo_actors.put(drawn, rng.random(2))


def _frozen(actor: demo.Actor) -> demo.Actor:
  """The actor as it is in the first frame, in all."""
  return dataclasses.replace(actor, centre=np.broadcast_to(actor.centre[0], actor.centre.shape))
