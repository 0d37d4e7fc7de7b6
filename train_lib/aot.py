"""Compiles an experiment's train step for a TPU slice that is not there, and reports on it.

The program is the one the loop runs: `build_program` on a mesh of the slice's devices, lowered with
the state and the batch as shapes. The compiler's word is final on whether it compiles, what memory
it takes and how chips communicate. Times are estimates that were never checked on hardware.
"""

import dataclasses
import re
import time
from collections.abc import Mapping
from typing import Any

import jax

from errors import DoesNotFitError
from train_lib import cost, hlo
from train_lib.program import Program
from train_lib.topologies import Chip, Topology

# How often a collective moves its bytes through a chip's links, as a ring.
_PASSES = {'all-reduce': 2}


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes on each chip.

  Attributes:
    arguments: State and batch.
    temporaries: Everything the step makes and gives up again.
    outputs: The new state and the metrics.
    aliased: Part of the outputs that takes the place of the arguments.
    peak: The larger of the compiler's peak and arguments + temporaries + outputs - aliased.
    available: What the compiler lets a program use.
  """

  arguments: int
  temporaries: int
  outputs: int
  aliased: int
  peak: int
  available: int

  @property
  def free(self) -> float:
    """Share of `available` that the peak leaves, in [0, 1]."""
    return 1 - self.peak / self.available


@dataclasses.dataclass(frozen=True)
class Estimate:
  """Estimates of a step's time, in seconds; none was ever checked on hardware.

  Attributes:
    compute: `model_flops` at the chip's peak.
    hbm: `bytes_accessed` at the memory's bandwidth.
    interconnect: All collectives one after the other, each a ring over one axis of the torus.
    schedule: The compiler's own cycle estimates; waiting for collectives and Pallas kernels are
      not in them.
    step: The largest of compute, interconnect and schedule. `hbm` is left out: the schedule has
      it, and XLA's bytes include what stays in the chip's own memory.
    utilisation: `compute / step`, the share of the chip's peak (MFU).
  """

  compute: float
  hbm: float
  interconnect: float
  schedule: float
  step: float
  utilisation: float


@dataclasses.dataclass(frozen=True)
class Report:
  """A compiled train step; all counts are of one step on one chip.

  Attributes:
    model_flops: Operations of forward and backward pass by the model's shapes: 2 x 3 x the
      multiply-adds of `train_lib.cost`. Recomputation is not in it. Utilisation uses this one.
    xla_flops: XLA's count of the compiled program. It has recomputation and the optimiser, but
      counts a loop's body once, and of Pallas kernels only what they declare.
    bytes_accessed: XLA's count, with the same gaps.
    collectives: Kind -> count and bytes, loops multiplied out.
    kernels: Pallas kernels run.
    loops: `while` loops in the program.
  """

  topology: str
  chips: int
  mesh: Mapping[str, int]
  batch_size: int
  compile_seconds: float
  memory: Memory
  model_flops: float
  xla_flops: float
  bytes_accessed: float
  collectives: Mapping[str, hlo.Traffic]
  kernels: int
  loops: int
  estimate: Estimate

  def to_json(self) -> dict[str, Any]:
    """The report as plain values, with `fits` and the free share of the memory."""
    values = {'fits': True, **dataclasses.asdict(self)}
    values['memory']['free'] = self.memory.free
    return values


def compile_step(program: Program, topology: Topology, dataset: str) -> Report:
  """Compiles the train step of a program, for batches of a dataset, on the topology's devices.

  Raises:
    DoesNotFitError: A chip's memory is too small.
  """
  lowered = program.train_step.lower(  # type: ignore[attr-defined]
    program.abstract_state, program.abstract_batch(dataset)
  )
  begin = time.monotonic()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    raise DoesNotFitError(_does_not_fit(str(error), topology)) from error
  seconds = time.monotonic() - begin
  analysis = compiled.cost_analysis()
  schedule = hlo.schedule(compiled.as_text())
  view = cost.cost_of(program.experiment, program.facts, dataset)
  batch_size = program.experiment.batch_size_of(dataset)
  model_flops = 2 * 3 * view.flops * batch_size / topology.chips
  return Report(
    topology=topology.name,
    chips=topology.chips,
    mesh=dict(program.mesh.shape),
    batch_size=batch_size,
    compile_seconds=seconds,
    memory=_memory(compiled.memory_analysis(), topology.chip),
    model_flops=model_flops,
    xla_flops=analysis['flops'],
    bytes_accessed=analysis['bytes accessed'],
    collectives=schedule.collectives,
    kernels=schedule.kernels,
    loops=schedule.loops,
    estimate=estimate(topology.chip, model_flops, analysis['bytes accessed'], schedule),
  )


def estimate(
  chip: Chip, model_flops: float, bytes_accessed: float, schedule: hlo.Schedule
) -> Estimate:
  """The roofline of a step, and what the compiler's schedule says."""
  moved = sum(_PASSES.get(kind, 1) * t.bytes for kind, t in schedule.collectives.items())
  compute = model_flops / chip.flops
  interconnect = moved / (2 * chip.link_bandwidth)  # A ring uses the links on both sides.
  scheduled = schedule.cycles / chip.clock
  step = max(compute, interconnect, scheduled)
  return Estimate(
    compute=compute,
    hbm=bytes_accessed / chip.hbm_bandwidth,
    interconnect=interconnect,
    schedule=scheduled,
    step=step,
    utilisation=compute / step,
  )


def _memory(analysis: Any, chip: Chip) -> Memory:
  arguments, temporaries = analysis.argument_size_in_bytes, analysis.temp_size_in_bytes
  outputs, aliased = analysis.output_size_in_bytes, analysis.alias_size_in_bytes
  return Memory(
    arguments=arguments,
    temporaries=temporaries,
    outputs=outputs,
    aliased=aliased,
    peak=max(analysis.peak_memory_in_bytes, arguments + temporaries + outputs - aliased),
    available=round(chip.hbm),
  )


def _does_not_fit(message: str, topology: Topology) -> str:
  """What the compiler says of the memory, and what can be done."""
  sizes = re.search(r'\(([\d.]+[KMGT])\) exceeds available \w+ \(([\d.]+[KMGT])\)', message)
  needed = f'it needs {sizes[1]} of the {sizes[2]}' if sizes else message.splitlines()[0]
  return (
    f'The train step does not fit on a chip of {topology.name}: {needed} there are. In the order of '
    'what they cost: choose fused attention, recompute blocks (`trunk.remat`), split the state '
    '(`mesh.fsdp`), split the batch (`grad_accumulation`), or take a smaller `batch_size` or a '
    'larger slice.'
  )
