"""Videos that a person names: files, and folders of them."""

import os
from collections.abc import Sequence
from pathlib import Path

from datasets.annotations import VIDEO_SUFFIXES, find_videos
from errors import DataError


def expand(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
  """The videos named, and those found by suffix in folders at any depth, each once.

  Args:
    paths: files, whatever their suffix, and folders, whose videos are sorted.

  Raises:
    DataError: a path is not there, or a folder has no video.
  """
  found: dict[Path, None] = {}
  for path in map(Path, paths):
    found |= dict.fromkeys(_videos_of(path))
  return list(found)


def _videos_of(path: Path) -> list[Path]:
  if not path.exists():
    raise DataError(f'{path}: no such video file, and no such folder of videos.')
  if not path.is_dir():
    return [path]
  inside = find_videos(path)
  if not inside:
    raise DataError(f'{path}: a folder without videos. Looked for {sorted(VIDEO_SUFFIXES)}.')
  return [path / name for name in inside]
