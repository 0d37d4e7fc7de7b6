"""Class activation maps: where in a clip a classifier finds the evidence for a class.

Of the activations A [N, C] of a clip's tokens and the gradient G of the class's logit with respect to
them, the map is max(0, sum_C G * A), a number a token: the gradient weighs the activations where they
are (HiResCAM, arXiv:2011.08891), so a token that the logit does not depend on has 0. Of a linear
classifier on the mean of the tokens it is their class activation map (Zhou et al., CVPR 2016), which
Figure 4 of UniFormerV2 shows, divided by N, without what is negative.

Activations are read where a block's attention reads them, after the LayerNorm before it: what a
class token collects there leaves the patches for good, so the tokens behind the last block would have
no gradient. Behind `encoder_norm` they are read too, which is what a mean pools, and where a global
block of UniFormerV2 reads the keys of its attention: all that a frozen ViT gives passes there.
"""

import dataclasses
import functools
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

_BLOCK = re.compile(r'(encoderblock|global)_\d+')
# Of the patches: where a block has several, that within a frame, or that of the keys.
_BEFORE_ATTENTION = re.compile(r'LayerNorm_(0|space|context)')
_OF_KEYS = 'LayerNorm_context'
# On a CPU, XLA drops what makes `remat` wait for the backward pass, and nothing would be saved.
_COMPILER_OPTIONS = {'cpu': {'xla_disable_hlo_passes': 'cse_barrier_expander'}}
_GLOBAL, _PLAIN = 'global ', 'block '


@dataclasses.dataclass(frozen=True)
class Layer:
  """A place in a model where the activations of all of a clip's patches can be read.

  Attributes:
    name: number of the block, from 1 in the order of the forward pass; 'global 1' and so on of blocks
      that only read the others' tokens; or `NORM`.
    path: of the module that gives them.
    shape: theirs, [..., N, C] of one clip, with class tokens.
    grid: (nt, nh, nw) that the patches lie on; None: `boxes` says where they are.
    boxes: int [N, 2, 3], begin and end of each token in frames and px of the clip, or None.
    before: tokens that stand before those of the frames, as what an earlier global block made.
  """

  name: str
  path: tuple[str, ...]
  shape: tuple[int, ...]
  grid: Size | None
  boxes: np.ndarray | None
  before: int = 0

  @property
  def num_patches(self) -> int:
    """Patches of a clip."""
    return math.prod(self.grid or ()) if self.boxes is None else len(self.boxes)

  @property
  def rows(self) -> int | None:
    """1 or nt: what has at most one class token, first, is all of the clip or each frame. None: neither."""
    tokens = math.prod(self.shape[:-1]) - self.before
    frames = self.grid[0] if self.grid else 1
    if math.prod(self.shape[:-2]) not in (1, frames):
      return None
    return next((rows for rows in (1, frames) if tokens - self.num_patches in (0, rows)), None)


def layers_of(model: VideoModel, variables: PyTree, input_shape: Sequence[int]) -> list[Layer]:
  """The layers of a model for one clip, in the order of the forward pass, without computing.

  Blocks whose tokens are not the patches, as those of a temporal encoder over frames, are left out.

  Args:
    model: with a trunk whose blocks are called `encoderblock_I`, and `global_J`.
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
  count = {_PLAIN: 0, _GLOBAL: 0}
  for path, shape, grid in found:
    layer = Layer('', path, shape, grid or own, boxes, _before(path, shape, grid or own))
    if not layer.rows or (layer.grid is None and boxes is None):
      continue
    name = NORM
    if path[-1] != 'encoder_norm':
      kind = _GLOBAL if path[-1] == _OF_KEYS else _PLAIN
      count[kind] += 1
      name = f'{kind}{count[kind]}'.removeprefix(_PLAIN)
    layers.append(dataclasses.replace(layer, name=name))
  if not layers:
    raise ConfigError(
      f'{type(trunk).__name__} has no block called encoderblock_I whose tokens lie on the '
      f"trunk's grid {own}: there is nothing to explain."
    )
  return layers


def _before(path: tuple[str, ...], shape: tuple[int, ...], grid: Size | None) -> int:
  """Of keys, all frames' tokens with a class token each, how many stand before those."""
  if path[-1] != _OF_KEYS or grid is None:
    return 0
  return max(0, shape[-2] - grid[0] * (1 + grid[1] * grid[2]))


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


def title(layer: str) -> str:
  """What a picture calls the layer of a name, which `choose` takes too."""
  return f'{_PLAIN}{layer}' if layer.isdigit() else layer


def choose(layers: Sequence[Layer], wanted: Sequence[str], every: int) -> list[Layer]:
  """The layers that are named, or else every `every`-th block back from the last, and `NORM`.

  Global blocks are counted for themselves.

  Raises:
    ConfigError: There is no layer of a name.
  """
  names = [layer.name for layer in layers]
  wanted = [name.removeprefix(_PLAIN) for name in wanted]
  if unknown := [name for name in wanted if name not in names]:
    raise ConfigError(f'--layers has {unknown}; the model has {", ".join(names)}.')
  everywhere = [name for name in names if name.startswith(_GLOBAL)]
  blocks = [name for name in names if name not in (NORM, *everywhere)]
  chosen = wanted or [*blocks[::-1][::every], *everywhere[::-1][::every], NORM]
  return [layer for layer in layers if layer.name in chosen]


@jax.custom_vjp
def _tap(activation: jax.Array, evidence: jax.Array) -> jax.Array:
  """The activation [..., N, C]; the gradient of `evidence` [..., N] is sum_C G * A.

  So no activation leaves the model, which can compute them again in the backward pass.
  """
  del evidence
  return activation


def _tap_forward(activation: jax.Array, evidence: jax.Array) -> tuple[jax.Array, jax.Array]:
  del evidence
  return activation, activation


def _tap_backward(activation: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
  return gradient, jnp.sum(gradient * activation, -1, dtype=jnp.float32)


_tap.defvjp(_tap_forward, _tap_backward)


def make_maps(
  model: VideoModel, task: str, layers: Sequence[Layer]
) -> Callable[[PyTree, jax.Array, int], list[jax.Array]]:
  """(variables, video [1, T, H, W, 3] float32, class) -> the map of each layer.

  Maps are float32, at least 0, [nt, nh, nw] on the layer's grid, or [N] without one.
  """

  def logit(
    taps: Mapping[tuple[str, ...], jax.Array], variables: PyTree, video: jax.Array, index: Any
  ) -> jax.Array:
    def tap(next_fun: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
      out, path = next_fun(*args, **kwargs), tuple(context.module.path)
      tapped = context.method_name == '__call__' and path in taps
      return _tap(out, taps[path]) if tapped else out

    with nn.intercept_methods(tap):
      _, logits = model.apply(variables, video, tasks=(task,), train=False)
    return logits[task][0, index]

  @functools.partial(jax.jit, compiler_options=_COMPILER_OPTIONS.get(jax.default_backend()))
  def maps(variables: PyTree, video: jax.Array, index: int) -> list[jax.Array]:
    taps = {layer.path: jnp.zeros(layer.shape[:-1]) for layer in layers}
    evidence = jax.grad(logit)(taps, variables, video, index)
    return [_map(layer, evidence[layer.path]) for layer in layers]

  return maps


def _map(layer: Layer, evidence: jax.Array) -> jax.Array:
  """What of the tokens' evidence [..., N] speaks for the class, of the patches: [nt, nh, nw] or [N]."""
  values = jax.nn.relu(evidence).reshape(-1)[layer.before :].reshape(layer.rows or 1, -1)
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
