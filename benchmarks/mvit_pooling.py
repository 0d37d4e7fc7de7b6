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
import re
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import NamedSharding, PartitionSpec

from models.attention import dot_product_attention
from projects.multitrain import pooling_attention as ours
from tools import command
from train_lib import hlo
from train_lib.experiment import MeshConfig
from train_lib.mesh import make_mesh, on_mesh
from train_lib.topologies import topology

_BATCH_SIZE = flags.DEFINE_integer('batch_size', 2, 'Clips in a batch.')
_STAGES = flags.DEFINE_list('stages', ['2', '3', '4'], 'Stages of the 32x3 model, of 1 to 4.')
_SHRINK = flags.DEFINE_integer('shrink', 4, 'On this machine, divides the channels of a head.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Rounds.')
_TOPOLOGY = flags.DEFINE_string('topology', None, 'A TPU slice to compile for, such as v5e:1x1.')

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
  sizes = ours.pooled_grid(x.shape[1:4], stride)
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
  'shifts in a loop': functools.partial(heads_in_batch, ours.pool_by_shifts),
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


def programs(pool, stage: Stage) -> dict[str, Callable[..., jax.Array]]:
  """The attention, and the gradients of something that needs all of it."""
  forward = functools.partial(attention, pool, stage)
  loss = lambda *arrays: jnp.sum(forward(*arrays).astype(jnp.float32) ** 2)  # noqa: E731
  return {'forward': forward, 'and backward': jax.grad(loss, (0, 1))}


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


def measured(stage: Stage, kind: str) -> dict[str, str]:
  """Form -> milliseconds and ratio, after a check that the forms agree."""
  arrays = arguments(stage, 96 // _SHRINK.value, jnp.float32)
  runs = {name: jax.jit(programs(form, stage)[kind]) for name, form in FORMS.items()}
  results = [jax.tree.leaves(run(*arrays)) for run in runs.values()]
  for other in results[1:]:
    for a, b in zip(results[0], other):
      np.testing.assert_allclose(a, b, atol=1e-3 * np.abs(a).max())
  rounds = [
    {name: _seconds(run, arrays) for name, run in runs.items()} for _ in range(_ROUNDS.value)
  ]
  first = next(iter(FORMS))
  return {
    name: f'{1e3 * statistics.median(r[name] for r in rounds):9.2f} ms'
    f'{statistics.median(r[name] / r[first] for r in rounds):9.3f} x'
    for name in FORMS
  }


def _seconds(run: Callable[..., jax.Array], arrays) -> float:
  start = time.perf_counter()
  jax.block_until_ready(run(*arrays))
  return time.perf_counter() - start


def estimated(stage: Stage, kind: str) -> dict[str, str]:
  """Form -> milliseconds by the TPU compiler's schedule, which counts no kernels, and moves."""
  chips = topology(_TOPOLOGY.value)
  mesh = make_mesh(MeshConfig(data=chips.chips), chips.devices())
  shapes = jax.eval_shape(lambda: arguments(stage, 96, jnp.bfloat16))
  whole = NamedSharding(mesh, PartitionSpec())
  abstract = jax.tree.map(lambda x: x.update(sharding=whole), shapes)
  rows = {}
  for name, form in FORMS.items():
    lowered = jax.jit(on_mesh(mesh, programs(form, stage)[kind])).lower(*abstract)
    text = lowered.compile().as_text()
    moves = re.findall(
      r'^\s+(?:ROOT )?%(?:copy|transpose)[\w.\-]* = (\S+) (?:copy|transpose|fusion)', text, re.M
    )
    size = sum(map(hlo.array_bytes, moves)) / 2**20
    cycles = 1e3 * hlo.schedule(text).cycles / chips.chip.clock
    rows[name] = f'{cycles:9.2f} ms{len(moves):6} moves of {size:6.1f} MiB'
  return rows


def main() -> None:
  """Prints the table."""
  device = _TOPOLOGY.value or f'{jax.devices()[0].device_kind}, heads of {96 // _SHRINK.value}'
  print(f'{_BATCH_SIZE.value} clips, {device}')
  for number in _STAGES.value:
    for kind in ('forward', 'and backward'):
      rows = (estimated if _TOPOLOGY.value else measured)(STAGES[number], kind)
      for name, row in rows.items():
        print(f'stage {number}  {kind:<14}{name:<34}{row}', flush=True)


if __name__ == '__main__':
  command.run(main)
