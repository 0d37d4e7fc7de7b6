"""Two procedural datasets that share motions: clips of one actor, and keyframes with several.

`write_actions` makes a classification dataset, one moving actor a clip, its motions balanced.
`write_actors` makes a detection dataset: 2 to 4 actors a clip with a box each at the keyframe in the
middle, labelled with their motion and their shape. In training the motions are long-tailed, in the
test split balanced. Detected boxes are jittered, and some lie on nothing. Never flip either: left
and right are labels.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets import demo, manifest, records
from datasets.region_records import Region
from errors import DataError

GROUP = 'action'
MOTIONS = (
  'moves left',
  'moves up',
  'grows',
  'turns clockwise',
  'moves right',
  'moves up-left',
  'shrinks',
  'circles clockwise',
  'blinks',
  'moves down',
  'moves up-right',
  'moves down-left',
  'moves down-right',
  'turns anticlockwise',
  'circles anticlockwise',
  'bounces',
)
"""Classes of the classification dataset, and the first of the detection dataset's."""

TRAIN_SHARES = (260, 220, 180, 150, 90, 75, 60, 50, 40, 12, 11, 10, 9, 8, 6, 5)
"""How often each motion is trained on with 1,200 actors, which 400 clips hold; other sizes scale."""

HEAD_SHARE, TAIL_SHARE = 1 / 12, 1 / 75
"""Head classes have at least this share of the training boxes (100 of 1,200), tail classes less than
that one (16), mid classes are between."""

SHAPES = {
  'is angular': demo.OUTLINES[: demo.ASYMMETRIC],
  'is round': (
    demo.polar(*((a, 0.5 + 0.5 * np.cos(np.radians(a / 2)) ** 6) for a in range(0, 360, 15))),
  ),
  'is a star': (demo.polar(*((36 * i, (1.0 if i == 0 else 0.8, 0.36)[i % 2]) for i in range(10))),),
}
"""Class name -> outlines, none with a rotational symmetry: turning shows on every shape."""

CLASSES = (*MOTIONS, *SHAPES)
"""Classes of the detection dataset."""

GROUPS_FILE = 'class_groups.csv'
KEYFRAME = demo.NUM_FRAMES // 2
"""The annotated frame."""

_VERSION = 1
_KEYFRAMES_PER_VIDEO = 4
_FIRST_SECOND = 902  # As in AVA, whose annotated part begins there.
_GAP = 3.0  # px between boxes of a keyframe
_TIME = np.linspace(-0.5, 0.5, demo.NUM_FRAMES)
_NOISE_FRAMES = 64
_DIRECTIONS = {'left': (-1, 0), 'right': (1, 0), 'up': (0, -1), 'down': (0, 1)}

_Array = np.ndarray[Any, np.dtype[Any]]


def write_actions(
  directory: str | os.PathLike[str], *, seed: int = 0, train: int = 480, test: int = 160
) -> manifest.Manifest:
  """Writes the classification dataset; the same request again finds it done.

  Args:
    directory: where to, created when missing.
    seed: non-negative; decides every pixel.
    train: clips of the split 'train', a positive multiple of 16 (the number of motions).
    test: clips of the split 'test', likewise.

  Raises:
    DataError: the directory holds another dataset, or a size does not fit.
  """
  sizes = {'train': train, 'test': test}
  for split, count in sizes.items():
    check_size('actions', split, count, len(MOTIONS))
  return demo.find_or_write(
    directory, _source('actions', seed, sizes), sizes, {GROUP: manifest.Group(MOTIONS)}, _actions
  )


def write_actors(
  directory: str | os.PathLike[str], *, seed: int = 0, train: int = 96, test: int = 240
) -> manifest.Manifest:
  """Writes the detection dataset and `class_groups.csv`; the same request again finds it done.

  Args:
    directory: where to, created when missing.
    seed: non-negative; decides every pixel and box.
    train: clips of the split 'train', a positive multiple of 8.
    test: clips of the split 'test', likewise.

  Raises:
    DataError: the directory holds another dataset, or a size does not fit.
  """
  sizes = {'train': train, 'test': test}
  for split, count in sizes.items():
    check_size('actors', split, count, 8)
  if not (Path(directory) / manifest.FILE_NAME).exists():
    Path(directory).mkdir(parents=True, exist_ok=True)
    (Path(directory) / GROUPS_FILE).write_text(_class_groups(train), encoding='utf-8')
  group = manifest.Group(CLASSES, multi_label=True, regions=True)
  return demo.find_or_write(
    directory, _source('actors', seed, sizes), sizes, {GROUP: group}, _actors
  )


def check_size(kind: str, split: str, count: int, divisor: int) -> None:
  """Raises DataError unless `count` is a positive multiple of `divisor`."""
  if count < divisor or count % divisor:
    raise DataError(
      f'demo data, {kind}: {split} is {count}, expected a positive multiple of {divisor}, so that '
      'every class is there.'
    )


def _source(kind: str, seed: int, sizes: dict[str, int]) -> dict[str, Any]:
  return {
    'generator': f'datasets.demo_actors, {kind}', 'version': _VERSION, 'seed': seed, **sizes
  }  # fmt: skip


# --- Clips ---


def _actions(rng: np.random.Generator, split: str, count: int) -> Iterator[bytes]:
  noise = Noise(rng)
  for number in range(count):
    label = number % len(MOTIONS)
    still = demo.background(rng)
    shape = int(rng.integers(len(SHAPES)))
    moving = put(draw_actor(rng, MOTIONS[label], shape, rng.uniform(7, 11), still), rng.random(2))
    yield records.encode_example(
      demo.jpegs(demo.Scene(still, (moving,), noise.draw(rng))),
      [label],
      f'{split}-{number:05d}',
      height=demo.SIZE,
      width=demo.SIZE,
      frame_rate=demo.FRAME_RATE,
      label_texts=[MOTIONS[label]],
    )


def _actors(rng: np.random.Generator, split: str, count: int) -> Iterator[bytes]:
  noise = Noise(rng)
  motions = rng.permutation(_motions_of(split, count))
  shapes = rng.permutation(np.arange(len(motions)) % len(SHAPES))
  first = 0
  for number in range(count):
    last = first + _actors_of(number)
    yield _keyframe(rng, split, number, motions[first:last], shapes[first:last], noise)
    first = last


def _actors_of(number: int) -> int:
  """Actors of a clip: 2, 3, 4, 3 and again, on average 3."""
  return (2, 3, 4, 3)[number % 4]


def _motions_of(split: str, count: int) -> _Array:
  """Motions of all actors of a split: long-tailed in training, else each as often as the others."""
  counts = train_counts(count) if split == 'train' else _shared_out(3 * count, [1] * len(MOTIONS))
  return np.repeat(np.arange(len(MOTIONS)), counts)


def train_counts(clips: int) -> list[int]:
  """Actors of each motion in a training split of so many clips, a multiple of 4."""
  return _shared_out(3 * clips, TRAIN_SHARES)


def _shared_out(total: int, shares: Sequence[int]) -> list[int]:
  """`total` in whole numbers proportional to the shares: what rounding leaves goes to the largest."""
  counts = [total * share // sum(shares) for share in shares]
  rest = [total * share % sum(shares) for share in shares]
  for i in np.argsort([-r for r in rest], kind='stable')[: total - sum(counts)]:
    counts[i] += 1
  return counts


def _class_groups(clips: int) -> str:
  """The csv of head, mid and tail classes by training boxes, most frequent first."""
  boxes = 3 * clips
  counts = dict(zip(MOTIONS, train_counts(clips), strict=True))
  counts |= dict(zip(SHAPES, _shared_out(boxes, [1] * len(SHAPES)), strict=True))
  lines = ['label,group,train_labels']
  for name, count in sorted(counts.items(), key=lambda item: -item[1]):
    share = count / boxes
    group = 'head' if share >= HEAD_SHARE else 'tail' if share < TAIL_SHARE else 'mid'
    lines.append(f'{name},{group},{count}')
  return '\n'.join(lines) + '\n'


def _keyframe(
  rng: np.random.Generator,
  split: str,
  number: int,
  motions: _Array,
  shapes: _Array,
  noise: 'Noise',
) -> bytes:
  """One clip of the detection dataset, serialised."""
  still = demo.background(rng)
  drawn = [
    draw_actor(rng, MOTIONS[motion], int(shape), rng.uniform(6, 8.5), still)
    for motion, shape in zip(motions, shapes, strict=True)
  ]
  actors = _placed(rng, drawn)
  boxes = [_box(actor) for actor in actors]
  second = _FIRST_SECOND + number % _KEYFRAMES_PER_VIDEO
  times = [round(1e6 * (second + (i - KEYFRAME) / demo.FRAME_RATE)) for i in range(demo.NUM_FRAMES)]
  labels = [(int(m), len(MOTIONS) + int(s)) for m, s in zip(motions, shapes, strict=True)]
  return records.encode_example(
    demo.jpegs(demo.Scene(still, actors, noise.draw(rng))),
    [],
    f'{split}-{number // _KEYFRAMES_PER_VIDEO:04d},{second:04d}',
    height=demo.SIZE,
    width=demo.SIZE,
    frame_rate=demo.FRAME_RATE,
    start_microseconds=times[0],
    frame_microseconds=times,
    keyframe_microseconds=times[KEYFRAME],
    regions=[
      Region(box, label, CLASSES[label])
      for box, own in zip(boxes, labels, strict=True)
      for label in own
    ],
    proposals=_proposals(rng, boxes),
  )


class Noise:
  """Frames of pixel noise, drawn once and dealt out anew for each clip: drawing it costs most."""

  def __init__(self, rng: np.random.Generator):
    shape = (_NOISE_FRAMES, demo.SIZE, demo.SIZE, 3)
    self._frames = rng.integers(-4, 5, shape, dtype=np.int8)

  def draw(self, rng: np.random.Generator) -> _Array:
    """int8 [T, H, W, 3]."""
    return self._frames[rng.permutation(_NOISE_FRAMES)[: demo.NUM_FRAMES]]


# --- Motion ---


def draw_actor(
  rng: np.random.Generator, motion: str, shape: int, radius: float, still: _Array
) -> demo.Actor:
  """An actor around the origin, of a motion (a name) and a shape (a number), `radius` px large."""
  travel, turn, growth = rng.uniform(18, 26), rng.uniform(150, 260), rng.uniform(0.8, 1.1)
  phase = rng.uniform(0, 2 * np.pi)
  centre = np.zeros((demo.NUM_FRAMES, 2))
  radii = np.full(demo.NUM_FRAMES, radius)
  angle = np.full(demo.NUM_FRAMES, rng.uniform(0, 2 * np.pi))
  opacity = np.ones(demo.NUM_FRAMES, np.float32)
  verb, _, how = motion.partition(' ')
  sense = -1 if how == 'anticlockwise' or verb == 'shrinks' else 1
  if verb == 'moves':
    direction = np.sum([_DIRECTIONS[word] for word in how.split('-')], axis=0)
    centre += travel * _TIME[:, None] * direction / np.linalg.norm(direction)
  elif verb == 'circles':
    around = phase + sense * 2.5 * np.pi * _TIME
    centre += travel / 4 * np.stack([np.cos(around), np.sin(around)], axis=1)
  elif verb == 'turns':
    angle += sense * np.radians(turn) * _TIME
  elif verb == 'bounces':
    centre[:, 1] -= travel / 2 * np.abs(np.cos(3 * np.pi * _TIME))
  elif verb == 'blinks':
    opacity[np.cos(6 * np.pi * _TIME) < 0] = 0  # Seen at the keyframe, in the middle.
  else:
    radii *= 1 + sense * growth * _TIME
  outlines = tuple(SHAPES.values())[shape]
  outline = outlines[rng.integers(len(outlines))]
  return demo.Actor(outline, demo.colour(rng, float(still.mean())), centre, radii, angle, opacity)


def put(actor: demo.Actor, place: _Array) -> demo.Actor:
  """The actor elsewhere: (0, 0) is the upper left and (1, 1) the lower right of where it may be.

  All of its path lies in the frame.
  """
  reach = actor.radius[:, None] * np.linalg.norm(actor.outline, axis=1).max()
  low = (actor.centre - reach).min(axis=0)
  high = (actor.centre + reach).max(axis=0)
  return dataclasses.replace(
    actor, centre=actor.centre - low - 0.5 + place * (demo.SIZE - (high - low))
  )


def _placed(rng: np.random.Generator, actors: Sequence[demo.Actor]) -> list[demo.Actor]:
  """The actors at places where their boxes at the keyframe keep a gap."""
  while True:  # Few tries are needed: four boxes cover about a quarter of the frame.
    placed: list[demo.Actor] = []
    for actor in actors:
      for _ in range(30):
        there = put(actor, rng.random(2))
        if all(_apart(_extent(there), _extent(other)) for other in placed):
          placed.append(there)
          break
    if len(placed) == len(actors):
      return placed


def _extent(actor: demo.Actor) -> _Array:
  """The tight box at the keyframe, px, [4] ymin, xmin, ymax, xmax."""
  points = actor.points(KEYFRAME) + 0.5  # Drawn with the centre of the first pixel at 0.
  return np.concatenate([points.min(axis=0)[::-1], points.max(axis=0)[::-1]])


def _apart(a: _Array, b: _Array) -> bool:
  return bool(((a[:2] > b[2:] + _GAP) | (b[:2] > a[2:] + _GAP)).any())


_Box = tuple[float, float, float, float]


def _box(actor: demo.Actor) -> _Box:
  return _fractions(_extent(actor))


def _fractions(box: _Array) -> _Box:
  """A box in px as fractions of the frame, cut off at its border."""
  ymin, xmin, ymax, xmax = np.clip(box / demo.SIZE, 0, 1).tolist()
  return ymin, xmin, ymax, xmax


# --- Detected boxes ---


def _proposals(rng: np.random.Generator, boxes: Sequence[_Box]) -> list[Region]:
  """What a detector might find: most actors well, some also poorly, and now and then nothing at all."""
  found = []
  for box in boxes:
    if rng.random() < 0.97:
      found.append(Region(_jittered(rng, box, 0.08), score=float(rng.uniform(0.77, 1.0))))
    if rng.random() < 0.25:
      found.append(Region(_jittered(rng, box, 0.2), score=float(rng.uniform(0.5, 0.8))))
  for _ in range(rng.integers(0, 3)):
    size = rng.uniform(10, 20, 2)
    corner = rng.uniform(0, demo.SIZE - size)
    pixels = np.concatenate([corner, corner + size])
    low, high = (0.8, 0.9) if rng.random() < 0.15 else (0.3, 0.7)
    score = float(rng.uniform(low, high))
    if all(_apart(pixels, np.array(box) * demo.SIZE) for box in boxes):
      found.append(Region(_fractions(pixels), score=score))
  return found


def _jittered(rng: np.random.Generator, box: _Box, ratio: float) -> _Box:
  """Each side moved by up to `ratio` of the box's height or width."""
  pixels = np.array(box) * demo.SIZE
  size = np.tile(pixels[2:] - pixels[:2], 2)
  return _fractions(pixels + rng.uniform(-ratio, ratio, 4) * size)
