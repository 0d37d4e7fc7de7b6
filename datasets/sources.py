"""Opens a split of a dataset, whatever it is stored in."""

import os
from collections.abc import Mapping
from pathlib import Path

from datasets import manifest
from datasets.dataset import VideoDataset
from datasets.file_dataset import FileDataset, holds_videos
from datasets.record_dataset import RecordDataset


def open_dataset(
  directory: str | os.PathLike[str], split: str, tasks: Mapping[str, str]
) -> VideoDataset:
  """Opens a split of records, or of videos where a folder has no manifest but csv files or videos.

  Args:
    directory: folder of the dataset.
    split: name of the split.
    tasks: task name (a key of a batch's `label`) -> label group.

  Raises:
    DataError: the dataset is missing or damaged, or the split or a group does not exist.
  """
  if not (Path(directory) / manifest.FILE_NAME).exists() and holds_videos(directory):
    return FileDataset(directory, split, tasks)
  return RecordDataset(directory, split, tasks)
