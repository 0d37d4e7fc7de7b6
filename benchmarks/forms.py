"""Compares programs: their times on this machine, or what a TPU's compiler estimates."""

import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from train_lib import hlo, libtpu
from train_lib.experiment import MeshConfig
from train_lib.mesh import make_mesh, on_mesh
from train_lib.topologies import topology

# Name -> a function and its arguments.
Programs = Mapping[str, tuple[Callable[..., Any], tuple[Any, ...]]]


def with_gradients(forward: Callable[..., Any], argnums: Any) -> Callable[..., Any]:
  """The gradients of something that needs all of what `forward` computes."""

  def loss(*arrays: Any) -> jax.Array:
    leaves = jax.tree.leaves(forward(*arrays))
    return sum(jax.numpy.sum(x.astype(jax.numpy.float32) ** 2) for x in leaves)

  return jax.grad(loss, argnums)


def measured(programs: Programs, rounds: int, alike: Iterable[str]) -> dict[str, str]:
  """Name -> milliseconds, and the ratio to the first; medians over rounds in which each runs once.

  Args:
    programs: what to run.
    rounds: how often.
    alike: the programs whose results must agree.
  """
  runs = {name: (jax.jit(function), arrays) for name, (function, arrays) in programs.items()}
  results = {name: jax.tree.leaves(run(*arrays)) for name, (run, arrays) in runs.items()}
  first, *others = alike
  for other in others:
    for a, b in zip(results[first], results[other], strict=True):
      np.testing.assert_allclose(a, b, atol=1e-3 * np.abs(a).max())
  times = [
    {name: _seconds(run, arrays) for name, (run, arrays) in runs.items()} for _ in range(rounds)
  ]
  base = next(iter(runs))
  return {
    name: f'{1e3 * statistics.median(t[name] for t in times):9.2f} ms'
    f'{statistics.median(t[name] / t[base] for t in times):9.3f} x'
    for name in runs
  }


def _seconds(run: Callable[..., Any], arrays: tuple[Any, ...]) -> float:
  start = time.perf_counter()
  jax.block_until_ready(run(*arrays))
  return time.perf_counter() - start


def estimated(programs: Programs, slice_name: str) -> dict[str, str]:
  """Name -> milliseconds by the TPU compiler's schedule, which counts no kernels, and moves.

  Moves are operations that only move data (copies and transposes) and were not fused into others.
  """
  libtpu.prepare_to_compile()
  chips = topology(slice_name)
  mesh = make_mesh(MeshConfig(data=chips.chips), chips.devices())
  whole = NamedSharding(mesh, PartitionSpec())
  rows = {}
  for name, (function, shapes) in programs.items():
    abstract = jax.tree.map(lambda x: x.update(sharding=whole), shapes)
    text = jax.jit(on_mesh(mesh, function)).lower(*abstract).compile().as_text()
    moves = re.findall(
      r'^\s+(?:ROOT )?%(?:copy|transpose)[\w.\-]* = (\S+) (?:copy|transpose|fusion)', text, re.M
    )
    size = sum(map(hlo.array_bytes, moves)) / 2**20
    cycles = 1e3 * hlo.schedule(text).cycles / chips.chip.clock
    rows[name] = f'{cycles:9.2f} ms{len(moves):6} moves of {size:6.1f} MiB'
  return rows
