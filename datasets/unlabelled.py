"""Video files as a dataset without labels: what predictions are made of."""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from datasets import video
from datasets.dataset import VideoDataset
from datasets.manifest import TaskLabels
from datasets.video import VideoInfo
from errors import DataError

_Array = np.ndarray[Any, np.dtype[Any]]
_PROBING_THREADS = 4


class UnlabelledVideos(VideoDataset):
  """Videos, a row each, of which no label is known: a row's labels are zeros, like those of padding."""

  def __init__(
    self,
    paths: Sequence[str | os.PathLike[str]],
    infos: Sequence[VideoInfo],
    tasks: Mapping[str, TaskLabels],
  ) -> None:
    """Takes videos that have been looked into.

    Args:
      paths: of the files, at least one.
      infos: what `video.probe` says of each.
      tasks: the tasks that labels would be of, with their classes.
    """
    self.where, self.split = str(paths[0]), ''
    super().__init__(tasks, {name: name for name in tasks})
    self._paths, self._infos = tuple(map(str, paths)), tuple(infos)
    self.split_sizes, self.defects, self.fingerprint = {'': len(paths)}, (), ''
    self.num_frames = np.array([info.num_frames for info in infos], np.int64)
    self.frame_rate = np.array([info.frame_rate for info in infos], np.float32)

  def key(self, row: int) -> str:
    """Name of the file."""
    return Path(self._paths[row]).name

  def stored_labels(self, row: int) -> _Array:
    """None, int32 [0]."""
    return np.zeros(0, np.int32)

  def labels(self, row: int) -> dict[str, _Array]:
    """Zeros."""
    return self.empty_labels()

  def times(self, row: int) -> _Array:
    """When each frame appears, float64 [N], seconds from the video's start."""
    return self._infos[row].times

  def frames(self, row: int, indices: _Array) -> Iterator[_Array]:
    """Decodes frames, see the base class."""
    yield from video.read_frames(self._paths[row], self._infos[row], indices)


def probe_each(paths: Sequence[str | os.PathLike[str]]) -> Iterator[VideoInfo | DataError]:
  """Looks into videos, several at a time: what `video.probe` says or raises of each, in order."""
  with ThreadPoolExecutor(_PROBING_THREADS) as threads:
    yield from threads.map(_info_or_error, paths)


def _info_or_error(path: str | os.PathLike[str]) -> VideoInfo | DataError:
  try:
    return video.probe(path)
  except DataError as error:
    return error
