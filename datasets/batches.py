"""Videos -> batches of clips, as numpy arrays on the host.

A training batch is a pure function of (seed, step): stream position p is rank p % N of the
permutation of (seed, epoch p // N), and its augmentation follows (seed, epoch, row). So resuming
needs one integer, and the number of threads, worker processes and hosts changes nothing.
"""

import dataclasses
import json
import logging
import math
from collections.abc import Callable, Sequence
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
from datasets.examples import Batch, Examples, eval_examples, too_many, train_examples
from datasets.memory import Pool
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


class Batches:
  """Iterator over batches made by threads or processes; `close` (or leaving `with`) ends them.

  `batch_at(step)` makes any step's batch directly. `step` is the number of the next batch, all that
  has to be stored to resume; `num_steps` counts the batches of a pass, None for endless training.
  `skipped` maps the rows that could not be read to the reason. The end, or an error (raised by
  `next`), closes the iterator.
  """

  def __init__(
    self,
    examples: Examples,
    *,
    local_batch: int,
    start_step: int,
    num_steps: int | None,
    loading: Loading,
    max_bad_records: int,
  ):
    """Wraps `examples`; a step holds the next local_batch / per_group positions."""
    self._positions = local_batch // examples.per_group
    self._examples = examples
    self._max_bad_records = max_bad_records
    self.num_steps = num_steps
    self.step = start_step
    self.skipped: dict[int, str] = {}
    # OpenCV's own thread pool would compete with the reader's threads.
    cv2.setNumThreads(1)
    self._made = _BatchAt(examples, self._positions, loading.num_threads)
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
    making = min(1 + math.ceil(loading.num_threads / self._positions), loading.num_threads)
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
    return self._checked(_BatchAt(self._examples, self._positions, num_threads=0)(step))

  def _checked(self, batch: Batch) -> Batch:
    """Takes the skipped records out of a batch, logs the new ones and keeps to the budget."""
    for row, reason in json.loads(batch.pop('skipped')):
      if row not in self.skipped:
        self.skipped[row] = reason
        logging.getLogger(__name__).warning(
          'record left out (%d of at most %d): %s', len(self.skipped), self._max_bad_records, reason
        )
    if len(self.skipped) > self._max_bad_records:
      raise DataError(too_many(tuple(self.skipped.values()), self._max_bad_records))
    return batch

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

  def __init__(self, examples: Examples, positions: int, num_threads: int):
    self._arguments = (examples, positions, num_threads)
    self._examples = examples
    self._positions = positions
    self._memory = Pool((positions, examples.per_group, *examples.shape))
    self._threads = ThreadPoolExecutor(num_threads, 'reader') if num_threads > 1 else None

  def __reduce__(self) -> tuple[Any, ...]:
    return _BatchAt, self._arguments  # A worker process has threads and memory of its own.

  def __call__(self, step: int) -> Batch:
    pixels = self._memory.empty()  # [positions, per_group, ...]
    positions = range(step * self._positions, (step + 1) * self._positions)
    run = self._threads.map if self._threads else map
    examples = [example for group in run(self._examples, positions, pixels) for example in group]
    skipped = [entry for example in examples for entry in example.pop('skipped')]
    inputs = pixels.reshape(-1, *pixels.shape[2:])
    return {'inputs': inputs, **_stack(examples), 'skipped': json.dumps(skipped)}

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


def train_batches(
  dataset: VideoDataset,
  clip: ClipConfig,
  *,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  places: Sequence[int] | None = None,
  color_jitter: ColorJitterConfig | None = None,
  boxes: BoxConfig | None = None,
  patch: Patch | None = None,
  max_bad_records: int = 0,
  loading: Loading = Loading(),
) -> Batches:
  """Endless training batches; step s holds stream positions [s*B, (s+1)*B), epochs run on.

  A host gets the examples at its `places` of the batch, b of them: `inputs` uint8 [B,T,H,W,3] RGB,
  `label` {task: int32 [B] or float32 [B,K]}, `batch_mask` float32 [B] of ones, `row` int64 [B]. With
  `clip.repeats` r, a position gives r clips of one video, and an epoch has r N clips.

  Args:
    dataset: where to read.
    clip: what to cut.
    batch_size: global batch size B in clips, over all processes.
    seed: non-negative; orders the epochs and draws the augmentation.
    start_step: first step to make.
    places: of the global batch, ascending: the examples this host makes; None: all.
    color_jitter: colour distortion on the host, or None.
    boxes: which boxes, where labels belong to boxes; the batch has then the keys of
      `datasets.examples.Batch` for them.
    patch: (t, h, w) to cut clips into, `inputs` then uint8 [B,T/t,H/h,W/w,t*h*w*3]; None: frames.
    max_bad_records: records of this host's part that may turn out unreadable; the next one in the
      epoch's order takes the place of each.
    loading: threads, processes and prefetching.

  Raises:
    ConfigError: a number out of range, a batch that does not divide among the processes, patches
      that do not divide the clip, a flip that would make labels wrong, or boxes that do not fit the
      dataset and the clip.
  """
  require(start_step >= 0, 'start_step', 'at least 0', start_step)
  examples = train_examples(
    dataset,
    clip,
    batch_size=batch_size,
    seed=seed,
    places=places,
    color_jitter=color_jitter,
    boxes=boxes,
    max_bad_records=max_bad_records,
  )
  return Batches(
    examples if patch is None else PatchExamples(examples, patch),
    local_batch=batch_size if places is None else len(places),
    start_step=start_step,
    num_steps=None,
    loading=loading,
    max_bad_records=max_bad_records,
  )


def eval_batches(
  dataset: VideoDataset,
  clip: ClipConfig,
  *,
  batch_size: int,
  temporal_views: int = 1,
  spatial_views: int = 1,
  places: Sequence[int] | None = None,
  boxes: BoxConfig | None = None,
  patch: Patch | None = None,
  max_bad_records: int = 0,
  loading: Loading = Loading(),
) -> Batches:
  """One pass over every example, in index order, without randomness.

  As `train_batches`, but `inputs` is uint8 [B,V,T,H,W,3], or patches after the V axis: V = spatial_views * temporal_views,
  crop-major (view v is crop v // temporal_views at time v % temporal_views). All hosts make
  ceil(N / B) batches; padding has `batch_mask` 0, `row` -1 and zero inputs and labels. So has an
  example that cannot be read, but for its `row`, -2 - row: nothing takes its place.

  Raises:
    ConfigError: a number out of range, a batch that does not divide among the processes, or patches
      that do not divide the clip, or a keyframe with more boxes than fit.
  """
  examples = eval_examples(
    dataset,
    clip,
    batch_size=batch_size,
    temporal_views=temporal_views,
    spatial_views=spatial_views,
    places=places,
    boxes=boxes,
  )
  return Batches(
    examples if patch is None else PatchExamples(examples, patch),
    local_batch=batch_size if places is None else len(places),
    start_step=0,
    num_steps=-(-len(dataset) // batch_size),
    loading=loading,
    max_bad_records=max_bad_records,
  )
