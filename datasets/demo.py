"""A procedural video dataset whose classes come in pairs that differ only in the order of frames.

Each clip of a class, reversed frame by frame (the same JPEG bytes), is a clip of the partner class
in the same split: a model that ignores time cannot tell the two apart. Never flip it: left and right
are labels.
"""

import dataclasses
import os
from collections.abc import Iterator
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
  if (Path(directory) / manifest.FILE_NAME).exists():
    return _existing(Path(directory), source)
  splits = []
  for number, (split, count) in enumerate(sizes.items()):
    rng = np.random.default_rng((number, seed))
    clips = list(_clips(rng, split, count))
    shuffled = (clips[i] for i in rng.permutation(count))
    splits.append(records.write_split(directory, split, shuffled, 4 if count >= 64 else 2))
  made = manifest.create(splits, {GROUP: (CLASSES, False)}, source)
  for split in sizes:
    index.save(directory, made, split, index.build(directory, made, split))
  manifest.write(directory, made)
  return made


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
    frames = [
      simplejpeg.encode_jpeg(frame, quality=JPEG_QUALITY)
      for frame in _render(_Scene.draw(rng, pair))
    ]
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


def _polar(*points: tuple[float, float]) -> _Array:
  """Polygon from (degrees, radius) pairs, float [points, 2]."""
  angles, radii = np.radians([angle for angle, _ in points]), np.array([r for _, r in points])
  return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


# Outlines within the unit circle. The first three have no rotational symmetry, so turning shows.
_OUTLINES = (
  np.array([(1, 0), (0.1, 0.8), (0.1, 0.3), (-0.9, 0.3), (-0.9, -0.3), (0.1, -0.3), (0.1, -0.8)]),
  np.array([(0.95, 0.3), (-0.9, 0.3), (-0.9, -0.9), (-0.3, -0.9), (-0.3, -0.3), (0.95, -0.3)]),
  _polar((0, 1.0), (140, 0.85), (220, 0.85)),
  _polar((0, 1.0), (60, 0.5), (100, 0.5), (180, 0.5), (260, 0.5), (300, 0.5)),
  _polar(*((45 + 90 * i, 1.0) for i in range(4))),
  _polar(*((15 * i, 0.9) for i in range(24))),
  _polar(*((36 * i, (1.0, 0.45)[i % 2]) for i in range(10))),
)
_ASYMMETRIC = 3


@dataclasses.dataclass(frozen=True)
class _Scene:
  """One clip: a shape on a still background; per frame its centre, radius and angle."""

  outline: _Array  # [points, 2]
  colour: _Array  # [3] uint8
  background: _Array  # [H, W, 3] float32
  centre: _Array  # [T, 2] px, x and y
  radius: _Array  # [T] px
  angle: _Array  # [T] radians, growing clockwise on the screen
  noise: _Array  # [T, H, W, 3] int16

  @classmethod
  def draw(cls, rng: np.random.Generator, pair: int) -> '_Scene':
    """Draws a clip of the first class of a pair: left, up, grows or clockwise."""
    time = np.linspace(-0.5, 0.5, NUM_FRAMES)  # [T]
    turning, growing = pair == 3, pair == 2
    outlines = _OUTLINES[:_ASYMMETRIC] if turning else _OUTLINES
    background = _background(rng)
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
    return cls(
      outline=outlines[rng.integers(len(outlines))],
      colour=_colour(rng, float(background.mean())),
      background=background,
      centre=centre,
      radius=radii,
      angle=angle,
      noise=rng.integers(-4, 5, (NUM_FRAMES, SIZE, SIZE, 3), dtype=np.int16),
    )


def _background(rng: np.random.Generator) -> _Array:
  """A colour gradient with soft blotches, float32 [H, W, 3], of low contrast."""
  y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / SIZE - 0.5
  direction = rng.uniform(0, 2 * np.pi)
  slope = (x * np.cos(direction) + y * np.sin(direction))[..., None]
  blotches = cv2.resize(
    rng.uniform(-1, 1, (6, 6, 3)).astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC
  )
  colour = rng.uniform(40, 215) + rng.uniform(-25, 25, 3)
  return (colour + slope * rng.uniform(-40, 40, 3) + 10 * blotches).astype(np.float32)


def _colour(rng: np.random.Generator, background: float) -> _Array:
  """A shape colour at least about 90 grey levels from the background's mean."""
  shift = rng.uniform(95, 120) * (1 if background < 128 else -1)
  return np.clip(background + shift + rng.uniform(-35, 35, 3), 0, 255).astype(np.uint8)


def _render(scene: _Scene) -> Iterator[_Array]:
  """Yields the frames, uint8 [H, W, 3]; outlines are placed to 1/16 px and antialiased."""
  for centre, radius, angle, noise in zip(
    scene.centre, scene.radius, scene.angle, scene.noise, strict=True
  ):
    cos, sin = np.cos(angle), np.sin(angle)
    points = radius * scene.outline @ np.array([[cos, sin], [-sin, cos]]) + centre
    mask = np.zeros((SIZE, SIZE), np.uint8)
    fixed = np.round(points * 16).astype(np.int32)
    cv2.fillPoly(mask, [fixed], 255, lineType=cv2.LINE_AA, shift=4)
    alpha = (mask / np.float32(255))[..., None]
    frame = scene.background + alpha * (scene.colour - scene.background) + noise
    yield np.clip(frame, 0, 255).astype(np.uint8)
