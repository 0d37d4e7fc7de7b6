"""Annotated segments of untrimmed videos: cut into clips of one length, or joined to whole videos."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

from datasets.annotations import Rejected, Row, clip_key
from errors import ConfigError


def whole_videos(rows: Sequence[Row]) -> tuple[Row, ...]:
  """A row for each video that has segments, from its beginning to its end (UniFormerV2, Appendix A).

  Its labels are those of the segments that cover most of it, ties the first: few videos have segments
  of several classes. It keeps the number of its first segment; its key is its path.

  Args:
    rows: segments of a split.
  """
  of_video: dict[str, list[Row]] = {}
  for row in rows:
    of_video.setdefault(row.path, []).append(row)
  return tuple(
    dataclasses.replace(parts[0], labels=_longest(parts), start=None, end=None, key=path)
    for path, parts in of_video.items()
  )


def _longest(parts: Sequence[Row]) -> Mapping[str, tuple[str, ...]]:
  """The labels that segments have for the longest time together."""

  def seconds(labels: Mapping[str, tuple[str, ...]]) -> float:
    own = [row for row in parts if row.labels == labels]
    return sum(math.inf if row.end is None else row.end - (row.start or 0.0) for row in own)

  return max((row.labels for row in parts), key=seconds)


def cut(
  splits: Mapping[str, Sequence[Row]], seconds: float
) -> dict[str, tuple[tuple[Row, ...], tuple[Rejected, ...]]]:
  """The rows with an end, cut by `cut_times`; those without one stay as they are.

  Clips keep the row's number, labels and split. Rejected are remainders that are left, and clips
  that another segment of the same video and split has as well. Clips beyond the end of the video are
  found and rejected when the video is read; one in which it ends holds what is there.

  Args:
    splits: split -> rows, each a segment.
    seconds: length of a clip.

  Returns:
    split -> (clips, rejected), both in the order of the rows.

  Raises:
    ConfigError: `seconds` is not positive, or no row of any split has an end.
  """
  if not (math.isfinite(seconds) and seconds > 0):
    raise ConfigError(f'segment_seconds: expected more than 0 s, got {seconds}.')
  if not any(row.end is not None for rows in splits.values() for row in rows):
    raise ConfigError(
      'segment_seconds: no row has an end, so there are no segments to cut. Leave it out.'
    )
  return {split: _cut(rows, seconds) for split, rows in splits.items()}


def _cut(rows: Sequence[Row], seconds: float) -> tuple[tuple[Row, ...], tuple[Rejected, ...]]:
  """Clips of the rows of a split, and what is rejected."""
  kept: dict[str, Row] = {}
  rejected = []
  for row in rows:
    clips, rest = _clips(row, seconds)
    for clip in clips:
      other = kept.setdefault(clip.key, clip)
      if other is not clip:
        reason = f'its part {clip.key} is also one of row {other.number}'
        rejected.append(Rejected(row.number, row.path, reason))
    if rest:
      reason = f'the last {rest:g} s of {row.key} are less than half a clip'
      rejected.append(Rejected(row.number, row.path, reason))
  return tuple(kept.values()), tuple(rejected)


def cut_times(start: float, end: float, seconds: float) -> tuple[list[tuple[float, float]], float]:
  """Cuts a segment into clips, one after the other from its start (MultiTrain, section 4.1).

  What remains is a shorter clip, down to half of `seconds`; less is left. A segment shorter than a
  clip is one clip, however short it is. The paper does not say what becomes of remainders.

  Args:
    start: of the segment, in seconds.
    end: of the segment, in seconds, after `start`.
    seconds: length of a clip, positive.

  Returns:
    (start, end) of each clip in seconds, and how many seconds at the end are left.
  """
  # In whole microseconds: sums of decimals stay readable, and ten times 0.1 s are 1 s.
  whole = int((end - start) / seconds + 1e-6)
  bounds = [round(start + i * seconds, 6) for i in range(whole + 1)]
  clips = list(itertools.pairwise(bounds))
  rest = max(round(end - bounds[-1], 6), 0.0)
  if rest and (not clips or rest >= seconds / 2):
    return [*clips, (bounds[-1], end)], 0.0
  return clips, rest


def _clips(row: Row, seconds: float) -> tuple[list[Row], float]:
  """The clips of a row and what is left; a row that is one clip keeps its key."""
  if row.end is None:
    return [row], 0.0
  times, rest = cut_times(row.start or 0.0, row.end, seconds)
  if len(times) == 1 and not rest:
    return [row], 0.0
  own_name = row.key != clip_key(row.path, row.start, row.end)
  name = row.key if own_name else row.path
  return [
    dataclasses.replace(row, start=a, end=b, key=clip_key(name, a, b)) for a, b in times
  ], rest
