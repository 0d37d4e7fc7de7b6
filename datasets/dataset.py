"""A split of a dataset: labels in memory, frames on demand, whatever they are stored in."""

import abc
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from datasets import video_id
from datasets.keyframes import BoxTable, Keyframe
from datasets.manifest import TaskLabels
from datasets.regions import Regions
from errors import DataError

_Array = np.ndarray[Any, np.dtype[Any]]


class Contents(NamedTuple):
  """What a dataset holds, without opening a split: examples of each split, and label groups."""

  split_sizes: Mapping[str, int]
  groups: Mapping[str, TaskLabels]


class VideoDataset(abc.ABC):
  """A split: videos in a fixed order, each with a key, labels and frames. Safe for threads.

  Attributes:
    where: the dataset's place, for messages.
    split: the split's name.
    split_sizes: split -> number of examples, of all splits there are.
    fingerprint: hash of what the dataset is made of; equal contents at another place have the same.
    num_frames: frames of each video, int64 [N].
    frame_rate: frames per second of each video, float32 [N]; 0 where unknown.
    defects: what is wrong with each record of the split that was left out when it was indexed.
  """

  where: str
  split: str
  split_sizes: Mapping[str, int]
  fingerprint: str
  num_frames: _Array
  frame_rate: _Array
  defects: tuple[str, ...]

  def __init__(self, groups: Mapping[str, TaskLabels], tasks: Mapping[str, str]):
    """Sets the tasks' label groups.

    Args:
      groups: label groups of the dataset.
      tasks: task name (a key of a batch's `label`) -> label group.

    Raises:
      DataError: a group does not exist.
    """
    self._tasks: dict[str, TaskLabels] = {}
    for task, group in tasks.items():
      if group not in groups:
        raise DataError(
          f'{self.where}: task {task!r} names the label group {group!r}; there are {sorted(groups)}.'
        )
      self._tasks[task] = groups[group]

  def __len__(self) -> int:
    return len(self.num_frames)

  @property
  def of_images(self) -> bool:
    """Whether every video is one frame without a frame rate."""
    return bool((self.num_frames == 1).all() and (self.frame_rate == 0).all())

  @abc.abstractmethod
  def key(self, row: int) -> str:
    """Name of a video, unique in its split."""

  def identity(self, row: int) -> tuple[str, ...]:
    """What is equal for two examples, of any splits and datasets, of one video.

    The YouTube id where the key holds one (`datasets.video_id`), so that clips of one video are equal;
    else what `_content` says.
    """
    key = self.key(row)
    found = video_id.youtube_id(key)
    return (found,) if found else self._content(row, key)

  def _content(self, row: int, key: str) -> tuple[str, ...]:
    """What tells a video from others that may have its key: other splits may count theirs, too."""
    return self.where, key

  @abc.abstractmethod
  def stored_labels(self, row: int) -> _Array:
    """Labels of a video as indices over all groups, int32 [labels]."""

  @abc.abstractmethod
  def frames(self, row: int, indices: _Array) -> Iterator[_Array]:
    """Yields the given distinct, ascending frames of a video, RGB uint8 [H, W, 3].

    All have one size. A frame may be overwritten when the next one is asked for.

    Raises:
      DataError: a frame cannot be read; the message says where it lies.
    """

  def keyframe(self, row: int) -> Keyframe:
    """The annotated keyframe of a video with its boxes, and the times of its frames.

    Raises:
      DataError: the dataset has no boxes.
    """
    raise DataError(
      f'{self.where}: {self.key(row)!r} (row {row}) has no keyframe with boxes: no label group of '
      'the dataset is of boxes. `python -m tools.build_records --layout=ava` writes such records.'
    )

  def box_table(self) -> BoxTable:
    """The boxes of all keyframes.

    Raises:
      DataError: the dataset has no boxes.
    """
    raise DataError(f'{self.where}: has no boxes.')

  def keyframe_seconds(self, row: int) -> float:
    """Where the annotated keyframe stands in its video, in seconds.

    Raises:
      DataError: the dataset has no boxes.
    """
    return self.keyframe(row).microseconds / 1e6

  def regions(self, row: int, task: str) -> Regions:
    """The boxes of a keyframe with a task's labels, annotated ones first.

    Raises:
      DataError: the dataset has no boxes, or the task's labels belong to clips.
    """
    keyframe, group = self.keyframe(row), self._tasks[task]
    if not group.regions:
      raise DataError(f'{self.where}: the labels of task {task!r} belong to clips, not to boxes.')
    labels = np.zeros((len(keyframe.boxes), group.num_classes), np.float32)
    for i, stored in enumerate(keyframe.labels):
      own = [x - group.offset for x in stored if 0 <= x - group.offset < group.num_classes]
      labels[i, own] = 1
    return Regions(keyframe.boxes, labels, keyframe.scores, keyframe.annotated)

  @property
  def tasks(self) -> tuple[str, ...]:
    """Task names, as given."""
    return tuple(self._tasks)

  def class_names(self, task: str) -> tuple[str, ...]:
    """Class names of a task; their order is the task's label space."""
    return self._tasks[task].classes

  def num_classes(self, task: str) -> int:
    """Number of classes of a task."""
    return self._tasks[task].num_classes

  def multi_label(self, task: str) -> bool:
    """Whether the task's labels are multi-hot vectors rather than class numbers."""
    return self._tasks[task].multi_label

  def has_regions(self, task: str) -> bool:
    """Whether the task's labels belong to the boxes of a keyframe rather than to a clip."""
    return self._tasks[task].regions

  @property
  def region_tasks(self) -> tuple[str, ...]:
    """The tasks whose labels belong to boxes."""
    return tuple(task for task in self._tasks if self.has_regions(task))

  def class_ids(self, task: str) -> tuple[int, ...]:
    """The numbers that files of results call a task's classes by, in label order."""
    group = self._tasks[task]
    return group.class_ids or tuple(range(1, group.num_classes + 1))

  def labels(self, row: int) -> dict[str, _Array]:
    """Labels of a video per task: int32 [], or float32 multi-hot [K] for a multi-label group.

    Tasks whose labels belong to boxes are left out: `regions` has them.
    """
    result = self.empty_labels()
    for task, own in self.classes(row).items():
      if self.multi_label(task):
        result[task][own] = 1
      else:
        result[task][...] = own[0]
    return result

  def classes(self, row: int) -> dict[str, _Array]:
    """Class numbers of a video per task, int32 [labels]; empty where it has none.

    Tasks whose labels belong to boxes are left out.
    """
    stored = self.stored_labels(row)
    of_task = {t: stored - group.offset for t, group in self._tasks.items() if not group.regions}
    return {task: own[(own >= 0) & (own < self.num_classes(task))] for task, own in of_task.items()}

  def empty_labels(self) -> dict[str, _Array]:
    """Zeros of the shapes of `labels`, for padding."""
    return {
      task: np.zeros(group.num_classes, np.float32) if group.multi_label else np.zeros((), np.int32)
      for task, group in self._tasks.items()
      if not group.regions
    }
