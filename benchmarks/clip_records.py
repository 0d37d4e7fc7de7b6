"""Records for measuring the reader: real videos, or made ones that compress like them.

A made video is a landscape of noise under a moving camera, with a patch of another moving across
it. Its spectrum falls like that of natural pictures (1/f: Field 1987, doi:10.1364/JOSAA.4.002379),
and faster, since what videos hold has lost its finest detail: so that frames have the size in bytes of
real ones.
"""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
from rich.progress import track

from datasets import annotations, build, workers
from datasets.annotations import GROUP, LabelGroup, Row
from datasets.convert import Settings
from datasets.record_dataset import RecordDataset
from datasets.video import probe
from errors import DataError

SPLIT = 'train'
_FALL = 1.5
FRAME_RATE = 25
HEIGHT, WIDTH = 256, 340


@dataclasses.dataclass(frozen=True)
class Source:
  """The videos that records are made of: a folder, and files below it."""

  folder: Path
  paths: tuple[str, ...]


def find_videos(folder: str | os.PathLike[str], *, frames: int) -> Source:
  """The real videos of a folder whose shorter side and length are enough for the records.

  Raises:
    DataError: there are none.
  """
  found = annotations.find_videos(folder)
  infos = [probe(Path(folder) / path) for path in found]
  paths = tuple(
    path
    for path, info in zip(found, infos, strict=True)
    if min(info.height, info.width) >= HEIGHT and info.num_frames >= frames
  )
  if not paths:
    raise DataError(
      f'--videos={folder}: none of the {len(found)} videos has {frames} frames whose shorter side is '
      f'{HEIGHT} px or more.'
    )
  return Source(Path(folder), paths)


def make_videos(folder: Path, count: int, frames: int) -> Source:
  """Writes `count` videos of `frames` frames, each a function of its number; kept if there."""
  folder.mkdir(parents=True, exist_ok=True)
  paths = tuple(f'made-{HEIGHT}x{WIDTH}x{frames}-{number}.mp4' for number in range(count))
  missing = [number for number, path in enumerate(paths) if not (folder / path).exists()]
  for number in track(missing, 'writing videos', transient=True) if missing else ():
    temporary = folder / f'.{paths[number]}'
    _write_video(temporary, number, frames)
    os.replace(temporary, folder / paths[number])
  return Source(folder, paths)


def _write_video(path: Path, seed: int, frames: int) -> None:
  rng = np.random.default_rng(seed)
  ground, patch = _landscape(rng, 2 * HEIGHT, 2 * WIDTH), _landscape(rng, HEIGHT // 3, WIDTH // 4)
  with av.open(str(path), 'w', format='mp4') as container:
    stream = container.add_stream(
      'libx264', rate=FRAME_RATE, options={'crf': '20', 'preset': 'veryfast'}
    )
    stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, 'yuv420p'
    stream.codec_context.thread_count = 1
    for number in range(frames):
      frame = _frame(ground, patch, number / FRAME_RATE)
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, 'rgb24')))
    container.mux(stream.encode(None))


def _frame(ground: np.ndarray, patch: np.ndarray, seconds: float) -> np.ndarray:
  """What the camera sees, uint8 [HEIGHT, WIDTH, 3]: it pans in an ellipse, and zooms."""
  zoom = 1.2 + 0.2 * np.sin(seconds)
  y, x = HEIGHT * (1 + 0.3 * np.sin(0.7 * seconds)), WIDTH * (1 + 0.3 * np.cos(0.5 * seconds))
  matrix = np.array([[zoom, 0, WIDTH / 2 - zoom * x], [0, zoom, HEIGHT / 2 - zoom * y]])
  frame = cv2.warpAffine(ground, matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)
  height, width = patch.shape[:2]
  top = int((HEIGHT - height) * (0.5 + 0.5 * np.sin(1.3 * seconds)))
  left = int((WIDTH - width) * (0.5 + 0.5 * np.cos(1.1 * seconds)))
  frame[top : top + height, left : left + width] = patch
  return frame


def _landscape(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Noise of falling spectrum, its colours weaker than its grey, uint8 RGB."""
  y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
  amplitude = np.maximum(np.hypot(y, x), 1 / max(height, width)) ** -_FALL
  grey, *colours = (
    np.fft.irfft2(np.fft.rfft2(rng.standard_normal((height, width))) * amplitude, (height, width))
    for _ in range(4)
  )
  planes = np.stack([grey + 0.3 * colour for colour in colours], -1)
  return np.clip(128 + 50 * planes / planes.std(), 0, 255).astype(np.uint8)


def make_records(
  directory: Path,
  source: Source,
  *,
  records: int,
  frames: int,
  quality: int,
  run: Callable[..., None] = workers.run_processes,
) -> RecordDataset:
  """Converts the videos, in turn, to `records` records of up to `frames` frames; kept if there.

  Raises:
    DataError: as `datasets.build.build`.
  """
  settings = Settings(str(source.folder), {GROUP: LabelGroup(('a', 'b'))}, quality=quality)
  rows = _rows(source, records, frames)
  build.build(build.make_plan(directory, SPLIT, rows, settings, shards=min(4, records)), run)
  return RecordDataset(directory, SPLIT, {GROUP: GROUP})


def _rows(source: Source, records: int, frames: int) -> list[Row]:
  rows = []
  for number in range(records):
    path = source.paths[number % len(source.paths)]
    info = probe(source.folder / path)
    end = min(frames, info.num_frames) / info.frame_rate
    rows.append(Row(number + 1, path, {GROUP: ('ab'[number % 2],)}, f'{number}:{path}', 0.0, end))
  return rows
