"""Opens a dataset, whatever it is stored in."""

import os
from collections.abc import Mapping
from pathlib import Path

from datasets import file_dataset, manifest, tfds_dataset
from datasets.dataset import Contents, VideoDataset
from datasets.file_dataset import FileDataset
from datasets.record_dataset import RecordDataset
from datasets.tfds_dataset import TfdsDataset


def open_dataset(
  directory: str | os.PathLike[str], split: str, tasks: Mapping[str, str]
) -> VideoDataset:
  """Opens a split of records, or of videos where a folder has no manifest but csv files or videos.

  Args:
    directory: folder of the dataset, or `tfds:NAME[:VERSION][@DATA_DIR]`.
    split: name of the split.
    tasks: task name (a key of a batch's `label`) -> label group.

  Raises:
    DataError: the dataset is missing or damaged, or the split or a group does not exist.
  """
  if tfds_dataset.is_tfds(directory):
    return TfdsDataset(str(directory), split, tasks)
  if of_videos(directory):
    return FileDataset(directory, split, tasks)
  return RecordDataset(directory, split, tasks)


def of_videos(directory: str | os.PathLike[str]) -> bool:
  """Whether a folder holds videos rather than records."""
  if tfds_dataset.is_tfds(directory):
    return False
  return not is_there(directory) and file_dataset.holds_videos(directory)


def is_there(directory: str | os.PathLike[str]) -> bool:
  """Whether there is a dataset with counts and class names: a manifest, or what TFDS prepared.

  Raises:
    DataError: the place is spelled wrong.
  """
  if tfds_dataset.is_tfds(directory):
    return tfds_dataset.is_prepared(str(directory))
  return (Path(directory) / manifest.FILE_NAME).exists()


def contents(directory: str | os.PathLike[str]) -> Contents:
  """What is in a dataset.

  Raises:
    DataError: the dataset is missing or damaged.
  """
  if tfds_dataset.is_tfds(directory):
    return tfds_dataset.contents(str(directory))
  if of_videos(directory):
    return file_dataset.contents(directory)
  made = manifest.load(directory)
  return Contents({name: s.examples for name, s in made.splits.items()}, made.tasks)
