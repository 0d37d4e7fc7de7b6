"""Two procedural datasets that share what they show: images of patterned shapes, and clips of the same.

`write_images` makes many images of 8 appearances, a shape with a pattern in it. `write_clips` makes few
clips, in which one of these moves in one of 4 ways: 32 classes, told apart by the appearance, which any
frame shows, and the motion, which only the order of frames does. Colours are random, discs with a
pattern of their own lie around, and backgrounds and noise of images and clips differ, so that no colour
and no corner gives a class away. Never flip the clips: left and right are labels.
"""

import dataclasses
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from datasets import demo, demo_actors, demo_relations, manifest, records

IMAGE_GROUP = 'appearance'
CLIP_GROUP = 'action'

SHAPES = {
  'ring': demo.polar(*((15 * i, 1.0) for i in range(25)), *((-15 * i, 0.45) for i in range(25))),
  'cross': np.array([
    (1, 0.36), (0.36, 0.36), (0.36, 1), (-0.36, 1), (-0.36, 0.36), (-1, 0.36),
    (-1, -0.36), (-0.36, -0.36), (-0.36, -1), (0.36, -1), (0.36, -0.36), (1, -0.36),
  ]),
  'star': demo.polar(*((36 * i, (1.1, 0.5)[i % 2]) for i in range(10))),
  'triangle': demo.polar((0, 1.15), (120, 1.15), (240, 1.15)),
}  # fmt: skip
"""Name -> outline."""

PATTERNS = ('striped', 'chequered')
APPEARANCES = tuple(f'{pattern} {shape}' for pattern in PATTERNS for shape in SHAPES)
"""Classes of the images."""

MOTIONS = ('moves left', 'moves right', 'grows', 'shrinks')
"""Each is the time reversal of a neighbour."""

CLASSES = tuple(f'{appearance} {motion}' for appearance in APPEARANCES for motion in MOTIONS)
"""Classes of the clips: number `4 * appearance + motion`."""

_VERSION = 1
_BANDS = 2  # of a pattern, light and dark, within the diameter
_DISC = demo.polar(*((30 * i, 1.0) for i in range(12)))
_Array = np.ndarray[Any, np.dtype[Any]]


def write_images(
  directory: str | os.PathLike[str], *, seed: int = 0, train: int = 2400, test: int = 320
) -> manifest.Manifest:
  """Writes the images, records of one frame; the same request again finds them done.

  Args:
    directory: where to, created when missing.
    seed: non-negative; decides every pixel.
    train: images of the split 'train', a positive multiple of 8 (the number of appearances).
    test: images of the split 'test', likewise.

  Raises:
    DataError: the directory holds another dataset, or a size does not fit.
  """
  group = {IMAGE_GROUP: manifest.Group(APPEARANCES)}
  sizes = {'train': train, 'test': test}
  return demo.find_or_write(directory, _source('images', seed, sizes), sizes, group, _images)


def write_clips(
  directory: str | os.PathLike[str], *, seed: int = 0, train: int = 320, test: int = 320
) -> manifest.Manifest:
  """Writes the clips, 25 frames each; the same request again finds them done.

  Args:
    directory: where to, created when missing.
    seed: non-negative; decides every pixel.
    train: clips of the split 'train', a positive multiple of 32 (the number of classes).
    test: clips of the split 'test', likewise.

  Raises:
    DataError: the directory holds another dataset, or a size does not fit.
  """
  group = {CLIP_GROUP: manifest.Group(CLASSES)}
  sizes = {'train': train, 'test': test}
  return demo.find_or_write(directory, _source('clips', seed, sizes), sizes, group, _clips)


def _source(kind: str, seed: int, sizes: dict[str, int]) -> dict[str, Any]:
  divisor = len(APPEARANCES) if kind == 'images' else len(CLASSES)
  for split, count in sizes.items():
    demo_actors.check_size(kind, split, count, divisor)
  return {
    'generator': f'datasets.demo_tubes, {kind}', 'version': _VERSION, 'seed': seed, **sizes
  }  # fmt: skip


# --- Examples ---


def _images(rng: np.random.Generator, split: str, count: int) -> Iterator[bytes]:
  noise = demo_actors.Noise(rng)
  for number in range(count):
    label = number % len(APPEARANCES)
    still = demo.background(rng)
    # As it might be seen at some moment of a clip.
    moving = _actor(rng, label, MOTIONS[rng.integers(len(MOTIONS))], still)
    actors = [*_discs(rng, 3, still), _at(moving, int(rng.integers(demo.NUM_FRAMES)))]
    placed = [demo_actors.put(actor, rng.random(2)) for actor in actors]
    scene = demo.Scene(still, placed, noise.draw(rng)[:1])
    yield _record(scene, label, APPEARANCES[label], f'{split}-{number:05d}', 0)


def _clips(rng: np.random.Generator, split: str, count: int) -> Iterator[bytes]:
  noise = demo_actors.Noise(rng)
  for number in range(count):
    label = number % len(CLASSES)
    appearance, motion = divmod(label, len(MOTIONS))
    still = demo_relations.mosaic(rng)
    actors = [*_discs(rng, 2, still), _actor(rng, appearance, MOTIONS[motion], still)]
    placed = [demo_actors.put(actor, rng.random(2)) for actor in actors]
    scene = demo.Scene(still, placed, 2 * noise.draw(rng))
    yield _record(scene, label, CLASSES[label], f'{split}-{number:05d}', demo.FRAME_RATE)


def _record(scene: demo.Scene, label: int, name: str, key: str, frame_rate: float) -> bytes:
  return records.encode_example(
    demo.jpegs(scene),
    [label],
    key,
    height=demo.SIZE,
    width=demo.SIZE,
    frame_rate=frame_rate,
    label_texts=[name],
  )


# --- Drawing ---


@dataclasses.dataclass(frozen=True)
class _Patterned(demo.Actor):
  """A shape of two colours, in stripes or a chequerboard that turn, grow and move with it."""

  second: _Array  # [3] uint8
  chequered: bool
  phase: _Array  # [2], of the pattern

  def paint(self, frame: int, left: int, top: int, width: int, height: int) -> _Array:
    """Colours of a frame's window, float32 [height, width, 3]."""
    x = np.arange(left, left + width)[None] - self.centre[frame, 0]
    y = np.arange(top, top + height)[:, None] - self.centre[frame, 1]
    cos, sin = math.cos(self.angle[frame]), math.sin(self.angle[frame])
    scale = _BANDS * np.pi / self.radius[frame]
    along = np.sin((x * cos + y * sin) * scale + self.phase[0])
    across = np.sin((y * cos - x * sin) * scale + self.phase[1]) if self.chequered else 1.0
    # Soft edges of about a pixel.
    share = np.clip(0.5 + 2 * along * across, 0, 1)[..., None]
    colours: _Array = (share * self.colour + (1 - share) * self.second).astype(np.float32)
    return colours


def _patterned(
  rng: np.random.Generator, actor: demo.Actor, outline: _Array, chequered: bool, still: _Array
) -> _Patterned:
  """The actor with another outline and two colours, both off the background's."""
  ground = still.mean(axis=(0, 1))
  between = 0.4 * actor.colour + 0.6 * ground + rng.uniform(-15, 15, 3)
  colours = [actor.colour, np.clip(between, 0, 255).astype(np.uint8)]
  if rng.random() < 0.5:
    colours.reverse()
  fields = {field.name: getattr(actor, field.name) for field in dataclasses.fields(actor)}
  fields |= {'outline': outline, 'colour': colours[0], 'second': colours[1]}
  return _Patterned(**fields, chequered=chequered, phase=rng.uniform(0, 2 * np.pi, 2))


def _actor(rng: np.random.Generator, appearance: int, motion: str, still: _Array) -> _Patterned:
  pattern, shape = divmod(appearance, len(SHAPES))
  drawn = demo_actors.draw_actor(rng, motion, 0, rng.uniform(11, 13), still)
  return _patterned(rng, drawn, list(SHAPES.values())[shape], pattern == 1, still)


def _discs(rng: np.random.Generator, count: int, still: _Array) -> list[_Patterned]:
  """Small discs that stand still, of either pattern."""
  found = []
  for _ in range(count):
    drawn = demo_actors.draw_actor(rng, 'moves left', 0, rng.uniform(5, 7), still)
    frozen = dataclasses.replace(drawn, centre=np.zeros_like(drawn.centre))
    found.append(_patterned(rng, frozen, _DISC, bool(rng.random() < 0.5), still))
  return found


def _at(actor: _Patterned, frame: int) -> _Patterned:
  """The actor in one frame alone."""
  moment = np.s_[frame : frame + 1]
  return dataclasses.replace(
    actor,
    centre=actor.centre[moment],
    radius=actor.radius[moment],
    angle=actor.angle[moment],
    opacity=actor.opacity[moment],
  )
