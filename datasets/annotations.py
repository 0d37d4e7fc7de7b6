"""Annotation files -> rows: which part of which video carries which labels."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Row:
  """One clip to be read from a video.

  Attributes:
    number: line of the row in its annotation file, from 1, header included (as editors count); for
      JSON files the position of the entry, from 1.
    path: video file, relative to the folder of the videos.
    labels: label group -> names of the classes, one or, in a multi-label group, any number.
    start: where the clip starts in its video, in seconds; None: at the beginning.
    end: where it ends, in seconds, exclusive; None: at the end.
    key: name of the clip, unique in its split.
  """

  number: int
  path: str
  labels: Mapping[str, tuple[str, ...]]
  key: str
  start: float | None = None
  end: float | None = None


@dataclasses.dataclass(frozen=True)
class Rejected:
  """A row that cannot be used: where it stands, its video ('' if unknown) and why, in a sentence."""

  number: int
  path: str
  reason: str


@dataclasses.dataclass(frozen=True)
class LabelGroup:
  """Class names of a label group in label order, and whether a clip may have several of them."""

  classes: tuple[str, ...]
  multi_label: bool = False


@dataclasses.dataclass(frozen=True)
class Annotations:
  """What an annotation file says: label groups in order, rows in order, and what it got wrong."""

  groups: Mapping[str, LabelGroup]
  rows: tuple[Row, ...]
  rejected: tuple[Rejected, ...] = ()
