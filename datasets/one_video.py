"""A single video file as a dataset of one row, without labels."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from datasets import video
from datasets.dataset import VideoDataset

_Array = np.ndarray[Any, np.dtype[Any]]


class OneVideo(VideoDataset):
  """A video that clips can be cut from as from those of any other dataset; its row is 0."""

  def __init__(self, path: str | os.PathLike[str]) -> None:
    """Looks into the video.

    Raises:
      DataError: as `video.probe`.
    """
    self.where, self.split = str(path), ''
    super().__init__({}, {})
    self._info = video.probe(path)
    self.split_sizes, self.defects = {'': 1}, ()
    self.num_frames = np.array([self._info.num_frames], np.int64)
    self.frame_rate = np.array([self._info.frame_rate], np.float32)
    self.fingerprint = ''

  def key(self, row: int) -> str:
    """Name of the file."""
    return Path(self.where).name

  def stored_labels(self, row: int) -> _Array:
    """None, int32 [0]."""
    return np.zeros(0, np.int32)

  def frames(self, row: int, indices: _Array) -> Iterator[_Array]:
    """Decodes frames, see the base class."""
    yield from video.read_frames(self.where, self._info, indices)
