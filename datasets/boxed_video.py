"""A video with boxes to classify, as a dataset of keyframes."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.ava_csv import DetectedBoxes
from datasets.keyframes import BoxTable, Keyframe
from datasets.manifest import TaskLabels
from datasets.unlabelled import UnlabelledVideos
from datasets.video import VideoInfo
from errors import DataError

_Array = np.ndarray[Any, np.dtype[Any]]


class BoxedVideo(UnlabelledVideos):
  """The keyframes of a video, a row each, with detected boxes by descending score."""

  def __init__(
    self,
    path: str | os.PathLike[str],
    info: VideoInfo,
    keyframes: Sequence[DetectedBoxes],
    tasks: Mapping[str, TaskLabels],
  ) -> None:
    """Takes a video that has been looked into.

    Args:
      path: of the video.
      info: what `video.probe` says of it.
      keyframes: at least one.
      tasks: the tasks whose labels are not known, with their classes.

    Raises:
      DataError: a keyframe is after the video's end.
    """
    super().__init__([path] * len(keyframes), [info] * len(keyframes), tasks)
    end = info.times[-1] + 1 / info.frame_rate
    beyond = [key.seconds for key in keyframes if key.seconds > end]
    if beyond:
      raise DataError(
        f'{path}: boxes are given at {beyond[0]:g} s, but the video ends at {end:.2f} s. Times count '
        'from its start, in seconds.'
      )
    times = np.round(info.times * 1e6).astype(np.int64)
    self._keyframes = [_keyframe(key, times) for key in keyframes]

  def keyframe(self, row: int) -> Keyframe:
    """The boxes and the times of all frames."""
    return self._keyframes[row]

  def box_table(self) -> BoxTable:
    """The boxes of all keyframes."""
    sizes = [len(key.boxes) for key in self._keyframes]
    return BoxTable(
      np.cumsum([0, *sizes]),
      np.concatenate([key.boxes for key in self._keyframes]),
      np.concatenate([key.scores for key in self._keyframes]),
      np.concatenate([key.annotated for key in self._keyframes]),
      np.zeros(0, np.int32),
    )


def boxes_of(
  path: str | os.PathLike[str], boxes: Mapping[str, Sequence[DetectedBoxes]], file: str
) -> Sequence[DetectedBoxes]:
  """The keyframes of a video: those under `id_of` it; see there."""
  return boxes[id_of(path, boxes, file)]


def id_of(
  path: str | os.PathLike[str], boxes: Mapping[str, Sequence[DetectedBoxes]], file: str
) -> str:
  """What a video is called: its file's name, with or without suffix.

  Args:
    path: of the video.
    boxes: from `ava_csv.read_boxes`.
    file: that they are from, for messages.

  Raises:
    DataError: there are none.
  """
  for name in (Path(path).stem, Path(path).name):
    if name in boxes:
      return name
  raise DataError(
    f'{path}: {file} has no boxes of it: expected the video_id {Path(path).stem!r}, found '
    f'{sorted(boxes)[:5]}.'
  )


def _keyframe(found: DetectedBoxes, times: _Array) -> Keyframe:
  scores = np.array(found.scores, np.float32)
  order = np.argsort(-scores, kind='stable')
  return Keyframe(
    microseconds=round(found.seconds * 1e6),
    times=times,
    boxes=np.array(found.boxes, np.float32).reshape(-1, 4)[order],
    labels=((),) * len(order),
    scores=scores[order],
    annotated=np.zeros(len(order), bool),
  )
