"""Measures ROI-Align as one matrix product, as in the models, against other forms of it.

  python -m benchmarks.roi_align
  python -m benchmarks.roi_align --topology=v5e:1x1

All forms are compiled and run in turn in each round; a form's ratio is its time over that of
`models.roi_align` of the same round, and the median over rounds is reported. With `--topology` nothing
is run: the table has the TPU compiler's own estimate of each program.
"""

import functools
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from models import roi_align as ours
from tools import command
from train_lib import hlo
from train_lib.topologies import topology

_BATCH_SIZE = flags.DEFINE_integer('batch_size', 8, 'Clips in a batch.', allow_override=True)
_BOXES = flags.DEFINE_integer('boxes', 16, 'Boxes in a clip.', allow_override=True)
_RATIO = flags.DEFINE_integer(
  'sampling_ratio', 0, 'Samples per cell and axis; 0: as the size asks.', allow_override=True
)
_ROUNDS = flags.DEFINE_integer('rounds', 7, 'Rounds.', allow_override=True)
_TOPOLOGY = flags.DEFINE_string(
  'topology', None, 'A TPU slice to compile for, such as v5e:1x1.', allow_override=True
)

SIZES = ((14, 14, 768), (32, 32, 1024))
OUTPUT = (7, 7)


def per_axis(features: jax.Array, boxes: jax.Array, ratio: int) -> jax.Array:
  """One matrix per axis instead of their product: two products with fewer operations."""
  sides = [(boxes[..., i], boxes[..., i + 2], features.shape[1 + i], OUTPUT[i]) for i in (0, 1)]
  rows, columns = (ours._axis_weights(*side, ratio, aligned=True) for side in sides)
  product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
  columns = jnp.broadcast_to(columns[:, :, None], (*rows.shape[:3], *columns.shape[2:]))
  return product('bnpqw,bnpwc->bnpqc', columns, product('bnph,bhwc->bnpwc', rows, features))


def gathered(features: jax.Array, boxes: jax.Array, ratio: int) -> jax.Array:
  """Four corners gathered a sample, one sample of every cell after the other.

  For boxes inside the map only: a cell then has no more than ceil(side / cells) samples per axis.
  """
  slots = [ratio or -(-side // cells) for side, cells in zip(features.shape[1:3], OUTPUT)]
  y, x = (_samples(boxes[..., i], boxes[..., i + 2], OUTPUT[i], ratio, slots[i]) for i in (0, 1))

  def add(total: jax.Array, slot: jax.Array) -> tuple[jax.Array, None]:
    row, column = (tuple(part[..., i] for part in a) for a, i in ((y, slot[0]), (x, slot[1])))
    return total + _bilinear(features, row, column), None

  shape = (*boxes.shape[:2], *OUTPUT, features.shape[-1])
  every = jnp.stack(jnp.meshgrid(*map(jnp.arange, slots), indexing='ij'), -1).reshape(-1, 2)
  return jax.lax.scan(add, jnp.zeros(shape, jnp.float32), every)[0]


def _samples(low, high, cells: int, ratio: int, slots: int) -> tuple[jax.Array, jax.Array]:
  """Positions of the samples and what each weighs, both [B, N, cells, slots]."""
  cell = ((high - low) / cells)[..., None, None]
  count = jnp.full_like(cell, ratio) if ratio else jnp.ceil(cell)
  index = jnp.arange(slots)
  begin = (low - 0.5)[..., None, None] + jnp.arange(cells)[:, None] * cell
  positions = begin + (index + 0.5) * cell / jnp.maximum(count, 1.0)
  weights = jnp.where(index < count, 1.0 / jnp.maximum(count, 1.0), 0.0)
  return positions, jnp.broadcast_to(weights, positions.shape)


def _bilinear(features: jax.Array, row, column) -> jax.Array:
  """One weighted sample of each cell: (positions, weights) [B, N, p] and [B, N, q] -> [B, N, p, q, C]."""
  height, width = features.shape[1:3]
  total = 0.0
  y, x = jnp.clip(row[0], 0, height - 1), jnp.clip(column[0], 0, width - 1)
  pixels = features.reshape(len(features), height * width, -1)
  for top, left in ((0, 0), (0, 1), (1, 0), (1, 1)):
    i, j = jnp.floor(y) + top, jnp.floor(x) + left
    weight = ((1 - abs(y - i)) * row[1])[..., :, None] * ((1 - abs(x - j)) * column[1])[
      ..., None, :
    ]
    i, j = jnp.minimum(i, height - 1).astype(int), jnp.minimum(j, width - 1).astype(int)
    index = i[..., :, None] * width + j[..., None, :]
    total += weight[..., None] * jax.vmap(lambda image, at: image[at])(pixels, index)
  return total


def as_in_the_models(features: jax.Array, boxes: jax.Array, ratio: int) -> jax.Array:
  """What every feature weighs in every cell of a box, times the features."""
  return ours.roi_align(features, boxes, output_size=OUTPUT, sampling_ratio=ratio)


FORMS = {'models': as_in_the_models, 'matrix per axis': per_axis, 'gather': gathered}


def programs(form: Callable[..., jax.Array]) -> dict[str, Callable[..., jax.Array]]:
  """The form, and the gradient of something that needs all of it."""
  form = functools.partial(form, ratio=_RATIO.value)
  backward = jax.grad(lambda features, boxes: (form(features, boxes) ** 2).sum())
  return {'forward': form, 'and backward': backward}


def arguments(size: tuple[int, int, int]) -> tuple[jax.Array, jax.Array]:
  """Features, and boxes inside the map."""
  rng = np.random.default_rng(0)
  features = rng.normal(size=(_BATCH_SIZE.value, *size)).astype(np.float32)
  corners = np.sort(rng.uniform(size=(_BATCH_SIZE.value, _BOXES.value, 2, 2)), axis=2)
  boxes = corners * np.array(size[:2])
  return jnp.asarray(features), jnp.asarray(boxes.reshape(*boxes.shape[:2], 4), jnp.float32)


def seconds(run: Callable[[], jax.Array]) -> float:
  """Time of one run."""
  start = time.perf_counter()
  run().block_until_ready()
  return time.perf_counter() - start


def measured(features: jax.Array, boxes: jax.Array, kind: str) -> dict[str, tuple[float, float]]:
  """Form -> (milliseconds, ratio), after a check that the forms agree."""
  runs = {
    n: functools.partial(jax.jit(programs(f)[kind]), features, boxes) for n, f in FORMS.items()
  }
  results = [run().block_until_ready() for run in runs.values()]
  for other in results[1:]:
    np.testing.assert_allclose(other, results[0], atol=1e-3, rtol=1e-3)
  rounds = [{name: seconds(run) for name, run in runs.items()} for _ in range(_ROUNDS.value)]
  first = next(iter(FORMS))
  return {
    name: (
      1e3 * statistics.median(r[name] for r in rounds),
      statistics.median(r[name] / r[first] for r in rounds),
    )
    for name in FORMS
  }


def estimated(features: jax.Array, boxes: jax.Array, kind: str) -> dict[str, tuple[float, float]]:
  """Form -> (milliseconds, ratio) by the TPU compiler's schedule, which counts no waiting."""
  chips = topology(_TOPOLOGY.value)
  sharding = jax.sharding.SingleDeviceSharding(chips.devices()[0])
  abstract = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding) for a in (features, boxes)]
  times = {}
  for name, form in FORMS.items():
    compiled = jax.jit(programs(form)[kind]).lower(*abstract).compile()
    times[name] = 1e3 * hlo.schedule(compiled.as_text()).cycles / chips.chip.clock
  first = next(iter(times.values()))
  return {name: (own, own / first) for name, own in times.items()}


def main() -> None:
  """Prints the table."""
  device = _TOPOLOGY.value or jax.devices()[0].device_kind
  print(f'{_BATCH_SIZE.value} clips with {_BOXES.value} boxes, {OUTPUT} cells, {device}')
  for size in SIZES:
    data = arguments(size)
    for kind in programs(gathered):
      table = (estimated if _TOPOLOGY.value else measured)(*data, kind)
      for name, (own, ratio) in table.items():
        print(f'{size!s:<16}{kind:<14}{name:<18}{own:9.2f} ms{ratio:9.2f} x', flush=True)


if __name__ == '__main__':
  command.run(main)
