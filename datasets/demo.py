"""A procedural video dataset whose classes come in pairs that differ only in the order of frames.

Each clip of a class, reversed frame by frame (the same JPEG bytes), is a clip of the partner class
in the same split: a model that ignores time cannot tell the two apart. Never flip it: left and right
are labels.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg

from datasets import index, manifest, records
from errors import DataError

GROUP = 'motion'
CLASSES = (
  'moves left',
  'moves right',
  'moves up',
  'moves down',
  'grows',
  'shrinks',
  'turns clockwise',
  'turns anticlockwise',
)
"""Classes 2k and 2k + 1 are each other's time reversal."""

# An odd count: the centre view of 8 frames at stride 2 then sees the same frames in both partners.
NUM_FRAMES = 25
SIZE = 64
FRAME_RATE = 12.5
JPEG_QUALITY = 90

_VERSION = 1
_Array = np.ndarray[Any, np.dtype[Any]]


def write(
  directory: str | os.PathLike[str], *, seed: int = 0, train: int = 1600, test: int = 160
) -> manifest.Manifest:
  """Writes the demo dataset with its indexes; the same request again finds it done.

  Args:
    directory: where to, created when missing.
    seed: non-negative; decides every pixel.
    train: clips of the split 'train', a multiple of 8 (the number of classes).
    test: clips of the split 'test', a multiple of 8.

  Raises:
    DataError: the directory holds another dataset, or a size is no positive multiple of 8.
  """
  sizes = {'train': train, 'test': test}
  for split, count in sizes.items():
    if count < len(CLASSES) or count % len(CLASSES):
      raise DataError(
        f'demo data: {split} is {count}, expected a positive multiple of {len(CLASSES)}, '
        'so that the classes are balanced.'
      )
  source = {'generator': 'datasets.demo', 'version': _VERSION, 'seed': seed, **sizes}
  group = manifest.Group(CLASSES)
  return find_or_write(directory, source, sizes, {GROUP: group}, _clips)


def find_or_write(
  directory: str | os.PathLike[str],
  source: dict[str, Any],
  sizes: Mapping[str, int],
  groups: Mapping[str, manifest.Group],
  clips: Callable[[np.random.Generator, str, int], Iterator[bytes]],
) -> manifest.Manifest:
  """Writes a procedural dataset with its indexes, or finds it there.

  Args:
    directory: where to, created when missing.
    source: what decides every byte, `seed` among it; goes into the manifest.
    sizes: split -> examples.
    groups: label groups.
    clips: yields the serialised examples of a split, given its random numbers, name and size; they
      are shuffled.

  Raises:
    DataError: the directory holds another dataset.
  """
  if (Path(directory) / manifest.FILE_NAME).exists():
    return _existing(Path(directory), source)
  splits = []
  for number, (split, count) in enumerate(sizes.items()):
    rng = np.random.default_rng((number, source['seed']))
    made = list(clips(rng, split, count))
    shuffled = (made[i] for i in rng.permutation(count))
    splits.append(records.write_split(directory, split, shuffled, 4 if count >= 64 else 2))
  described = manifest.create(splits, groups, source)
  for split in sizes:
    index.save(directory, described, split, index.build(directory, described, split))
  manifest.write(directory, described)
  return described


def _existing(directory: Path, source: dict[str, Any]) -> manifest.Manifest:
  """The dataset already there, if it is the one asked for."""
  found = manifest.load(directory)
  if dict(found.source) != source:
    raise DataError(
      f'{directory}: holds another dataset, made from {dict(found.source)}; asked for {source}. '
      'Choose another directory, or delete this one.'
    )
  return found


def _clips(rng: np.random.Generator, split: str, count: int) -> Iterator[bytes]:
  """Yields `count` serialised examples, partner after partner, the pairs of classes in turn."""
  for number in range(count // 2):
    pair = number % (len(CLASSES) // 2)
    frames = jpegs(_scene(rng, pair))
    for label, ordered in ((2 * pair, frames), (2 * pair + 1, frames[::-1])):
      yield records.encode_example(
        ordered,
        [label],
        f'{split}-{number:05d}-{CLASSES[label].replace(" ", "-")}',
        height=SIZE,
        width=SIZE,
        frame_rate=FRAME_RATE,
        label_texts=[CLASSES[label]],
      )


# --- Drawing ---


def polar(*points: tuple[float, float]) -> _Array:
  """Polygon from (degrees, radius) pairs, float [points, 2]."""
  angles, radii = np.radians([angle for angle, _ in points]), np.array([r for _, r in points])
  return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


OUTLINES = (
  np.array([(1, 0), (0.1, 0.8), (0.1, 0.3), (-0.9, 0.3), (-0.9, -0.3), (0.1, -0.3), (0.1, -0.8)]),
  np.array([(0.95, 0.3), (-0.9, 0.3), (-0.9, -0.9), (-0.3, -0.9), (-0.3, -0.3), (0.95, -0.3)]),
  polar((0, 1.0), (140, 0.85), (220, 0.85)),
  polar((0, 1.0), (60, 0.5), (100, 0.5), (180, 0.5), (260, 0.5), (300, 0.5)),
  polar(*((45 + 90 * i, 1.0) for i in range(4))),
  polar(*((15 * i, 0.9) for i in range(24))),
  polar(*((36 * i, (1.0, 0.45)[i % 2]) for i in range(10))),
)
"""Outlines within the unit circle."""

ASYMMETRIC = 3
"""The first of them have no rotational symmetry, so turning shows."""


@dataclasses.dataclass(frozen=True)
class Actor:
  """A shape: per frame its centre, radius, angle and opacity."""

  outline: _Array  # [points, 2] within the unit circle
  colour: _Array  # [3] uint8
  centre: _Array  # [T, 2] px, x and y
  radius: _Array  # [T] px
  angle: _Array  # [T] radians, growing clockwise on the screen
  opacity: _Array  # [T] float32 in [0, 1]

  def points(self, frame: int) -> _Array:
    """The outline in a frame, float64 [points, 2], x and y in px."""
    cos, sin = math.cos(self.angle[frame]), math.sin(self.angle[frame])
    turned = self.radius[frame] * self.outline @ np.array([[cos, sin], [-sin, cos]])
    points: _Array = turned + self.centre[frame]
    return points

  def paint(self, frame: int, left: int, top: int, width: int, height: int) -> _Array:
    """Colours of a frame's window, [3] or [height, width, 3]; left and top are its corner in px."""
    del frame, left, top, width, height  # One colour everywhere.
    return self.colour


@dataclasses.dataclass(frozen=True)
class Scene:
  """One clip: actors, later ones in front, on a still background."""

  background: _Array  # [H, W, 3] float32
  actors: Sequence[Actor]
  noise: _Array  # [T, H, W, 3], grey levels


def _scene(rng: np.random.Generator, pair: int) -> Scene:
  """Draws a clip of the first class of a pair: left, up, grows or clockwise."""
  time = np.linspace(-0.5, 0.5, NUM_FRAMES)  # [T]
  turning, growing = pair == 3, pair == 2
  outlines = OUTLINES[:ASYMMETRIC] if turning else OUTLINES
  still = background(rng)
  radius = rng.uniform(18, 24) if turning else rng.uniform(10, 14)
  room = 4 if turning else 12
  centre = SIZE / 2 + np.stack([rng.uniform(-room, room, 2)] * NUM_FRAMES)
  angle = np.full(NUM_FRAMES, rng.uniform(0, 2 * np.pi))
  radii = np.full(NUM_FRAMES, radius)
  if turning:
    angle += time * np.radians(rng.uniform(150, 260))
  elif growing:
    radii = 14 + 2 * time * rng.uniform(6, 9)
  else:
    centre[:, pair] -= time * rng.uniform(30, 46)
  actor = Actor(
    outline=outlines[rng.integers(len(outlines))],
    colour=colour(rng, float(still.mean())),
    centre=centre,
    radius=radii,
    angle=angle,
    opacity=np.ones(NUM_FRAMES, np.float32),
  )
  noise = rng.integers(-4, 5, (NUM_FRAMES, SIZE, SIZE, 3), dtype=np.int16)
  return Scene(still, (actor,), noise)


def background(rng: np.random.Generator) -> _Array:
  """A colour gradient with soft blotches, float32 [H, W, 3], of low contrast."""
  y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / SIZE - 0.5
  direction = rng.uniform(0, 2 * np.pi)
  slope = (x * np.cos(direction) + y * np.sin(direction))[..., None]
  blotches = cv2.resize(
    rng.uniform(-1, 1, (6, 6, 3)).astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC
  )
  mean = rng.uniform(40, 215) + rng.uniform(-25, 25, 3)
  return (mean + slope * rng.uniform(-40, 40, 3) + 10 * blotches).astype(np.float32)


def colour(rng: np.random.Generator, background: float) -> _Array:
  """A shape colour at least about 90 grey levels from the background's mean."""
  shift = rng.uniform(95, 120) * (1 if background < 128 else -1)
  return np.clip(background + shift + rng.uniform(-35, 35, 3), 0, 255).astype(np.uint8)


def jpegs(scene: Scene) -> list[bytes]:
  """The frames of a clip, encoded."""
  return [simplejpeg.encode_jpeg(frame, quality=JPEG_QUALITY) for frame in render(scene)]


def render(scene: Scene) -> Iterator[_Array]:
  """Yields the frames, uint8 [H, W, 3]; outlines are placed to 1/16 px and antialiased."""
  for number, noise in enumerate(scene.noise):
    frame = scene.background.copy()
    for actor in scene.actors:
      _paint(frame, actor, number)
    frame += noise
    yield np.clip(frame, 0, 255, out=frame).astype(np.uint8)


def _paint(frame: _Array, actor: Actor, number: int) -> None:
  """Draws an actor's frame `number` over a float32 frame [H, W, 3]."""
  opacity = actor.opacity[number]
  mask = np.zeros((SIZE, SIZE), np.uint8)
  fixed = np.rint(actor.points(number) * 16).astype(np.int32)
  cv2.fillPoly(mask, [fixed], 255, lineType=cv2.LINE_AA, shift=4)
  left, top, width, height = cv2.boundingRect(mask)
  window = np.s_[top : top + height, left : left + width]
  alpha = (mask[window] / np.float32(255) * opacity)[..., None]
  under = frame[window]
  under += alpha * (actor.paint(number, left, top, width, height) - under)
