"""Measures forms of MViT's pooling of heads within its attention.

  python -m benchmarks.mvit_pooling
  python -m benchmarks.mvit_pooling --topology=v5e:1x1 --stages=3

Each program is the attention of one block: linear layers, pooling by a form, LayerNorm, attention and
the last linear layer; a second one has the gradients of all of it. They are compiled and run in turn in
each round; a ratio is a form's time over that of the first of the same round, and the median over rounds is
reported. With `--topology` nothing is run: the table has the TPU compiler's own estimates, and how many
operations that only move data (copies and transposes) it could not fuse into others.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks import forms
from models import depthwise as ours
from models.attention import dot_product_attention
from tools import command

_BATCH_SIZE = flags.DEFINE_integer('batch_size', 2, 'Clips in a batch.', allow_override=True)
_STAGES = flags.DEFINE_list(
  'stages', ['2', '3', '4'], 'Stages of the 32x3 model, of 1 to 4.', allow_override=True
)
_SHRINK = flags.DEFINE_integer(
  'shrink', 4, 'On this machine, divides the channels of a head.', allow_override=True
)
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Rounds.', allow_override=True)
_TOPOLOGY = flags.DEFINE_string(
  'topology', None, 'A TPU slice to compile for, such as v5e:1x1.', allow_override=True
)

Form = Callable[[jax.Array, jax.Array, ours.Size], jax.Array]


@dataclasses.dataclass(frozen=True)
class Stage:
  """Sizes of a block that is not the first of its stage."""

  grid: ours.Size
  heads: int
  key_value_stride: ours.Size


STAGES = {
  '1': Stage((16, 56, 56), 1, (1, 8, 8)),
  '2': Stage((16, 28, 28), 2, (1, 4, 4)),
  '3': Stage((16, 14, 14), 4, (1, 2, 2)),
  '4': Stage((16, 7, 7), 8, (1, 1, 1)),
}


def convolution(x: jax.Array, kernel: jax.Array, stride: ours.Size) -> jax.Array:
  """Depthwise convolution of [B, T, H, W, C] in any program."""
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    stride,
    ours.half(kernel.shape[:3]),
    dimension_numbers=('NDHWC', 'DHWIO', 'NDHWC'),
    feature_group_count=x.shape[-1],
  )


def unrolled(x: jax.Array, kernel: jax.Array, stride: ours.Size) -> jax.Array:
  """One shifted copy after the other, without a loop."""
  sizes = ours.strided_grid(x.shape[1:4], stride)
  x = jnp.pad(x, ((0, 0), *ours.half(kernel.shape[:3]), (0, 0)))
  total = jnp.zeros((), x.dtype)
  for place in np.ndindex(kernel.shape[:3]):
    cells = (slice(i, i + (n - 1) * s + 1, s) for i, n, s in zip(place, sizes, stride))
    total += x[:, *cells] * kernel[place]
  return total


def heads_in_batch(form: Form, x, kernel, grid, stride) -> jax.Array:
  """x [B, heads, N, D]: a reshape before and after."""
  maps = form(x.reshape(-1, *grid, x.shape[-1]), kernel, stride)
  return maps.reshape(*x.shape[:2], -1, x.shape[-1])


def heads_in_channels(form: Form, x, kernel, grid, stride) -> jax.Array:
  """The same by one pooling of all channels, whose kernel is repeated."""
  batch, heads, _, width = x.shape
  maps = x.swapaxes(1, 2).reshape(batch, *grid, heads * width)
  maps = form(maps, jnp.tile(kernel, heads), stride)
  return maps.reshape(batch, -1, heads, width).swapaxes(1, 2)


FORMS = {
  'convolution, heads in the batch': functools.partial(heads_in_batch, convolution),
  'convolution, heads in channels': functools.partial(heads_in_channels, convolution),
  'shifts in a loop': functools.partial(heads_in_batch, ours.depthwise_by_shifts),
  'shifts unrolled': functools.partial(heads_in_batch, unrolled),
}


def attention(pool, stage: Stage, inputs: jax.Array, weights: dict[str, jax.Array]) -> jax.Array:
  """[B, N, C] -> [B, N, C]."""
  parts = []
  for name in ('query', 'key', 'value'):
    stride = (1, 1, 1) if name == 'query' else stage.key_value_stride
    x = jnp.einsum('bnc,chd->bhnd', inputs, weights[name])
    x = pool(x, weights[f'pool_{name}'], stage.grid, stride)
    parts.append(jax.nn.standardize(x.astype(jnp.float32)).astype(inputs.dtype).swapaxes(1, 2))
  attended = dot_product_attention(*parts) + parts[0]
  return jnp.einsum('bnhd,hdc->bnc', attended, weights['out'])


def arguments(stage: Stage, width: int, dtype) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Inputs, and the weights of a block whose heads have `width` channels."""
  size = stage.heads * width
  shapes = {name: (size, stage.heads, width) for name in ('query', 'key', 'value')}
  shapes |= {f'pool_{name}': (3, 3, 3, 1, width) for name in ('query', 'key', 'value')}
  shapes |= {'out': (stage.heads, width, size)}
  rng = np.random.default_rng(0)
  make = lambda shape: jnp.asarray(rng.normal(size=shape, scale=0.2), dtype)  # noqa: E731
  inputs = make((_BATCH_SIZE.value, math.prod(stage.grid), size))
  return inputs, {name: make(shape) for name, shape in shapes.items()}


def rows(stage: Stage, kind: str) -> dict[str, str]:
  """Form -> what was measured or estimated."""
  real = not _TOPOLOGY.value
  size = (96 // _SHRINK.value, jnp.float32) if real else (96, jnp.bfloat16)
  make = functools.partial(arguments, stage, *size)
  arrays = make() if real else jax.eval_shape(make)
  programs = {}
  for name, form in FORMS.items():
    forward = functools.partial(attention, form, stage)
    run = forward if kind == 'forward' else forms.with_gradients(forward, (0, 1))
    programs[name] = (run, arrays)
  if real:
    return forms.measured(programs, _ROUNDS.value, alike=FORMS)
  return forms.estimated(programs, _TOPOLOGY.value)


def main() -> None:
  """Prints the table."""
  device = _TOPOLOGY.value or f'{jax.devices()[0].device_kind}, heads of {96 // _SHRINK.value}'
  print(f'{_BATCH_SIZE.value} clips, {device}')
  for number in _STAGES.value:
    for kind in ('forward', 'and backward'):
      for name, row in rows(STAGES[number], kind).items():
        print(f'stage {number}  {kind:<14}{name:<34}{row}', flush=True)


if __name__ == '__main__':
  command.run(main)
