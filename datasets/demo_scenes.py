"""Three procedural datasets: stills, and clips for whose classes single frames do not suffice.

The classes of the clips come in pairs, 2k and 2k + 1, that share their frames, so that what adds up over
frames, each seen alone, cannot tell the two apart:

- `write_motions`: a disc whose stripes, rings or spokes move at a constant speed. Reversed, a clip of a class
  is one of its partner (the same JPEG bytes). Any two neighbouring frames show the direction, the first and
  the last do not, as the pattern has come back to itself more than once.
- `write_scenes`: amid grey clutter a coloured disc is seen for a while, and a coloured cross for another, half
  of the clip away. The class is which colours go together, of which each shows half: two of the four clips that
  two colours of the disc and two of the cross make are of a class and two of its partner, and all frames of
  the former together are those of the latter. Which of the two comes first says nothing.
- `write_stills`: single frames of both, labelled with what is to be seen: the pattern of the disc, or the
  disc or cross and its colour.

Never flip the motions: left and right are labels.
"""

import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from datasets import demo, demo_actors, manifest, records

GROUP = 'label'
NUM_FRAMES = 24

PATTERNS = ('level stripes', 'upright stripes', 'rings', 'spokes')
MOTIONS = (
  'level stripes sink',
  'level stripes rise',
  'upright stripes go right',
  'upright stripes go left',
  'rings grow',
  'rings shrink',
  'spokes turn clockwise',
  'spokes turn anticlockwise',
)
"""Classes of the motions: 2k and 2k + 1 are pattern k and each other's time reversal."""

COLOURS = {
  'disc': {
    'red': (210, 40, 40),
    'yellow': (230, 215, 50),
    'orange': (240, 130, 30),
    'pink': (230, 70, 190),
  },
  'cross': {
    'green': (40, 165, 60),
    'blue': (45, 80, 220),
    'cyan': (50, 205, 215),
    'violet': (125, 50, 180),
  },
}
"""Outline -> its colours, RGB; the first two and the last two are those that two classes share."""

OUTLINES = {
  'disc': demo.polar(*((15 * i, 1.0) for i in range(24))),
  'cross': demo.polar(
    *((90 * i + a, r) for i in range(4) for a, r in ((-17, 1.25), (17, 1.25), (45, 0.52)))
  ),
}
"""Outlines of the things to be seen."""

CLUTTER = (
  demo.polar(*((90 * i + 45, 1.2) for i in range(4))),
  demo.polar((90, 1.25), (210, 1.25), (330, 1.25)),
)
"""Outlines of what lies about, grey, whatever the class."""

THINGS = tuple(f'{colour} {outline}' for outline in OUTLINES for colour in COLOURS[outline])
STILLS = (*PATTERNS, *THINGS)
"""Classes of the stills."""

_VERSION = 1
_HALF = NUM_FRAMES // 2
_SEEN = 8  # frames at either end of a scene, in which its disc or cross may be seen
_SPOKES = 5
_Array = np.ndarray[Any, np.dtype[Any]]


def _scenes() -> Iterator[str]:
  for pair in range(4):
    disc, cross = _colours(pair).values()
    for other in (cross, cross[::-1]):
      pairs = zip(disc, other, strict=True)
      yield ' or '.join(f'{one} with {two}' for one, two in pairs)


def _colours(pair: int) -> dict[str, list[str]]:
  """Outline -> the names of the two colours that it has in the classes 2 * pair and 2 * pair + 1."""
  starts = (2 * choice for choice in divmod(pair, 2))
  return {
    outline: list(COLOURS[outline])[start : start + 2]
    for outline, start in zip(OUTLINES, starts, strict=True)
  }


SCENES = tuple(_scenes())
"""Classes of the scenes, the disc's colour first: 2k and 2k + 1 have the same colours, put together otherwise."""


def write_stills(
  directory: str | os.PathLike[str], *, seed: int = 0, train: int = 2400, test: int = 240
) -> manifest.Manifest:
  """Writes the stills, records of one frame; the same request again finds them done.

  Args:
    directory: where to, created when missing.
    seed: non-negative; decides every pixel.
    train: stills of the split 'train', a positive multiple of 12 (the number of classes).
    test: stills of the split 'test', likewise.

  Raises:
    DataError: the directory holds another dataset, or a size does not fit.
  """
  return _write('stills', directory, seed, {'train': train, 'test': test})


def write_scenes(
  directory: str | os.PathLike[str], *, seed: int = 0, train: int = 640, test: int = 320
) -> manifest.Manifest:
  """Writes the scenes, 24 frames each; the same request again finds them done.

  Args:
    directory: where to, created when missing.
    seed: non-negative; decides every pixel.
    train: clips of the split 'train', a positive multiple of 16 (all pairs of colours).
    test: clips of the split 'test', likewise.

  Raises:
    DataError: the directory holds another dataset, or a size does not fit.
  """
  return _write('scenes', directory, seed, {'train': train, 'test': test})


def write_motions(
  directory: str | os.PathLike[str], *, seed: int = 0, train: int = 640, test: int = 320
) -> manifest.Manifest:
  """Writes the motions, 24 frames each; the same request again finds them done.

  Args:
    directory: where to, created when missing.
    seed: non-negative; decides every pixel.
    train: clips of the split 'train', a positive multiple of 8 (the number of classes).
    test: clips of the split 'test', likewise.

  Raises:
    DataError: the directory holds another dataset, or a size does not fit.
  """
  return _write('motions', directory, seed, {'train': train, 'test': test})


def _write(
  kind: str, directory: str | os.PathLike[str], seed: int, sizes: dict[str, int]
) -> manifest.Manifest:
  classes, divisor, examples = {
    'stills': (STILLS, len(STILLS), _stills),
    'scenes': (SCENES, 2 * len(SCENES), _scene_clips),
    'motions': (MOTIONS, len(MOTIONS), _motion_clips),
  }[kind]
  for split, count in sizes.items():
    demo_actors.check_size(kind, split, count, divisor)
  source = {'generator': f'datasets.demo_scenes, {kind}', 'version': _VERSION, 'seed': seed}
  group = {GROUP: manifest.Group(classes)}
  return demo.find_or_write(directory, {**source, **sizes}, sizes, group, examples)


# --- Examples ---


def _stills(rng: np.random.Generator, split: str, count: int) -> Iterator[bytes]:
  noise = demo_actors.Noise(rng)
  for number in range(count):
    label = number % len(STILLS)
    still = demo.background(rng)
    if label < len(PATTERNS):
      actors: list[demo.Actor] = [_pattern(rng, label, still)]
    else:
      colour, outline = STILLS[label].split()
      thing = _thing(rng, OUTLINES[outline], np.ones(1, np.float32))
      actors = [*_clutter(rng), _coloured(rng, thing, COLOURS[outline][colour])]
    frames = demo.jpegs(demo.Scene(still, actors, noise.draw(rng)[:1]))
    yield _record(frames, label, STILLS[label], f'{split}-{number:05d}', 0)


def _motion_clips(rng: np.random.Generator, split: str, count: int) -> Iterator[bytes]:
  """Yields serialised clips, partner after partner, the pairs of classes in turn."""
  noise = demo_actors.Noise(rng)
  for number in range(count // 2):
    kind = number % len(PATTERNS)
    still = demo.background(rng)
    frames = demo.jpegs(
      demo.Scene(still, [_pattern(rng, kind, still)], noise.draw(rng)[:NUM_FRAMES])
    )
    for label, ordered in ((2 * kind, frames), (2 * kind + 1, frames[::-1])):
      yield _record(
        ordered, label, MOTIONS[label], f'{split}-{number:05d}-{label}', demo.FRAME_RATE
      )


def _scene_clips(rng: np.random.Generator, split: str, count: int) -> Iterator[bytes]:
  """Yields serialised clips, four of the same frames after four, the pairs of classes in turn."""
  noise = demo_actors.Noise(rng)
  for number in range(count // 4):
    pair = number % (len(SCENES) // 2)
    still, clutter, order = demo.background(rng), _clutter(rng), rng.permutation(2)
    halves = [
      _half(rng, outline, names, bool(last), still, clutter, noise)
      for (outline, names), last in zip(_colours(pair).items(), order, strict=True)
    ]
    for disc, cross in itertools.product(range(2), repeat=2):
      both = [halves[0][disc], halves[1][cross]]
      frames = [*both[order[0]], *both[order[1]]]
      label, key = 2 * pair + (disc ^ cross), f'{split}-{number:05d}-{disc}{cross}'
      yield _record(frames, label, SCENES[label], key, demo.FRAME_RATE)


def _half(
  rng: np.random.Generator,
  outline: str,
  colours: Sequence[str],
  last: bool,
  still: _Array,
  clutter: Sequence[demo.Actor],
  noise: demo_actors.Noise,
) -> list[list[bytes]]:
  """Half a scene in either colour of what is seen in it: at its beginning, or if `last` at its end."""
  length = rng.integers(5, _SEEN + 1)
  begin = rng.integers(0, _SEEN - length + 1)
  seen = np.zeros(_HALF, np.float32)
  seen[begin : begin + length] = 1
  thing = _thing(rng, OUTLINES[outline], seen[::-1] if last else seen)
  grain = noise.draw(rng)[:_HALF]
  return [
    demo.jpegs(demo.Scene(still, [*clutter, _coloured(rng, thing, COLOURS[outline][name])], grain))
    for name in colours
  ]


def _record(frames: Sequence[bytes], label: int, name: str, key: str, rate: float) -> bytes:
  return records.encode_example(
    frames,
    [label],
    key,
    height=demo.SIZE,
    width=demo.SIZE,
    frame_rate=rate,
    label_texts=[name],
  )


# --- Drawing ---


@dataclasses.dataclass(frozen=True)
class _Pattern(demo.Actor):
  """A disc whose two-coloured pattern moves while it stays where it is."""

  second: _Array  # [3] uint8
  kind: int  # number in PATTERNS
  period: float  # px
  phase: _Array  # [T] cycles

  def paint(self, frame: int, left: int, top: int, width: int, height: int) -> _Array:
    """Colours of a frame's window, float32 [height, width, 3]."""
    x = np.arange(left, left + width)[None] - self.centre[frame, 0]
    y = np.arange(top, top + height)[:, None] - self.centre[frame, 1]
    across = (y, x, np.hypot(x, y), _SPOKES * self.period * np.arctan2(y, x) / (2 * np.pi))
    wave = np.sin(2 * np.pi * (across[self.kind] / self.period - self.phase[frame]))
    share = np.broadcast_to(0.5 + 0.5 * wave, (height, width))[..., None]
    colours: _Array = (share * self.colour + (1 - share) * self.second).astype(np.float32)
    return colours


def _pattern(rng: np.random.Generator, kind: int, still: _Array) -> _Pattern:
  """A disc whose pattern moves down, right, outwards or clockwise, by its kind."""
  radius, mean = rng.uniform(17, 24), still.mean(axis=(0, 1))
  bright = demo.colour(rng, float(mean.mean()))
  return _Pattern(
    **_standing(rng, radius, NUM_FRAMES),
    outline=OUTLINES['disc'],
    colour=bright,
    opacity=np.ones(NUM_FRAMES, np.float32),
    second=np.clip(1.3 * mean - 0.3 * bright, 0, 255).astype(np.uint8),
    kind=kind,
    period=rng.uniform(13, 17),
    phase=rng.random() + np.arange(NUM_FRAMES) * rng.uniform(0.05, 0.075),
  )


def _clutter(rng: np.random.Generator) -> list[demo.Actor]:
  """Grey things, which say nothing."""
  always = np.ones(NUM_FRAMES, np.float32)
  return [
    _coloured(rng, _thing(rng, CLUTTER[rng.integers(len(CLUTTER))], always), 3 * (grey,))
    for grey in rng.uniform(30, 225, 3)
  ]


def _thing(rng: np.random.Generator, outline: _Array, opacity: _Array) -> demo.Actor:
  """Something that stays where it is, to be coloured."""
  standing = _standing(rng, rng.uniform(8, 11), len(opacity))
  return demo.Actor(outline, np.zeros(3, np.uint8), opacity=opacity, **standing)


def _coloured(
  rng: np.random.Generator, actor: demo.Actor, colour: tuple[float, float, float]
) -> demo.Actor:
  shade = colour + rng.uniform(-15, 15, 3)
  return dataclasses.replace(actor, colour=np.clip(shade, 0, 255).astype(np.uint8))


def _standing(rng: np.random.Generator, radius: float, frames: int) -> dict[str, _Array]:
  """Where an actor is that does not move; at most tips of it are outside the picture."""
  centre = rng.uniform(1.1 * radius, demo.SIZE - 1.1 * radius, 2)
  return {
    'centre': np.tile(centre, (frames, 1)),
    'radius': np.full(frames, radius),
    'angle': np.full(frames, rng.uniform(0, 2 * np.pi)),
  }
