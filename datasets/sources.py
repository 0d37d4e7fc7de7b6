"""Opens a dataset, whatever it is stored in."""

import os
from collections.abc import Mapping
from typing import NamedTuple

from datasets import manifest
from datasets.dataset import VideoDataset
from datasets.manifest import TaskLabels
from datasets.record_dataset import RecordDataset


def open_dataset(
  directory: str | os.PathLike[str], split: str, tasks: Mapping[str, str]
) -> VideoDataset:
  """Opens a split.

  Args:
    directory: folder of the dataset.
    split: name of the split.
    tasks: task name (a key of a batch's `label`) -> label group.

  Raises:
    DataError: the dataset is missing or damaged, or the split or a group does not exist.
  """
  return RecordDataset(directory, split, tasks)


class Contents(NamedTuple):
  """What a dataset holds, without opening a split: examples of each split, and label groups."""

  split_sizes: Mapping[str, int]
  groups: Mapping[str, TaskLabels]


def contents(directory: str | os.PathLike[str]) -> Contents:
  """What is in a dataset's folder.

  Raises:
    DataError: the dataset is missing or damaged.
  """
  made = manifest.load(directory)
  return Contents({name: s.examples for name, s in made.splits.items()}, made.tasks)
