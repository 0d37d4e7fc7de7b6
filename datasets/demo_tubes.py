"""Two procedural datasets that share what they show: images of striped shapes, and clips of the same.

`write_images` makes many images of 8 appearances, the direction and width of a shape's stripes.
`write_clips` makes few clips, in which such a shape moves in one of 4 ways: 32 classes, told apart by the
appearance, which any frame shows, and the motion, which only the order of frames does. Shapes and colours
are random, and backgrounds and noise of images and clips differ, so that no colour and no corner gives a
class away. Never flip them: left and right, rising and falling are labels.
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

OUTLINES = (
  demo.polar(*((15 * i, 1.0) for i in range(24))),
  demo.polar((45, 1.2), (135, 1.2), (225, 1.2), (315, 1.2)),
  demo.polar((90, 1.25), (210, 1.25), (330, 1.25)),
)
"""Shapes that any class may have."""

PERIODS = {'broad': 12.0, 'fine': 6.0}
"""Width -> px from one stripe to the next of its colour."""

DIRECTIONS = {'level': 0.0, 'rising': 45.0, 'upright': 90.0, 'falling': 135.0}
"""Name -> angle of the stripes, degrees anticlockwise."""

APPEARANCES = tuple(f'{width} {direction} stripes' for width in PERIODS for direction in DIRECTIONS)
"""Classes of the images."""

MOTIONS = ('moves left', 'moves right', 'grows', 'shrinks')
"""Each is the time reversal of a neighbour."""

CLASSES = tuple(f'{appearance}: {motion}' for appearance in APPEARANCES for motion in MOTIONS)
"""Classes of the clips: number `4 * appearance + motion`."""

_VERSION = 1
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
    moment = _at(moving, int(rng.integers(demo.NUM_FRAMES)))
    scene = demo.Scene(still, [demo_actors.put(moment, rng.random(2))], noise.draw(rng)[:1])
    yield _record(scene, label, APPEARANCES[label], f'{split}-{number:05d}', 0)


def _clips(rng: np.random.Generator, split: str, count: int) -> Iterator[bytes]:
  noise = demo_actors.Noise(rng)
  for number in range(count):
    label = number % len(CLASSES)
    appearance, motion = divmod(label, len(MOTIONS))
    still = demo_relations.mosaic(rng)
    moving = _actor(rng, appearance, MOTIONS[motion], still)
    scene = demo.Scene(still, [demo_actors.put(moving, rng.random(2))], 2 * noise.draw(rng))
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
class _Striped(demo.Actor):
  """A shape with stripes of two colours, which move with it but do not grow."""

  second: _Array  # [3] uint8
  direction: float  # degrees anticlockwise
  period: float  # px
  phase: float

  def paint(self, frame: int, left: int, top: int, width: int, height: int) -> _Array:
    """Colours of a frame's window, float32 [height, width, 3]."""
    x = np.arange(left, left + width)[None] - self.centre[frame, 0]
    y = np.arange(top, top + height)[:, None] - self.centre[frame, 1]
    angle = math.radians(self.direction)
    across = x * math.sin(angle) + y * math.cos(angle)  # y points down
    wave = np.sin(2 * np.pi * across / self.period + self.phase)
    # Soft edges of about a pixel.
    share = np.clip(0.5 + 1.5 * wave, 0, 1)[..., None]
    colours: _Array = (share * self.colour + (1 - share) * self.second).astype(np.float32)
    return colours


def _actor(rng: np.random.Generator, appearance: int, motion: str, still: _Array) -> _Striped:
  """An actor around the origin; one of its colours lies between the other and the background's."""
  width, direction = divmod(appearance, len(DIRECTIONS))
  drawn = demo_actors.draw_actor(rng, motion, 0, rng.uniform(12, 15), still)
  between = 0.4 * drawn.colour + 0.6 * still.mean(axis=(0, 1)) + rng.uniform(-15, 15, 3)
  colours = [drawn.colour, np.clip(between, 0, 255).astype(np.uint8)]
  if rng.random() < 0.5:
    colours.reverse()
  return _Striped(
    outline=OUTLINES[rng.integers(len(OUTLINES))],
    colour=colours[0],
    centre=drawn.centre,
    radius=drawn.radius,
    angle=drawn.angle,
    opacity=drawn.opacity,
    second=colours[1],
    direction=list(DIRECTIONS.values())[direction],
    period=list(PERIODS.values())[width],
    phase=rng.uniform(0, 2 * np.pi),
  )


def _at(actor: _Striped, frame: int) -> _Striped:
  """The actor in one frame alone."""
  moment = np.s_[frame : frame + 1]
  return dataclasses.replace(
    actor,
    centre=actor.centre[moment],
    radius=actor.radius[moment],
    angle=actor.angle[moment],
    opacity=actor.opacity[moment],
  )
