"""Features of sliding windows over videos, as a trained model computes them."""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np

from datasets import windows
from datasets.clip_config import require
from datasets.dataset import VideoDataset
from datasets.windows import Windows
from errors import ConfigError, DataError
from train_lib.augment import normalize
from train_lib.console import progress
from train_lib.preprocessing import Preprocessing
from train_lib.state import PyTree
from train_lib.trained import Trained

Layer = Literal['pooled', 'tokens']
Collect = Callable[[str], contextlib.AbstractContextManager[None]]


class Video(NamedTuple):
  """A video to take features of.

  Attributes:
    name: Of its file of features.
    dataset: That has it.
    row: Of the dataset.
    size: Bytes of its file; 0 of a video that has no file of its own.
  """

  name: str
  dataset: VideoDataset
  row: int = 0
  size: int = 0

  @property
  def frame_rate(self) -> float:
    """Frames per second."""
    return float(self.dataset.frame_rate[self.row])

  @property
  def facts(self) -> dict[str, Any]:
    """What tells this video from another one of the same name."""
    return {
      'id': self.dataset.key(self.row),
      'split': self.dataset.split,
      'frames': int(self.dataset.num_frames[self.row]),
      'frame_rate': self.frame_rate,
      'bytes': self.size,
    }


class Features(NamedTuple):
  """Of the N windows of a video.

  Attributes:
    features: float32, [N, C] pooled; tokens [N, t, h, w, C], [N, L, C] if they lie on no one grid.
    start: When each window begins, float64 [N], in seconds.
    centre: The middle of each, float64 [N], in seconds.
    frames: The frames that were looked at, int64 [N, T].
  """

  features: np.ndarray
  start: np.ndarray
  centre: np.ndarray
  frames: np.ndarray


@dataclasses.dataclass(frozen=True)
class Settings:
  """What features are taken.

  Attributes:
    layer: `'pooled'`, what a classifier reads, or `'tokens'`.
    hop: Seconds from one window to the next; 0: half a window.
    window: Seconds of a window, for models whose clips span whole videos; 0: the whole video. Of other
      models a window is as long as a clip, and this is 0.
    views: Crops of each frame, 1 or 3; pooled features are their mean.
    batch_size: Windows computed at once.
  """

  layer: Layer = 'pooled'
  hop: float = 0.0
  window: float = 0.0
  views: int = 1
  batch_size: int = 8

  def __post_init__(self) -> None:
    """Raises ConfigError on values that are not offered."""
    require(self.layer in ('pooled', 'tokens'), 'layer', "'pooled' or 'tokens'", self.layer)
    for name in ('hop', 'window'):
      value = getattr(self, name)
      require(0 <= value < float('inf'), name, 'seconds, 0 or more', value)
    require(self.views in (1, 3), 'views', '1 or 3', self.views)
    require(self.batch_size >= 1, 'batch_size', 'at least 1', self.batch_size)
    if self.layer == 'tokens':
      require(self.views == 1, 'views', "1 for layer='tokens', which show one crop", self.views)


class Extractor:
  """Takes features of videos.

  Attributes:
    settings: What is taken.
    shown: How the videos are shown to the model.
    shape: Of the features of one window.
  """

  def __init__(self, trained: Trained, settings: Settings, dataset: str = ''):
    """Prepares a model.

    Args:
      trained: The model, which computes in float32.
      settings: What to take.
      dataset: Whose preprocessing to use, if the model was trained on several that differ in it.

    Raises:
      ConfigError: There is no such dataset, or a choice of several, or the settings do not fit its clips.
    """
    self.settings, self.shown = settings, _shown(trained, dataset)
    clip = self.shown.clip
    if settings.window and clip.sampling not in ('uniform', 'segments'):
      raise ConfigError(
        f'window={settings.window}: clips of this model are {clip.frames} frames a stride of '
        f'{clip.stride} apart, which is as long as a window is. Leave it 0.'
      )
    if settings.views > 1 and clip.fit == 'pad':
      raise ConfigError(f"views={settings.views}: the model sees whole frames (fit='pad'). Use 1.")
    self._trained, self._apply = trained, _program(trained, self.shown, settings.layer)
    batch = jax.ShapeDtypeStruct((settings.batch_size * settings.views, *clip.shape), np.uint8)
    self.shape = jax.eval_shape(self._apply, trained.variables, batch).shape[1:]

  @functools.cached_property
  def _variables(self) -> PyTree:
    return jax.device_put(self._trained.variables)

  def plan(self, video: Video) -> 'Planned':
    """What windows a video has; it is not decoded for that.

    Raises:
      DataError: Its frame rate is not known.
    """
    rate, frames = video.frame_rate, int(video.dataset.num_frames[video.row])
    if rate <= 0:
      raise DataError(
        f'{video.dataset.where}: the frame rate of {video.dataset.key(video.row)!r} (row {video.row}) '
        'is not stored, so its windows have no times. Write the records with image/frame_rate.'
      )
    clip = self.shown.clip
    span = round(self.settings.window * rate) or windows.span_of(clip, rate) or frames
    hop = max(round(self.settings.hop * rate), 1) if self.settings.hop else max(span // 2, 1)
    return Planned(video, windows.windows(frames, clip, hop, rate, span))

  def extract(
    self, planned: Sequence['Planned'], collect: Collect = lambda _: contextlib.nullcontext()
  ) -> Iterator[tuple[Video, Features]]:
    """Yields the features of each video when it is done; a bar shows the progress on a terminal.

    Args:
      planned: What to look at, in this order.
      collect: What to do about a video's DataError: a context manager, given the video's name, that
        raises it, or takes it so that the others go on.

    Raises:
      DataError: A video cannot be decoded, as `collect` leaves it.
    """
    size = self.settings.batch_size
    steps = -(-sum(plan.count for plan in planned) // size)
    stream = self._clips(planned, collect)
    chunks = iter(lambda: list(itertools.islice(stream, size)), [])
    for chunk in progress(chunks, 'windows', steps):
      values = self._compute(np.stack([clip for _, clip in chunk]))
      for (part, _), value in zip(chunk, values, strict=True):
        part.values.append(value)
        if len(part.values) == part.plan.count:
          yield part.plan.video, part.features()

  def _clips(
    self, planned: Sequence['Planned'], collect: Collect
  ) -> Iterator[tuple['_Part', np.ndarray]]:
    """Each window's clip, uint8 [views, T, H, W, 3], with the video that it is a part of."""
    clip = self.shown.clip
    for plan in planned:
      video = plan.video
      with collect(video.name):
        part = _Part(plan, windows.indices(plan.windows, clip, video.frame_rate), [])
        cut = windows.cut_views(video.dataset, video.row, clip, plan.windows, self.settings.views)
        yield from ((part, pixels) for pixels in cut)

  def _compute(self, pixels: np.ndarray) -> np.ndarray:
    """uint8 [n, views, T, H, W, 3] -> float32 [n, *shape]; of every n the program is the same."""
    n, views = pixels.shape[:2]
    batch = np.zeros((self.settings.batch_size, *pixels.shape[1:]), np.uint8)
    batch[:n] = pixels
    values = np.asarray(self._apply(self._variables, batch.reshape(-1, *pixels.shape[2:])))
    return values.reshape(-1, views, *self.shape)[:n].mean(1)


@dataclasses.dataclass(frozen=True, eq=False)
class Planned:
  """A video and its windows."""

  video: Video
  windows: Windows

  @property
  def count(self) -> int:
    """Number of windows."""
    return len(self.windows.starts)


class _Part(NamedTuple):
  """A video in work."""

  plan: Planned
  frames: np.ndarray
  values: list[np.ndarray]

  def features(self) -> Features:
    found = self.plan.windows
    start = found.starts / self.plan.video.frame_rate
    return Features(np.stack(self.values), start, found.centres, self.frames)


def fingerprint(variables: PyTree) -> str:
  """SHA-256 of a model's arrays with their names, in hexadecimal."""
  found = hashlib.sha256()
  for name, array in sorted(flax.traverse_util.flatten_dict(variables, sep='/').items()):
    found.update(f'{name} {array.dtype} {array.shape}'.encode())
    found.update(np.ascontiguousarray(array).data)
  return found.hexdigest()


def _shown(trained: Trained, dataset: str) -> Preprocessing:
  if dataset and dataset not in trained.shown:
    raise ConfigError(
      f'--dataset={dataset}: the checkpoint was trained on {sorted(trained.shown)}.'
    )
  found = {trained.shown[dataset]} if dataset else set(trained.shown.values())
  if len(found) > 1:
    raise ConfigError(
      f'The checkpoint was trained on {sorted(trained.shown)}, whose videos are cut in '
      f'{len(found)} ways: say by --dataset as which of them videos are to be shown.'
    )
  return found.pop()


def _program(
  trained: Trained, shown: Preprocessing, layer: Layer
) -> Callable[[PyTree, np.ndarray], jax.Array]:
  """(variables, uint8 clips [B, T, H, W, 3]) -> features [B, ...]."""

  def apply(variables, pixels):  # type: ignore[no-untyped-def]
    video = normalize(pixels, shown.pixels.mean, shown.pixels.std)
    features, _ = trained.model.apply(variables, video, tasks=(), train=False)
    if layer == 'pooled':
      return features.pooled.astype(jnp.float32)
    tokens = features.tokens.astype(jnp.float32)
    return tokens if features.grid is None else tokens.reshape(len(tokens), *features.grid, -1)

  return jax.jit(apply)
