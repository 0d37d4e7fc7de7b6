"""Measures forms of TubeViT's tokeniser, and a dense one, on the tubes of Table 3.

  python -m benchmarks.tube_tokens
  python -m benchmarks.tube_tokens --topology=v5e:1x1

Each program makes the tokens of 32 frames x 224 x 224; a second one has the gradients of the kernels. They
run in turn in each round; a ratio is a program's time over that of the dense tokeniser of 2 x 16 x 16 in the
same round, and the median over rounds is reported. With `--topology` nothing is run: the table has the TPU
compiler's own estimates, and how many operations that only move data it could not fuse into others.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks import forms
from configs.common import VIT_SIZES
from configs.tubevit.trunks import TABLE3
from models import layers
from projects.tubevit.tokenising import cut_windows
from projects.tubevit.tubes import Size, Tube
from tools import command

_BATCH_SIZE = flags.DEFINE_integer('batch_size', 1, 'Clips in a batch.', allow_override=True)
_SIZE = flags.DEFINE_string('size', 'B', 'Size of the ViT.', allow_override=True)
_ROUNDS = flags.DEFINE_integer('rounds', 7, 'Rounds.', allow_override=True)
_TOPOLOGY = flags.DEFINE_string(
  'topology', None, 'A TPU slice to compile for, such as v5e:1x1.', allow_override=True
)

CLIP = (32, 224, 224)
DENSE = (2, 16, 16)
TUBES = {name: Tube(**fields) for name, fields in TABLE3.items()}

Arrays = dict[str, jax.Array]
# (video, kernel, tube, places of the kernel) -> what it gives there.
Form = Callable[[jax.Array, jax.Array, Tube, Size], jax.Array]


def gathered(video: jax.Array, kernel: jax.Array, tube: Tube, grid: Size) -> jax.Array:
  """Windows gathered axis by axis, least first, and a product: what the trunk does."""
  return cut_windows(video, tube, grid) @ kernel.reshape(-1, kernel.shape[-1])


def gathered_in_order(video: jax.Array, kernel: jax.Array, tube: Tube, grid: Size) -> jax.Array:
  """The same, first along time, then along the height, then along the width."""
  for axis, (start, step, count, size) in enumerate(
    zip(tube.start, tube.step, places(tube, grid), tube.kernel), 1
  ):
    at = start + step * np.arange(count)[:, None] + np.arange(size)
    video = jnp.take(video, at.ravel(), axis=axis, mode='clip')
  return layers.cut_patches(video, tube.kernel) @ kernel.reshape(-1, kernel.shape[-1])


def gathered_at_once(video: jax.Array, kernel: jax.Array, tube: Tube, grid: Size) -> jax.Array:
  """Windows as one gather of slices, and a product."""
  counts = places(tube, grid)
  axes = zip(tube.start, tube.step, counts)
  corners = np.meshgrid(*(start + step * np.arange(n) for start, step, n in axes), indexing='ij')
  corners = jnp.asarray(np.stack(corners, axis=-1).reshape(-1, 3))  # [N, 3]

  def windows(clip: jax.Array) -> jax.Array:
    cut = lambda at: jax.lax.dynamic_slice(clip, (*at, 0), (*tube.kernel, 3))  # noqa: E731
    return jax.vmap(cut)(corners)

  cut = jax.vmap(windows)(video).reshape(len(video), *counts, -1)
  return cut @ kernel.reshape(-1, kernel.shape[-1])


def convolved(video: jax.Array, kernel: jax.Array, tube: Tube, grid: Size) -> jax.Array:
  """A strided convolution of what the tube reaches."""
  axes = zip(tube.start, tube.step, places(tube, grid), tube.kernel)
  ends = [start + (n - 1) * step + size for start, step, n, size in axes]
  return jax.lax.conv_general_dilated(
    jax.lax.slice(video, (0, *tube.start, 0), (len(video), *ends, 3)),
    kernel,
    tube.step,
    'VALID',
    dimension_numbers=('NDHWC', 'DHWIO', 'NDHWC'),
  )


FORMS = {
  'gathered by axis': gathered,
  'gathered in order': gathered_in_order,
  'gathered at once': gathered_at_once,
  'strided convolution': convolved,
}


def places(tube: Tube, grid: Size) -> list[int]:
  """How often the kernel is applied along each axis."""
  return [n * factor for n, factor in zip(grid, tube.space_to_depth)]


def sparse(form: Form, kernels: Arrays, video: jax.Array) -> Arrays:
  """What the kernels of all tubes give."""
  return {name: form(video, kernels[name], tube, tube.grid(CLIP)) for name, tube in TUBES.items()}


def dense(kernel: jax.Array, video: jax.Array) -> jax.Array:
  """ViViT's tokens."""
  return layers.cut_patches(video, DENSE) @ kernel.reshape(-1, kernel.shape[-1])


def arguments(dtype) -> tuple[Arrays, jax.Array, jax.Array]:
  """Kernels of the tubes, the dense kernel, a batch."""
  rng, width = np.random.default_rng(0), VIT_SIZES[_SIZE.value]['hidden_size']
  make = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
  kernels = {n: make(*tube.kernel, 3, width // tube.parts) for n, tube in TUBES.items()}
  return kernels, make(*DENSE, 3, width), make(_BATCH_SIZE.value, *CLIP, 3)


def rows(kind: str) -> dict[str, str]:
  """Program -> what was measured or estimated."""
  real = not _TOPOLOGY.value
  make = functools.partial(arguments, jnp.float32 if real else jnp.bfloat16)
  kernels, kernel, video = make() if real else jax.eval_shape(make)
  name = 'dense ' + 'x'.join(map(str, DENSE))
  programs = {name: (dense, (kernel, video))}
  for form, function in FORMS.items():
    programs[form] = (functools.partial(sparse, function), (kernels, video))
  if kind != 'forward':
    programs = {k: (forms.with_gradients(f, 0), a) for k, (f, a) in programs.items()}
  if real:
    return forms.measured(programs, _ROUNDS.value, alike=FORMS)
  return forms.estimated(programs, _TOPOLOGY.value)


def main() -> None:
  """Prints the table."""
  device = _TOPOLOGY.value or jax.devices()[0].device_kind
  print(f'{_BATCH_SIZE.value} clips, ViT-{_SIZE.value}, {device}')
  for kind in ('forward', 'and backward'):
    for name, row in rows(kind).items():
      print(f'{kind:<14}{name:<22}{row}', flush=True)


if __name__ == '__main__':
  command.run(main)
