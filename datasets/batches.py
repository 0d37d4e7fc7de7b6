"""Videos -> batches of clips, as numpy arrays on the host.

A training batch is a pure function of (seed, step): the mixture says which dataset it is from and
how many batches of that were before; in a dataset, stream position p is rank p % N of the
permutation of (seed, epoch p // N), and its augmentation follows (seed, epoch, row). So resuming
needs one integer, and the number of threads, worker processes and hosts changes nothing.
"""

import dataclasses
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import cv2
import grain
import numpy as np
from absl import flags

from datasets.box_config import BoxConfig
from datasets.clip_config import ClipConfig, require
from datasets.color import ColorJitterConfig
from datasets.dataset import VideoDataset
from datasets.examples import (
  Batch,
  Examples,
  TrainExamples,
  eval_examples,
  too_many,
  train_examples,
)
from datasets.memory import Pool
from datasets.mixed_examples import MixedExamples
from datasets.mixture import Mixture
from datasets.parent import end_with_parent
from datasets.patches import Patch, PatchExamples
from errors import DataError

_ENDLESS = 1 << 62


@dataclasses.dataclass(frozen=True)
class Loading:
  """How batches are made; nothing here changes what they hold.

  Attributes:
    num_threads: reading threads, of this process or of each worker; 0 reads in the caller's.
    num_processes: worker processes, each making whole batches; 0: none.
    prefetch: batches to keep ready, of this process or of each worker.
  """

  num_threads: int = 8
  num_processes: int = 0
  prefetch: int = 2

  def __post_init__(self) -> None:
    """Raises ConfigError on negative numbers."""
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      require(value >= 0, field.name, 'at least 0', value)


@dataclasses.dataclass(frozen=True)
class _Part:
  """Examples that whole batches are made of.

  Attributes:
    examples: the stream.
    positions: of the stream, in a batch.
    first_row: what to add to the examples' rows.
    budgets: the first row of each dataset in the examples -> records of it that may be unreadable.
  """

  examples: Examples
  positions: int
  first_row: int
  budgets: Mapping[int, int]


class Batches:
  """Iterator over batches made by threads or processes; `close` (or leaving `with`) ends them.

  `batch_at(step)` makes any step's batch directly. `step` is the number of the next batch, all that
  has to be stored to resume; `num_steps` counts the batches of a pass, None for endless training.
  `skipped` maps the rows that could not be read to the reason. The end, or an error (raised by
  `next`), closes the iterator.
  """

  def __init__(
    self,
    parts: Sequence[_Part],
    mixture: Mixture,
    *,
    start_step: int,
    num_steps: int | None,
    loading: Loading,
  ):
    """Wraps the parts, of which the mixture chooses one for each step."""
    self._parts = parts
    self._mixture = mixture
    self._budgets = {row: budget for part in parts for row, budget in part.budgets.items()}
    self.num_steps = num_steps
    self.step = start_step
    self.skipped: dict[int, str] = {}
    # OpenCV's own thread pool would compete with the reader's threads.
    cv2.setNumThreads(1)
    self._made = _BatchAt(parts, mixture, loading.num_threads)
    self._iterator = iter(self._pipeline(loading))
    self._closed = False

  def _pipeline(self, loading: Loading) -> Any:
    steps = _ENDLESS if self.num_steps is None else self.num_steps - self.step
    source = grain.MapDataset.source(_Source(self._made, self.step, steps))
    if loading.num_processes:
      if not flags.FLAGS.is_parsed():  # In a notebook; grain's workers read a flag of their own.
        flags.FLAGS.mark_as_parsed()
      read = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
      workers = grain.MultiprocessingOptions(loading.num_processes, max(loading.prefetch, 1))
      return source.to_iter_dataset(read).mp_prefetch(workers, worker_init_fn=_prepare_worker)
    # So many batches in the making that the last examples of one leave no thread idle.
    least = min(part.positions for part in self._parts)
    making = min(1 + math.ceil(loading.num_threads / least), loading.num_threads)
    read = grain.ReadOptions(making, prefetch_buffer_size=max(loading.prefetch, making))
    return source.to_iter_dataset(read)

  def __iter__(self) -> Self:
    return self

  def __next__(self) -> Batch:
    if self._closed:
      raise StopIteration
    try:
      batch = self._checked(next(self._iterator))
    except BaseException:
      self.close()
      raise
    self.step += 1
    return batch

  def batch_at(self, step: int) -> Batch:
    """The batch of a step, made here and now, without moving the iterator."""
    return self._checked(_BatchAt(self._parts, self._mixture, num_threads=0)(step))

  def _checked(self, batch: Batch) -> Batch:
    """Takes the skipped records out of a batch, logs the new ones and keeps to the budgets."""
    for row, reason in json.loads(batch.pop('skipped')):
      if row in self.skipped:
        continue
      self.skipped[row] = reason
      first = self._owner(row)
      of_dataset = [why for other, why in self.skipped.items() if self._owner(other) == first]
      logging.getLogger(__name__).warning(
        'record left out (%d of at most %d): %s', len(of_dataset), self._budgets[first], reason
      )
      if len(of_dataset) > self._budgets[first]:
        raise DataError(too_many(of_dataset, self._budgets[first]))
    return batch

  def _owner(self, row: int) -> int:
    """First row of the dataset that a row is of."""
    return max(first for first in self._budgets if first <= row)

  def close(self) -> None:
    """Stops threads and processes; they end with what they are working on."""
    self._closed = True
    self._iterator.close()
    self._made.close()

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    self.close()


@dataclasses.dataclass(frozen=True)
class _Source:
  """The random-access view of a stream that grain reads."""

  item_at: Callable[[int], Any]
  first: int
  length: int

  def __len__(self) -> int:
    return self.length

  def __getitem__(self, position: int) -> Any:
    return self.item_at(self.first + position)


class _BatchAt:
  """step -> batch, whose examples several threads write straight into its memory."""

  def __init__(self, parts: Sequence[_Part], mixture: Mixture, num_threads: int):
    self._arguments = (parts, mixture, num_threads)
    self._parts = parts
    self._mixture = mixture
    self._memory = [Pool((p.positions, p.examples.per_group, *p.examples.shape)) for p in parts]
    self._threads = ThreadPoolExecutor(num_threads, 'reader') if num_threads > 1 else None

  def __reduce__(self) -> tuple[Any, ...]:
    return _BatchAt, self._arguments  # A worker process has threads and memory of its own.

  def __call__(self, step: int) -> Batch:
    number, own_step = self._mixture.draw(step)
    part = self._parts[number]
    pixels = self._memory[number].empty()  # [positions, per_group, ...]
    positions = range(own_step * part.positions, (own_step + 1) * part.positions)
    run = self._threads.map if self._threads else map
    examples = [example for group in run(part.examples, positions, pixels) for example in group]
    skipped = [
      (row + part.first_row, why) for example in examples for row, why in example.pop('skipped')
    ]
    batch = _stack(examples)
    batch['row'] += part.first_row
    inputs = pixels.reshape(-1, *pixels.shape[2:])
    return {'inputs': inputs, **batch, 'skipped': json.dumps(skipped)}

  def close(self) -> None:
    """Ends the threads with the examples they are working on."""
    if self._threads:
      self._threads.shutdown(wait=False, cancel_futures=True)


def _prepare_worker(index: int, count: int) -> None:
  del index, count
  end_with_parent()
  cv2.setNumThreads(1)


def _stack(examples: Sequence[Batch]) -> Batch:
  """Stacks nested dicts of arrays along a new first axis."""
  first = examples[0]
  return {
    name: _stack([example[name] for example in examples])
    if isinstance(first[name], dict)
    else np.stack([example[name] for example in examples])
    for name in first
  }


@dataclasses.dataclass(frozen=True)
class Stream:
  """A dataset's endless training examples.

  Attributes:
    dataset: where to read.
    clip: what to cut.
    batch_size: global batch size B in clips, over all processes.
    places: of the global batch, ascending: the examples this host makes; None: all.
    boxes: which boxes examples have; None: none.
    color_jitter: colour distortion on the host, or None.
    patch: (t, h, w) to cut clips into, `inputs` then uint8 [B,T/t,H/h,W/w,t*h*w*3]; None: frames.
    max_bad_records: records of this host's part that may turn out unreadable; the next one in the
      epoch's order takes the place of each.
  """

  dataset: VideoDataset
  clip: ClipConfig
  batch_size: int
  places: Sequence[int] | None = None
  boxes: BoxConfig | None = None
  color_jitter: ColorJitterConfig | None = None
  patch: Patch | None = None
  max_bad_records: int = 0


def train_batches(
  dataset: VideoDataset,
  clip: ClipConfig,
  *,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  loading: Loading = Loading(),
  **settings: Any,
) -> Batches:
  """`mixture_batches` of one dataset; `settings` are further ones of `Stream`."""
  stream = Stream(dataset, clip, batch_size, **settings)
  return mixture_batches(
    [stream], Mixture(None, 1, seed), seed=seed, start_step=start_step, loading=loading
  )


def mixture_batches(
  streams: Sequence[Stream],
  mixture: Mixture,
  *,
  seed: int,
  mixed: bool = False,
  start_step: int = 0,
  loading: Loading = Loading(),
) -> Batches:
  """Endless training batches of several datasets.

  The k-th batch of a dataset holds its stream positions [k*B, (k+1)*B); epochs run on. A host gets
  the examples at its `places` of the batch, b of them: `inputs` uint8 [B,T,H,W,3] RGB, `label`
  {task: int32 [B] or float32 [B,K]}, `batch_mask` float32 [B] of ones, `row` int64 [B], counting on
  through the datasets. With `clip.repeats` r, a position gives r clips of one video, and an epoch
  has r N clips. With `boxes` there are also `boxes` float32 [B,N,4] and `box_mask` float32 [B,N],
  and labels of boxes are [B,N,K], see `datasets.examples`.

  Args:
    streams: the datasets, in the mixture's order.
    mixture: whose draws are the batches, or where `mixed` their groups of r examples.
    seed: non-negative; orders the epochs and draws the augmentation.
    mixed: whether a batch has examples of all datasets; the clips' shape and repeats, batch sizes
      and places are then alike, and `label` has the tasks of all, with `label_mask` {task: float32
      [B]} of those an example carries.
    start_step: first step to make.
    loading: threads, processes and prefetching.

  Raises:
    ConfigError: a number out of range, a batch that does not divide among the processes, patches
      that do not divide the clip, or a flip that would make labels wrong.
  """
  require(start_step >= 0, 'start_step', 'at least 0', start_step)
  first_rows = np.cumsum([0, *(len(stream.dataset) for stream in streams)]).tolist()
  examples = [_train_examples(stream, seed) for stream in streams]
  budgets = [{row: s.max_bad_records} for row, s in zip(first_rows, streams)]
  if mixed:
    whole = MixedExamples(examples, mixture, first_rows)
    together = {row: budget for own in budgets for row, budget in own.items()}
    parts = [_part(whole, streams[0], len(examples[0].groups), 0, together)]
    mixture = Mixture(None, 1, seed)
  else:
    parts = [
      _part(e, stream, len(e.groups), row, own)
      for e, stream, row, own in zip(examples, streams, first_rows, budgets)
    ]
  return Batches(parts, mixture, start_step=start_step, num_steps=None, loading=loading)


def _train_examples(stream: Stream, seed: int) -> TrainExamples:
  return train_examples(
    stream.dataset,
    stream.clip,
    batch_size=stream.batch_size,
    seed=seed,
    places=stream.places,
    boxes=stream.boxes,
    color_jitter=stream.color_jitter,
    max_bad_records=stream.max_bad_records,
  )


def _part(
  examples: Examples, stream: Stream, positions: int, first_row: int, budgets: Mapping[int, int]
) -> _Part:
  if stream.patch is not None:
    examples = PatchExamples(examples, stream.patch)
  return _Part(examples, positions, first_row, budgets)


def eval_batches(
  dataset: VideoDataset,
  clip: ClipConfig,
  *,
  batch_size: int,
  temporal_views: int = 1,
  spatial_views: int = 1,
  boxes: BoxConfig | None = None,
  places: Sequence[int] | None = None,
  patch: Patch | None = None,
  max_bad_records: int = 0,
  loading: Loading = Loading(),
) -> Batches:
  """One pass over every example of a dataset, in index order, without randomness.

  As `mixture_batches`, but `inputs` is uint8 [B,V,T,H,W,3], or patches after the V axis: V = spatial_views *
  temporal_views, crop-major (view v is crop v // temporal_views at time v % temporal_views). All
  hosts make ceil(N / B) batches; padding has `batch_mask` 0, `row` -1 and zero inputs and labels. So
  has an example that cannot be read, but for its `row`, -2 - row: nothing takes its place. With
  `boxes` there is also `box_index` int32 [B,N], the place among the example's regions or -1.

  Raises:
    ConfigError: a number out of range, a batch that does not divide among the processes, patches
      that do not divide the clip, or more boxes in an example than `boxes.max_boxes`.
  """
  examples = eval_examples(
    dataset,
    clip,
    batch_size=batch_size,
    temporal_views=temporal_views,
    spatial_views=spatial_views,
    boxes=boxes,
    places=places,
  )
  part = _Part(
    examples if patch is None else PatchExamples(examples, patch),
    batch_size if places is None else len(places),
    0,
    {0: max_bad_records},
  )
  steps = -(-len(dataset) // batch_size)
  return Batches([part], Mixture(None, 1, 0), start_step=0, num_steps=steps, loading=loading)
