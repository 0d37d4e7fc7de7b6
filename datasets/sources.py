"""Opens a split of a dataset, whatever it is stored in."""

import os
from collections.abc import Mapping

from datasets.dataset import VideoDataset
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
