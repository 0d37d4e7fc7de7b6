"""The examples of a stream: position -> clips of a video with their labels.

What a position holds is a pure function of the settings, so streams can be cut, resumed and dealt
out at will; `datasets.batches` makes batches of them.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from datasets import box_examples, clips
from datasets import flips as flips_lib
from datasets.box_config import BoxConfig
from datasets.clip_config import ClipConfig, require
from datasets.color import ColorJitterConfig
from datasets.dataset import VideoDataset
from errors import DataError

_Array = np.ndarray[Any, np.dtype[Any]]
Batch = dict[str, Any]
"""`inputs`, `label` {task: array}, `batch_mask` and `row`, in a batch with a leading axis.

Where labels belong to boxes also `boxes` float32 [max_boxes, 4], ymin, xmin, ymax, xmax in [0, 1] of the
input with its padding, and `box_mask` float32 [max_boxes]; their `label` is float32 [max_boxes, K]. In
evaluation also `box_index` int32 [max_boxes], the box's place in `dataset.regions`, -1 for padding.
"""

# First words of the random streams: SeedSequence pads with zeros, so (seed, epoch) and
# (seed, epoch, row 0) would otherwise be one stream.
_ORDER_STREAM, _CLIP_STREAM, _BOX_STREAM = 1, 2, 3

PADDING_ROW = -1
"""`row` of padding. A record that cannot be read has -2 - row, see `unreadable_row`."""


class Examples(Protocol):
  """What a stream is made of: local position -> one or several examples that follow each other."""

  @property
  def per_group(self) -> int:
    """Examples at each position."""

  @property
  def shape(self) -> tuple[int, ...]:
    """Shape of an example's pixels."""

  def __call__(self, position: int, out: _Array) -> Sequence[Batch]:
    """The examples at a position of this host's stream, their pixels in `out`.

    Args:
      position: in the stream.
      out: uint8 [per_group, *shape], where `inputs` are written; the examples lack them.
    """


def too_many(reasons: Sequence[str], limit: int) -> str:
  """The message for more unreadable records than allowed."""
  if not limit:
    return reasons[0]
  listed = '\n  '.join(reasons[:10])
  return (
    f'{len(reasons)} records cannot be used, more than max_bad_records={limit} allows:\n  {listed}\n'
    '`python -m tools.browse --data=DIR --check` lists every defect. Write the records again, or '
    'raise max_bad_records.'
  )


def train_examples(
  dataset: VideoDataset,
  clip: ClipConfig,
  *,
  batch_size: int,
  seed: int,
  places: Sequence[int] | None = None,
  color_jitter: ColorJitterConfig | None = None,
  boxes: BoxConfig | None = None,
  max_bad_records: int = 0,
) -> 'TrainExamples':
  """The examples of `datasets.batches.train_batches`, whose arguments and errors these are."""
  box_examples.check(dataset, clip, boxes)
  local = _places(batch_size, places)
  groups = local[:: clip.repeats] // clip.repeats
  together = np.array_equal(local, _places_of(groups, clip.repeats))
  problem = f'a multiple of {clip.repeats} repeats that lie together'
  require(together, 'batch_size of each process', problem, local.tolist())
  require(seed >= 0, 'seed', 'at least 0', seed)
  return TrainExamples(
    dataset=dataset,
    clip=clip,
    color_jitter=color_jitter,
    boxes=boxes,
    swaps=flips_lib.label_permutations(dataset, clip),
    seed=seed,
    groups=groups,
    step_groups=batch_size // clip.repeats,
    max_bad_records=max_bad_records,
  )


class Drawn(NamedTuple):
  """The clips at a position of a training stream, all of one video.

  Attributes:
    row: the video.
    clips: with pixels, frame numbers and window.
    parts: of each clip what else its example holds: `label` {task: array}, of the mirrored video
      where the clip is, and where there are boxes `boxes` and `box_mask`.
    skipped: (row, reason) of videos that could not be read and had been in its place.
  """

  row: int
  clips: Sequence[clips.Clip]
  parts: Sequence[Batch]
  skipped: Sequence[tuple[int, str]]

  @property
  def labels(self) -> Sequence[Mapping[str, _Array]]:
    """Labels of each clip, per task."""
    return [part['label'] for part in self.parts]


@dataclasses.dataclass(frozen=True)
class TrainExamples:
  """Position of this host's stream -> `clip.repeats` clips of one video.

  Attributes:
    groups: which of each step's groups of repeats this host makes, ascending.
    step_groups: number of groups in a step, over all hosts.
  """

  dataset: VideoDataset
  clip: ClipConfig
  color_jitter: ColorJitterConfig | None
  boxes: BoxConfig | None
  swaps: Mapping[str, _Array]
  seed: int
  groups: _Array
  step_groups: int
  max_bad_records: int

  @property
  def per_group(self) -> int:
    return self.clip.repeats

  @property
  def shape(self) -> tuple[int, ...]:
    return self.clip.shape

  def __call__(self, position: int, out: _Array) -> Sequence[Batch]:
    return self.at(self.whole_position(position), out)

  def whole_position(self, position: int) -> int:
    """Position in the stream over all hosts of a position of this host's."""
    step, i = divmod(position, len(self.groups))
    return step * self.step_groups + int(self.groups[i])

  def at(self, position: int, out: _Array) -> Sequence[Batch]:
    """The examples at a position of the stream over all hosts, their pixels in `out`."""
    drawn = self.draw(position, out)
    examples = [_example(part, drawn.row) for part in drawn.parts]
    examples[0]['skipped'] = drawn.skipped
    return examples

  def draw(self, position: int, out: _Array | None = None) -> Drawn:
    """The clips at a position of the stream over all hosts, their pixels in `out` or fresh memory."""
    epoch, rank = divmod(position, len(self.dataset))
    order = _order(self.seed, epoch, len(self.dataset))
    skipped: list[tuple[int, str]] = []
    while True:
      # A record that cannot be read is replaced by the one that follows it in this epoch.
      row = int(order[(rank + len(skipped)) % len(order)])
      try:
        made = self._clips(epoch, row, len(skipped), out)
        parts = [self._part(epoch, row, len(skipped), i, clip) for i, clip in enumerate(made)]
      except DataError as error:
        skipped.append((row, str(error)))
        if len(skipped) > min(self.max_bad_records, len(order) - 1):
          raise DataError(too_many([why for _, why in skipped], self.max_bad_records)) from error
        continue
      return Drawn(row, made, parts, skipped)

  def _clips(self, epoch: int, row: int, attempt: int, out: _Array | None) -> list[clips.Clip]:
    rngs = [
      _rng(_CLIP_STREAM, self.seed, epoch, row, copy, attempt) for copy in range(self.per_group)
    ]
    return clips.train_clips(self.dataset, self.clip, row, rngs, self.color_jitter, out)

  def _part(self, epoch: int, row: int, attempt: int, copy: int, clip: clips.Clip) -> Batch:
    labels = self.dataset.labels(row)
    if clip.window.flip:
      labels = flips_lib.swap_labels(labels, self.swaps)
    if self.boxes is None:
      return {'label': labels}
    rng = _rng(_BOX_STREAM, self.seed, epoch, row, copy, attempt)
    part = box_examples.train_part(self.dataset, self.boxes, row, clip, rng, self.swaps)
    return {**part, 'label': {**labels, **part['label']}}


def check_views(clip: ClipConfig, temporal_views: int, spatial_views: int) -> None:
  """Raises ConfigError unless the views fit the clip's sampling and geometry."""
  require(temporal_views >= 1, 'temporal_views', 'at least 1', temporal_views)
  require(spatial_views in (1, 3), 'spatial_views', '1 or 3', spatial_views)
  if clip.sampling in ('uniform', 'keyframe'):
    place = 'the whole video' if clip.sampling == 'uniform' else 'where the keyframe is'
    problem = f"1 with sampling='{clip.sampling}', whose clip is {place}"
    require(temporal_views == 1, 'temporal_views', problem, temporal_views)
  if clip.fit == 'pad':
    problem = "1 with fit='pad', which shows the whole frame"
    require(spatial_views == 1, 'spatial_views', problem, spatial_views)


def eval_examples(
  dataset: VideoDataset,
  clip: ClipConfig,
  *,
  batch_size: int,
  temporal_views: int = 1,
  spatial_views: int = 1,
  places: Sequence[int] | None = None,
  boxes: BoxConfig | None = None,
) -> 'EvalExamples':
  """The examples of `datasets.batches.eval_batches`, whose arguments and errors these are."""
  check_views(clip, temporal_views, spatial_views)
  box_examples.check(dataset, clip, boxes)
  if boxes is not None:
    problem = '1 where labels belong to boxes, which one crop shows'
    require(spatial_views == 1, 'spatial_views', problem, spatial_views)
    box_examples.check_room(dataset, boxes)
  return EvalExamples(
    dataset=dataset,
    clip=clip,
    temporal_views=temporal_views,
    spatial_views=spatial_views,
    places=_places(batch_size, places),
    batch_size=batch_size,
    boxes=boxes,
  )


@dataclasses.dataclass(frozen=True)
class EvalExamples:
  """Position of this host's pass -> all views of one video.

  Attributes:
    places: which of each batch's `batch_size` videos this host reads, ascending.
  """

  dataset: VideoDataset
  clip: ClipConfig
  temporal_views: int
  spatial_views: int
  places: _Array
  batch_size: int
  boxes: BoxConfig | None

  @property
  def per_group(self) -> int:
    return 1

  @property
  def shape(self) -> tuple[int, ...]:
    return (self.temporal_views * self.spatial_views, *self.clip.shape)

  def __call__(self, position: int, out: _Array) -> Sequence[Batch]:
    step, i = divmod(position, len(self.places))
    row = step * self.batch_size + int(self.places[i])
    if row >= len(self.dataset):
      return [self._empty(PADDING_ROW, out)]
    try:
      part = self._part(row, out[0])
    except DataError as error:
      return [{**self._empty(unreadable_row(row), out), 'skipped': [(row, str(error))]}]
    return [_example(part, row)]

  def _part(self, row: int, views: _Array) -> Batch:
    """Cuts the views; returns what else the example holds."""
    labels = self.dataset.labels(row)
    if self.boxes is None:
      clips.view_clips(self.dataset, self.clip, row, self.temporal_views, self.spatial_views, views)
      return {'label': labels}
    clip = clips.single_view(self.dataset, self.clip, row, views[0])
    part = box_examples.eval_part(self.dataset, self.boxes, row, clip)
    return {**part, 'label': {**labels, **part['label']}}

  def _empty(self, row: int, out: _Array) -> Batch:
    out[...] = 0
    part: Batch = {'label': self.dataset.empty_labels()}
    if self.boxes is not None:
      empty = box_examples.empty_part(self.dataset, self.boxes)
      part = {**empty, 'label': {**part['label'], **empty['label']}}
    return _example(part, row)


def unreadable_row(row: Any) -> Any:
  """What stands in `row` (a number or an array) for a record that cannot be read, and back."""
  return -2 - row


def _places(batch_size: int, places: Sequence[int] | None) -> _Array:
  """Ascending places in a batch of `batch_size`, int64; all of them for None."""
  require(batch_size >= 1, 'batch_size', 'at least 1', batch_size)
  if places is None:
    return np.arange(batch_size)
  local = np.asarray(places, np.int64)
  ascending = local.size > 0 and local[0] >= 0 and np.all(np.diff(local) > 0)
  problem = f'ascending numbers below batch_size={batch_size}'
  require(bool(ascending and local[-1] < batch_size), 'places', problem, list(places))
  return local


def _places_of(groups: _Array, repeats: int) -> _Array:
  """The places of groups of `repeats` examples each."""
  return (groups[:, None] * repeats + np.arange(repeats)).reshape(-1)


@functools.lru_cache(maxsize=8)
def _order(seed: int, epoch: int, size: int) -> _Array:
  """Permutation of an epoch, int64 [size]."""
  return _rng(_ORDER_STREAM, seed, epoch).permutation(size)


def _rng(*words: int) -> np.random.Generator:
  return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


def _example(part: Batch, row: int) -> Batch:
  return {
    **part,
    'batch_mask': np.float32(row >= 0),
    'row': np.int64(row),
    'skipped': [],
  }
