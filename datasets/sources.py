"""Opens a dataset, whatever it is stored in."""

import os
from collections.abc import Mapping
from pathlib import Path

from datasets import file_dataset, manifest
from datasets.dataset import Contents, VideoDataset
from datasets.file_dataset import FileDataset
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
  if of_videos(directory):
    return FileDataset(directory, split, tasks)
  return RecordDataset(directory, split, tasks)


def of_videos(directory: str | os.PathLike[str]) -> bool:
  """Whether a folder holds videos rather than records."""
  has_manifest = (Path(directory) / manifest.FILE_NAME).exists()
  return not has_manifest and file_dataset.holds_videos(directory)


def contents(directory: str | os.PathLike[str]) -> Contents:
  """What is in a dataset's folder.

  Raises:
    DataError: the dataset is missing or damaged.
  """
  if of_videos(directory):
    return file_dataset.contents(directory)
  made = manifest.load(directory)
  return Contents({name: s.examples for name, s in made.splits.items()}, made.tasks)
