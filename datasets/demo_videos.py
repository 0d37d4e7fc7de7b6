"""Videos of one's own, for docs/own_data.md: a folder of mp4s for each class, as people have them.

The motions of one star-shaped actor on grey stripes. Three of them, with their names, are classes of
`datasets.demo` too, three are not. Never flip them: left and right are labels.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg

from datasets import demo, demo_actors, demo_relations
from datasets.video_writer import write_mp4
from errors import DataError

CLASSES = (
  'moves left',
  'moves right',
  'grows',
  'circles clockwise',
  'bounces',
  'moves up-left',
)
SIZE = 256
"""Height and width of a frame, px."""

_STAR = tuple(demo_actors.SHAPES).index('is a star')
_Array = np.ndarray[Any, np.dtype[Any]]


def write(directory: str | os.PathLike[str], *, seed: int = 0, videos: int = 30) -> int:
  """Writes `CLASS/NUMBER.mp4`; the folder appears when it is complete.

  Args:
    directory: where to; missing, or empty.
    seed: non-negative; decides every pixel.
    videos: of each class.

  Returns:
    The number of videos.

  Raises:
    DataError: There is something already, or it cannot be written.
  """
  directory = Path(directory)
  if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
    raise DataError(f'{directory} exists already: choose another folder, or delete this one.')
  rng = np.random.default_rng(seed)
  noise = demo_actors.Noise(rng)
  try:
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as folder:
      root = Path(folder) / 'videos'  # With the rights of any folder.
      for motion in CLASSES:
        (root / motion).mkdir(parents=True)
        for number in range(videos):
          name = root / motion / f'{number:02d}.mp4'
          write_mp4(name, _frames(rng, motion, noise), demo.FRAME_RATE)
      root.replace(directory)
  except OSError as error:
    raise DataError(f'{directory} cannot be written: {error.strerror}.') from error
  return videos * len(CLASSES)


def _frames(rng: np.random.Generator, motion: str, noise: demo_actors.Noise) -> Iterator[_Array]:
  """Yields the frames of a video, uint8 [SIZE, SIZE, 3]."""
  still = demo_relations.stripes(rng)
  actor = demo_actors.draw_actor(rng, motion, _STAR, rng.uniform(10, 13), still)
  placed = demo_actors.put(actor, rng.random(2))
  # With the traces of JPEG that the pictures of the other demo data have.
  for jpeg in demo.jpegs(demo.Scene(still, [placed], 4 * noise.draw(rng))):
    frame = simplejpeg.decode_jpeg(jpeg)
    yield cv2.resize(frame, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
