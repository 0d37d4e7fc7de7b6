"""Explains what a trained classifier says of a video: a class, its probability, and where it looks."""

import dataclasses
import difflib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from datasets import clips
from datasets.dataset import VideoDataset
from errors import ConfigError
from models.video_model import VideoModel
from train_lib import activation_maps
from train_lib.activation_maps import NORM, Layer
from train_lib.augment import normalize
from train_lib.console import progress
from train_lib.eval_step import over_views, probabilities_of
from train_lib.trained import Trained

TOP1 = 'top1'


@dataclasses.dataclass(frozen=True)
class Views:
  """What a model says of a video, of the views that it is evaluated on.

  Attributes:
    pixels: uint8 [V, T, H, W, 3], crop-major.
    indices: frame numbers of each time, int64 [temporal views, T].
    logits: float32 [V, K].
    probabilities: float32 [K], of all views as evaluation averages them.
  """

  pixels: np.ndarray
  indices: np.ndarray
  logits: np.ndarray
  probabilities: np.ndarray

  @property
  def centre(self) -> slice:
    """The views that show the middle of the frames."""
    times = len(self.indices)
    first = len(self.pixels) // times // 2 * times
    return slice(first, first + times)


@dataclasses.dataclass(frozen=True)
class Explanation:
  """Where the evidence for a class is in a clip.

  Attributes:
    time: of the views' times, the one at which the class is most probable.
    frames: uint8 [T, H, W, 3], the clip at that time.
    indices: their numbers in the video, int64 [T].
    probability: of the class, for this clip alone.
    heats: layer's name -> float32 [T, H, W] in [0, 1], 0 no evidence and 1 the most of the clip; 0
      everywhere if nothing in the layer speaks for the class.
  """

  time: int
  frames: np.ndarray
  indices: np.ndarray
  probability: float
  heats: dict[str, np.ndarray]


def look(trained: Trained, task: str, video: VideoDataset) -> Views:
  """Classifies the video in row 0, one view at a time.

  Raises:
    DataError: it cannot be read.
  """
  config = trained.experiment.datasets[trained.experiment.tasks[task].dataset]
  shown = trained.shown[trained.experiment.tasks[task].dataset]
  times, crops = config.temporal_views, config.spatial_views
  pixels = clips.view_clips(video, shown.clip, 0, times, crops)
  indices = clips.view_indices(video, shown.clip, 0, times)

  @jax.jit
  def classify(variables, view):  # type: ignore[no-untyped-def]
    inputs = normalize(view[None], shown.pixels.mean, shown.pixels.std)
    return trained.model.apply(variables, inputs, tasks=(task,), train=False)[1][task][0]

  views = progress(pixels, 'views', len(pixels))
  logits = np.stack([np.asarray(classify(trained.variables, view)) for view in views])
  average = over_views(trained.experiment, task, jnp.asarray(logits)[None])[0]
  probabilities = probabilities_of(trained.experiment, task, average)
  return Views(pixels, indices, logits, np.asarray(probabilities))


def class_index(name: str, names: Sequence[str]) -> int | None:
  """The class called `name`; None for `'top1'`.

  Raises:
    ConfigError: There is no such class; the message lists the nearest names.
  """
  if name in names:
    return list(names).index(name)
  if name == TOP1:
    return None
  close = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
  nearest = f' The nearest: {close}.' if close else ''
  raise ConfigError(
    f'--class={name}: not among the {len(names)} classes of the checkpoint.{nearest}'
  )


def layers_of(trained: Trained, task: str, wanted: Sequence[str], every: int) -> list[Layer]:
  """The layers to show of a task's clips, known without computing.

  Args:
    trained: the model.
    task: the head.
    wanted: names as `activation_maps.layers_of` gives them; empty: every `every`-th block back from
      the last, of global blocks too, and `'norm'`.
    every: see `wanted`.

  Raises:
    ConfigError: The model has no tokens to map, or no such layer.
  """
  clip = trained.shown[trained.experiment.tasks[task].dataset].clip
  known = activation_maps.layers_of(_frugal(trained.model), trained.variables, (1, *clip.shape))
  return activation_maps.choose(known, wanted, every)


def explain(
  trained: Trained, task: str, views: Views, index: int, layers: Sequence[str], every: int
) -> Explanation:
  """Maps the evidence for class `index` over the centre crop of the clip that shows it best.

  Args:
    trained: the model.
    task: the head.
    views: from `look`.
    index: of the class.
    layers: as `wanted` of `layers_of`; if empty, `'norm'` is left out where its map is 0.
    every: see `layers_of`.

  Raises:
    ConfigError: As `layers_of`.
  """
  scores = probabilities_of(trained.experiment, task, jnp.asarray(views.logits[views.centre]))[
    :, index
  ]
  time = int(np.argmax(scores))
  frames = views.pixels[views.centre][time]
  pixels = trained.shown[trained.experiment.tasks[task].dataset].pixels
  video = normalize(jnp.asarray(frames)[None], pixels.mean, pixels.std)
  chosen = layers_of(trained, task, layers, every)
  make = activation_maps.make_maps(_frugal(trained.model), task, chosen)
  heats = {
    layer.name: activation_maps.spread(layer, np.asarray(values), frames.shape[:3])
    for layer, values in zip(chosen, make(trained.variables, video, index))
    # Behind the final norm a class token has left the patches, which nothing then depends on.
    if layers or len(chosen) == 1 or layer.name != NORM or np.any(values)
  }
  return Explanation(time, frames, views.indices[time], float(scores[time]), heats)


def _frugal(model: VideoModel) -> VideoModel:
  """The model that keeps no activations for the gradient, where its trunk can compute them again."""
  if not hasattr(model.trunk, 'remat'):
    return model
  return model.clone(trunk=model.trunk.clone(remat='full'))
