"""Boxes of a keyframe in a record, under MediaSequence's names: what `records` writes.

Every list has one step, the keyframe's: the values of all its boxes. A box with several labels stands
there several times. Detections stand under the prefix `PREDICTED/`, without labels, with scores.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

KEYFRAME = 'region/timestamp'
IS_ANNOTATED = 'region/is_annotated'
BOX = tuple(f'region/bbox/{side}' for side in ('ymin', 'xmin', 'ymax', 'xmax'))
LABEL_INDEX = 'region/label/index'
LABEL_TEXT = 'region/label/string'
SCORE = 'region/label/confidence'
PREDICTED = 'PREDICTED/'


class Region(NamedTuple):
  """A box of a keyframe.

  Attributes:
    box: ymin, xmin, ymax, xmax, in [0, 1] of the frame.
    label: global class index of an annotated box.
    text: its class name.
    score: of a detected box, in [0, 1].
  """

  box: tuple[float, float, float, float]
  label: int = 0
  text: str = ''
  score: float = 1.0


def feature_lists(
  keyframe_microseconds: int, regions: Sequence[Region], proposals: Sequence[Region]
) -> dict[str, list[Any]]:
  """Name -> values of the keyframe, integers, floats or bytes.

  Args:
    keyframe_microseconds: where the keyframe stands in the video.
    regions: annotated boxes, one for each label of each box.
    proposals: detected boxes; () leaves their lists out.
  """
  lists: dict[str, list[Any]] = {
    KEYFRAME: [keyframe_microseconds],
    IS_ANNOTATED: [1],
    **_box_lists('', regions),
    LABEL_INDEX: [region.label for region in regions],
    LABEL_TEXT: [region.text.encode() for region in regions],
  }
  if proposals:
    lists |= {f'{PREDICTED}{KEYFRAME}': [keyframe_microseconds]}
    lists |= _box_lists(PREDICTED, proposals)
    lists |= {f'{PREDICTED}{SCORE}': [float(region.score) for region in proposals]}
  return lists


def _box_lists(prefix: str, regions: Sequence[Region]) -> dict[str, list[float]]:
  return {
    f'{prefix}{name}': [float(region.box[i]) for region in regions] for i, name in enumerate(BOX)
  }
