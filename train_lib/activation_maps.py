"""Class activation maps: where in a clip a classifier finds the evidence for a class.

Of the activations A [N, C] of a clip's tokens and the gradient G of the class's logit with respect to
them, the map is max(0, sum_C G * A), a number a token: the gradient weighs the activations where they
are (HiResCAM, arXiv:2011.08891), so a token that the logit does not depend on has 0. Of a linear
classifier on the mean of the tokens it is their class activation map (Zhou et al., CVPR 2016), which
Figure 4 of UniFormerV2 shows, divided by N, without what is negative.

Activations are read where a block's attention reads them, after the LayerNorm before it: what a
class token collects there leaves the patches for good, so the tokens behind the last block would have
no gradient. Behind `encoder_norm` they are read too, which is what a mean pools.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from errors import ConfigError
from models.video_model import VideoModel
from train_lib.state import PyTree

Size = tuple[int, int, int]
NORM = 'norm'
"""Name of the layer behind the encoder's final norm."""

_BLOCK = re.compile(r'encoderblock_\d+')
_BEFORE_ATTENTION = re.compile(r'LayerNorm_(0|space)')  # Within a frame, where others are before.


@dataclasses.dataclass(frozen=True)
class Layer:
  """A place in a model where the activations of all of a clip's patches can be read.

  Attributes:
    name: number of the block, from 1 in the order of the forward pass, or `NORM`.
    path: of the module that gives them.
    shape: theirs, [..., N, C] of one clip, with class tokens.
    grid: (nt, nh, nw) that the patches lie on; None: `boxes` says where they are.
    boxes: int [N, 2, 3], begin and end of each token in frames and px of the clip, or None.
  """

  name: str
  path: tuple[str, ...]
  shape: tuple[int, ...]
  grid: Size | None
  boxes: np.ndarray | None

  @property
  def num_patches(self) -> int:
    """Patches of a clip."""
    return math.prod(self.grid or ()) if self.boxes is None else len(self.boxes)

  @property
  def rows(self) -> int | None:
    """1 or nt: what has at most one class token, first, is all of the clip or each frame. None: neither."""
    tokens, frames = math.prod(self.shape[:-1]), self.grid[0] if self.grid else 1
    if math.prod(self.shape[:-2]) not in (1, frames):
      return None
    return next((rows for rows in (1, frames) if tokens - self.num_patches in (0, rows)), None)


def layers_of(model: VideoModel, variables: PyTree, input_shape: Sequence[int]) -> list[Layer]:
  """The layers of a model for one clip, in the order of the forward pass, without computing.

  Blocks whose tokens are not the patches, as those of a temporal encoder over frames, are left out.

  Args:
    model: with a trunk whose blocks are called `encoderblock_I`.
    variables: its own, or their shapes and types.
    input_shape: [1, T, H, W, 3].

  Raises:
    ConfigError: The model has no such layer.
  """
  found = _norms(model, variables, input_shape)
  trunk = model.trunk
  own, boxes = trunk.grid(input_shape), None
  if own is None and hasattr(trunk, 'token_boxes'):
    boxes = trunk.token_boxes(input_shape)
  layers: list[Layer] = []
  for path, shape, grid in found:
    name = NORM if path[-1] == 'encoder_norm' else str(len(layers) + 1)
    layer = Layer(name, path, shape, grid or own, boxes)
    if layer.rows and (layer.grid or boxes is not None):
      layers.append(layer)
  if not layers:
    raise ConfigError(
      f'{type(trunk).__name__} has no block called encoderblock_I whose tokens lie on the '
      f"trunk's grid {own}: there is nothing to explain."
    )
  return layers


def _norms(
  model: VideoModel, variables: PyTree, input_shape: Sequence[int]
) -> list[tuple[tuple[str, ...], tuple[int, ...], Size | None]]:
  """(path, shape of the output, grid if its block is told one) of the norms to read, in order."""
  found: list[tuple[tuple[str, ...], tuple[int, ...], Size | None]] = []
  grids: dict[tuple[str, ...], Size] = {}

  def watch(next_fun: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
    path = tuple(context.module.path)
    if context.method_name != '__call__' or path[:1] != ('trunk',):
      return next_fun(*args, **kwargs)
    if told := [arg for arg in args if isinstance(arg, tuple)]:  # Blocks that change the grid are.
      grids[path] = told[0]
    out = next_fun(*args, **kwargs)
    of_block = _BEFORE_ATTENTION.fullmatch(path[-1]) and _BLOCK.fullmatch(path[-2])
    if of_block or path[-1] == 'encoder_norm':
      found.append((path, tuple(out.shape), grids.get(path[:-1])))
    return out

  def forward(variables: PyTree) -> Any:
    with nn.intercept_methods(watch):
      return model.apply(variables, jnp.zeros(input_shape), tasks=(), train=False)

  jax.eval_shape(forward, variables)
  return found


def choose(layers: Sequence[Layer], wanted: Sequence[str], every: int) -> list[Layer]:
  """The layers that are named, or else every `every`-th block back from the last, and `NORM`.

  Raises:
    ConfigError: There is no layer of a name.
  """
  names = [layer.name for layer in layers]
  if unknown := [name for name in wanted if name not in names]:
    raise ConfigError(f'--layers has {unknown}; the model has {", ".join(names)}.')
  blocks = [name for name in names if name != NORM]
  chosen = wanted or [*blocks[::-1][::every], NORM]
  return [layer for layer in layers if layer.name in chosen]


def make_maps(
  model: VideoModel, task: str, layers: Sequence[Layer]
) -> Callable[[PyTree, jax.Array, int], list[jax.Array]]:
  """(variables, video [1, T, H, W, 3] float32, class) -> the map of each layer.

  Maps are float32, at least 0, [nt, nh, nw] on the layer's grid, or [N] without one.
  """

  def logit(
    offsets: Mapping[tuple[str, ...], jax.Array], variables: PyTree, video: jax.Array, index: Any
  ) -> tuple[jax.Array, dict[tuple[str, ...], jax.Array]]:
    read = {}

    def add(next_fun: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
      out, path = next_fun(*args, **kwargs), tuple(context.module.path)
      if context.method_name != '__call__' or path not in offsets:
        return out
      read[path] = out
      return out + offsets[path]

    with nn.intercept_methods(add):
      _, logits = model.apply(variables, video, tasks=(task,), train=False)
    return logits[task][0, index], read

  @jax.jit
  def maps(variables: PyTree, video: jax.Array, index: int) -> list[jax.Array]:
    offsets = {layer.path: jnp.zeros(layer.shape) for layer in layers}
    gradients, read = jax.grad(logit, has_aux=True)(offsets, variables, video, index)
    return [_evidence(layer, gradients[layer.path], read[layer.path]) for layer in layers]

  return maps


def _evidence(layer: Layer, gradient: jax.Array, activation: jax.Array) -> jax.Array:
  """max(0, sum_C G * A) of the patches: [..., N, C] -> [nt, nh, nw] or [N]."""
  values = jax.nn.relu(jnp.sum(gradient * activation, -1)).reshape(layer.rows or 1, -1)
  in_a_row = layer.num_patches // len(values)
  return values[:, -in_a_row:].reshape(layer.grid or -1)  # Class tokens are first.


def spread(layer: Layer, values: np.ndarray, size: Size) -> np.ndarray:
  """A map at every pixel of a clip of `size` (T, H, W), scaled so that its largest value is 1.

  On a grid it is interpolated linearly; of tokens with boxes each pixel has the mean of those that
  cover it, 0 where none does. A map that is 0 everywhere stays so.

  Returns:
    float32 [T, H, W] in [0, 1].
  """
  if layer.boxes is None:
    volume = np.asarray(jax.image.resize(values, size, 'linear', antialias=False))
  else:
    volume, covered = np.zeros(size, np.float32), np.zeros(size, np.int32)
    for value, (begin, end) in zip(values, layer.boxes):
      inside = tuple(slice(max(b, 0), max(e, 0)) for b, e in zip(begin, end))
      volume[inside] += value
      covered[inside] += 1
    volume /= np.maximum(covered, 1)
  return volume / (volume.max() or 1.0)
