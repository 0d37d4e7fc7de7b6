"""Indexed records -> batches of clips, as numpy arrays on the host.

A training batch is a pure function of (seed, step): stream position p is rank p % N of the
permutation of (seed, epoch p // N), and its augmentation follows (seed, epoch, row). So resuming
needs one integer, and thread count and host count change nothing.
"""

import dataclasses
import functools
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import grain
import numpy as np

from datasets import clips
from datasets import index as index_lib
from datasets import manifest as manifest_lib
from errors import ConfigError, DataError

_Array = np.ndarray[Any, np.dtype[Any]]
Batch = dict[str, Any]
"""`inputs`, `label` {task: array}, `batch_mask` and `row`, all with a leading batch axis."""

# First words of the random streams: SeedSequence pads with zeros, so (seed, epoch) and
# (seed, epoch, row 0) would otherwise be one stream.
_ORDER_STREAM, _CLIP_STREAM = 1, 2

_ENDLESS = 1 << 62


@dataclasses.dataclass(frozen=True)
class ClipConfig:
  """What to cut from a video.

  Attributes:
    frames: frames per clip, T.
    stride: distance of two sampled frames, in source frames.
    resize: shorter side in px before cropping.
    crop: side of the square output in px, at most `resize`.
    scale_jitter: range [lo, hi] of a further random scale in training, or None.
    scale_jitter_prob: probability that the jitter is applied.
    flip_prob: probability of a horizontal flip in training.
    short_clip: 'loop' or 'hold', for videos shorter than the clip.
  """

  frames: int
  stride: int
  resize: int
  crop: int
  scale_jitter: tuple[float, float] | None = None
  scale_jitter_prob: float = 1.0
  flip_prob: float = 0.0
  short_clip: str = 'loop'

  def __post_init__(self) -> None:
    """Raises ConfigError on values out of range."""
    for name in ('frames', 'stride', 'resize', 'crop'):
      _require(getattr(self, name) >= 1, f'clip.{name}', 'at least 1', getattr(self, name))
    _require(self.resize <= 4096, 'clip.resize', 'at most 4096 px', self.resize)
    _require(self.crop <= self.resize, 'clip.crop', f'<= resize ({self.resize})', self.crop)
    for name in ('scale_jitter_prob', 'flip_prob'):
      _require(0 <= getattr(self, name) <= 1, f'clip.{name}', 'in [0, 1]', getattr(self, name))
    known = clips.SHORT_CLIP
    _require(self.short_clip in known, 'clip.short_clip', f'one of {known}', self.short_clip)
    if self.scale_jitter is not None:
      jitter = tuple(self.scale_jitter)
      valid = len(jitter) == 2 and 0 < jitter[0] <= jitter[1]
      _require(valid, 'clip.scale_jitter', '(lo, hi) with 0 < lo <= hi', jitter)


def _require(condition: bool, field: str, expected: str, got: object) -> None:
  if not condition:
    raise ConfigError(f'{field}: expected {expected}, got {got!r}.')


class VideoDataset:
  """A split of a dataset directory: labels in memory, frames read on demand. Safe for threads.

  Attributes:
    directory: where the shards lie.
    split: the split's name.
    manifest: what the directory holds.
    num_frames: frames of each record, int64 [N].
  """

  def __init__(
    self, directory: str | os.PathLike[str], split: str, tasks: Mapping[str, str]
  ) -> None:
    """Opens manifest and index (building the index the first time).

    Args:
      directory: holds the shards and `manifest.json`.
      split: a split of the manifest.
      tasks: task name (a key of a batch's `label`) -> label group of the manifest.

    Raises:
      DataError: the dataset is missing or damaged, or the split or a group does not exist.
    """
    self.directory = Path(directory)
    self.split = split
    self.manifest = manifest_lib.load(directory)
    self._tasks: dict[str, manifest_lib.TaskLabels] = {}
    for task, group in tasks.items():
      if group not in self.manifest.tasks:
        raise DataError(
          f'{self.directory}: task {task!r} names the label group {group!r}; the manifest has '
          f'{sorted(self.manifest.tasks)}.'
        )
      self._tasks[task] = self.manifest.tasks[group]
    self._index = index_lib.open_index(directory, self.manifest, split)
    self._shards = self.manifest.splits[split].shards
    self.num_frames = self._index.num_frames

  def __len__(self) -> int:
    return len(self._index)

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

  def key(self, row: int) -> str:
    """Name of a record."""
    return self._index.key(row)

  def labels(self, row: int) -> dict[str, _Array]:
    """Labels of a record per task: int32 [], or float32 multi-hot [K] for a multi-label group."""
    stored = self._index.labels(row)
    result = {}
    for task, group in self._tasks.items():
      own = stored - group.offset
      own = own[(own >= 0) & (own < group.num_classes)]
      label = _empty_label(group)
      if group.multi_label:
        label[own] = 1
      else:
        label[...] = own[0]
      result[task] = label
    return result

  def empty_labels(self) -> dict[str, _Array]:
    """Zeros of the shapes of `labels`, for padding."""
    return {task: _empty_label(group) for task, group in self._tasks.items()}

  def read_frames(self, row: int, indices: Sequence[int] | _Array) -> list[_Array]:
    """Reads and decodes the given distinct, ascending frames of a record: uint8 [H, W, 3] each.

    Only the bytes from the first to the last frame are read (with large gaps left out).

    Raises:
      DataError: bytes differ from the index, or a frame cannot be decoded; the message names file,
        offset, frame and key.
    """
    chosen = np.asarray(indices, np.int64)
    offsets, lengths, crcs = (array[chosen] for array in self._index.frames(row))
    path = self.directory / self._shards[self._index.shard[row]].name

    def where(i: int) -> str:
      return f'{path}: byte {offsets[i]}, frame {chosen[i]} of {self.key(row)!r} (row {row})'

    encoded = index_lib.read_spans(path, offsets, lengths)
    for i, (data, crc) in enumerate(zip(encoded, crcs, strict=True)):
      if zlib.crc32(data) != crc:
        beside = index_lib.index_paths(self.directory, self.manifest, self.split)
        raise DataError(
          f'{where(i)}: the bytes differ from when the index was built (crc32 '
          f'{zlib.crc32(data):08x}, expected {crc:08x}): the file is damaged. Copy the shard again; '
          f'if it was rewritten on purpose, delete the index ({" or ".join(map(str, beside))}).'
        )
    return clips.decode_frames(encoded, where)


def _empty_label(group: manifest_lib.TaskLabels) -> _Array:
  return np.zeros(group.num_classes, np.float32) if group.multi_label else np.zeros((), np.int32)


class Batches:
  """Iterator over batches made by grain's threads; `close` (or leaving `with`) ends them.

  `batch_at(step)` makes any step's batch directly. `step` is the number of the next batch, all that
  has to be stored to resume; `num_steps` counts the batches of a pass, None for endless training. The end, or an error (raised by `next`), closes the iterator.
  """

  def __init__(
    self,
    example_at: Callable[[int], Batch],
    *,
    local_batch: int,
    start_step: int,
    num_steps: int | None,
    num_threads: int,
    prefetch: int,
  ):
    """Wraps `example_at(local position)`; position step * local_batch + i is example i of a step."""
    _require(num_threads >= 0, 'num_threads', 'at least 0', num_threads)
    _require(prefetch >= 0, 'prefetch', 'at least 0', prefetch)
    self._example_at = example_at
    self._local_batch = local_batch
    self.num_steps = num_steps
    self.step = start_step
    length = _ENDLESS if num_steps is None else num_steps * local_batch
    source = grain.MapDataset.source(_Source(example_at, start_step * local_batch, length))
    # Enough examples in flight for the next batches, and for every thread to have one.
    buffer = max(prefetch * local_batch, num_threads)
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=buffer)
    dataset = source.to_iter_dataset(options).batch(local_batch, batch_fn=_stack)
    self._iterator = iter(dataset)
    self._closed = False
    # OpenCV's own thread pool would compete with the reader's threads.
    cv2.setNumThreads(1)

  def __iter__(self) -> Self:
    return self

  def __next__(self) -> Batch:
    if self._closed:
      raise StopIteration
    try:
      batch = next(self._iterator)
    except BaseException:
      self.close()
      raise
    self.step += 1
    return batch

  def batch_at(self, step: int) -> Batch:
    """The batch of a step, made here and now, without moving the iterator."""
    first = step * self._local_batch
    return _stack([self._example_at(first + i) for i in range(self._local_batch)])

  def close(self) -> None:
    """Stops the threads; they end with the clip they are working on."""
    self._closed = True
    self._iterator.close()

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

  example_at: Callable[[int], Batch]
  first: int
  end: int

  def __len__(self) -> int:
    return self.end - self.first

  def __getitem__(self, position: int) -> Batch:
    return self.example_at(self.first + position)


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
  process_index: int = 0,
  process_count: int = 1,
  num_threads: int = 8,
  prefetch: int = 2,
) -> Batches:
  """Endless training batches; step s holds stream positions [s*B, (s+1)*B), epochs run on.

  Each host gets its contiguous slice of B / process_count examples: `inputs` uint8 [B,T,H,W,3] RGB,
  `label` {task: int32 [B] or float32 [B,K]}, `batch_mask` float32 [B] of ones, `row` int64 [B].

  Args:
    dataset: where to read.
    clip: what to cut.
    batch_size: global batch size B, over all processes.
    seed: non-negative; orders the epochs and draws the augmentation.
    start_step: first step to make.
    process_index: this host.
    process_count: number of hosts.
    num_threads: reading threads; 0 reads in the caller's.
    prefetch: batches to keep ready.

  Raises:
    ConfigError: a number out of range, or a batch that does not divide among the processes.
  """
  local_batch = _local_batch(batch_size, process_index, process_count)
  _require(seed >= 0, 'seed', 'at least 0', seed)
  _require(start_step >= 0, 'start_step', 'at least 0', start_step)
  size = len(dataset)

  @functools.lru_cache(maxsize=4)
  def order(epoch: int) -> _Array:
    return _rng(_ORDER_STREAM, seed, epoch).permutation(size)

  def example_at(local: int) -> Batch:
    step, i = divmod(local, local_batch)
    epoch, rank = divmod(step * batch_size + process_index * local_batch + i, size)
    row = int(order(epoch)[rank])
    rng = _rng(_CLIP_STREAM, seed, epoch, row)
    return _example(dataset, row, _train_clip(dataset, clip, row, rng))

  return Batches(
    example_at,
    local_batch=local_batch,
    start_step=start_step,
    num_steps=None,
    num_threads=num_threads,
    prefetch=prefetch,
  )


def eval_batches(
  dataset: VideoDataset,
  clip: ClipConfig,
  *,
  batch_size: int,
  temporal_views: int = 1,
  spatial_views: int = 1,
  process_index: int = 0,
  process_count: int = 1,
  num_threads: int = 8,
  prefetch: int = 2,
) -> Batches:
  """One pass over every example, in index order, without randomness.

  As `train_batches`, but `inputs` is uint8 [B,V,T,H,W,3]: V = spatial_views * temporal_views,
  crop-major (view v is crop v // temporal_views at time v % temporal_views). All hosts make
  ceil(N / B) batches; padding has `batch_mask` 0, `row` -1 and zero inputs and labels.

  Raises:
    ConfigError: a number out of range, or a batch that does not divide among the processes.
  """
  local_batch = _local_batch(batch_size, process_index, process_count)
  _require(temporal_views >= 1, 'temporal_views', 'at least 1', temporal_views)
  _require(spatial_views in (1, 3), 'spatial_views', '1 or 3', spatial_views)
  views = temporal_views * spatial_views
  padding = np.zeros((views, clip.frames, clip.crop, clip.crop, 3), np.uint8)

  def example_at(local: int) -> Batch:
    step, i = divmod(local, local_batch)
    row = step * batch_size + process_index * local_batch + i
    if row >= len(dataset):
      return _example(dataset, -1, padding)
    return _example(dataset, row, view_clips(dataset, clip, row, temporal_views, spatial_views))

  return Batches(
    example_at,
    local_batch=local_batch,
    start_step=0,
    num_steps=-(-len(dataset) // batch_size),
    num_threads=num_threads,
    prefetch=prefetch,
  )


def _local_batch(batch_size: int, process_index: int, process_count: int) -> int:
  _require(process_count >= 1, 'process_count', 'at least 1', process_count)
  in_range = 0 <= process_index < process_count
  _require(in_range, 'process_index', f'in [0, {process_count - 1}]', process_index)
  divides = batch_size >= 1 and batch_size % process_count == 0
  _require(divides, 'batch_size', f'a positive multiple of {process_count} processes', batch_size)
  return batch_size // process_count


def _rng(*words: int) -> np.random.Generator:
  return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


def _example(dataset: VideoDataset, row: int, inputs: _Array) -> Batch:
  """One example of a batch; row -1 is padding."""
  return {
    'inputs': inputs,
    'label': dataset.labels(row) if row >= 0 else dataset.empty_labels(),
    'batch_mask': np.float32(row >= 0),
    'row': np.int64(row),
  }


def _train_clip(
  dataset: VideoDataset, clip: ClipConfig, row: int, rng: np.random.Generator
) -> _Array:
  """A random clip of a record, uint8 [T, crop, crop, 3]."""
  num_frames = int(dataset.num_frames[row])
  indices = clips.train_frame_indices(rng, num_frames, clip.frames, clip.stride, clip.short_clip)
  distinct, inverse = np.unique(indices, return_inverse=True)
  frames = dataset.read_frames(row, distinct)
  window = clips.train_window(
    rng,
    frames[0].shape[0],
    frames[0].shape[1],
    resize=clip.resize,
    crop=clip.crop,
    scale_jitter=clip.scale_jitter,
    scale_jitter_prob=clip.scale_jitter_prob,
    flip_prob=clip.flip_prob,
  )
  cut = [clips.cut_window(frame, window, clip.crop) for frame in frames]
  return np.stack([cut[i] for i in inverse])


def view_clips(
  dataset: VideoDataset, clip: ClipConfig, row: int, temporal_views: int, spatial_views: int
) -> _Array:
  """All views of a record, crop-major, uint8 [V, T, crop, crop, 3]."""
  num_frames = int(dataset.num_frames[row])
  indices = clips.view_frame_indices(
    num_frames, clip.frames, clip.stride, temporal_views, clip.short_clip
  )
  distinct, inverse = np.unique(indices, return_inverse=True)
  frames = [clips.resize_short_side(x, clip.resize) for x in dataset.read_frames(row, distinct)]
  height, width = frames[0].shape[:2]
  crops = clips.spatial_crops(height, width, clip.crop, spatial_views)
  views = np.empty((len(crops), inverse.size, clip.crop, clip.crop, 3), np.uint8)
  for view, (top, left) in zip(views, crops, strict=True):
    for target, i in zip(view, inverse.ravel(), strict=True):
      target[...] = frames[i][top : top + clip.crop, left : left + clip.crop]
  # [S, V*T, H, W, 3] -> [S*V, T, H, W, 3]
  return views.reshape(-1, clip.frames, clip.crop, clip.crop, 3)
