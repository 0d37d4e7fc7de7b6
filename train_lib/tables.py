"""Tables of a run for people."""

from typing import Any

from clu import parameter_overview

from train_lib.aot import Report
from train_lib.cost import Cost


def parameter_table(params: Any) -> str:
  """Name, shape and size of every parameter, with the total."""
  table: str = parameter_overview.get_parameter_overview(params, include_stats=False)
  return table


def cost_table(cost: Cost) -> str:
  """Input, parameters, tokens per stage and FLOPs of one view."""
  _, frames, height, width, _ = cost.input_shape
  trained, total = ('', ''), cost.parameters
  if cost.training:
    total, flops = cost.training
    trained = f', in training {total:,}', f', in training {gflops(flops)}'
  lines = [
    f'input            {frames} frames x {height} x {width}',
    f'parameters       {cost.parameters:,}{trained[0]}',
    *([f'trainable        {cost.trainable:,} of {total:,}'] * (cost.trainable < total)),
    f'GFLOPs per view  {gflops(cost.flops)}{trained[1]}  (multiply-add = 1)',
    'tokens           sequences x length',
  ]
  lines += [
    f'  {name:<14} {sequences:>5} x {tokens:>5} = {sequences * tokens:>6,}'
    for name, sequences, tokens in cost.stages
  ]
  if cost.tokenisers:
    tokens = sum(count for _, count, _ in cost.tokenisers)
    parameters = sum(count for _, _, count in cost.tokenisers)
    lines.append('tokenisers       tokens, parameters')
    lines += [
      f'  {name:<14} {count:>6,} {size:>12,}'
      for name, count, size in [*cost.tokenisers, ('all', tokens, parameters)]
    ]
  return '\n'.join(lines)


def gflops(flops: float) -> str:
  """FLOPs in units of 1e9: one decimal, or three significant digits below ten."""
  value = flops / 1e9
  return f'{value:,.1f}' if value >= 10 else f'{value:.3g}'


def report_table(report: Report) -> str:
  """Memory, work and estimated time of a compiled train step."""
  memory, estimate = report.memory, report.estimate
  mesh = ' x '.join(f'{axis} {size}' for axis, size in report.mesh.items())
  gaps = ['loop bodies once'] * bool(report.loops) + ['kernels in part'] * bool(report.kernels)
  partial = f' ({", ".join(gaps)})' if gaps else ''
  lines = [
    f'{report.topology}, {report.chips} chips, {mesh}, batch {report.batch_size:,}',
    f'compiled in      {report.compile_seconds:.0f} s',
    '',
    'memory of a chip',
    f'  arguments      {_gib(memory.arguments)}',
    f'  temporaries    {_gib(memory.temporaries)}',
    f'  outputs        {_gib(memory.outputs)}, {_gib(memory.aliased).strip()} in place of arguments',
    f'  peak           {_gib(memory.peak)} of {_gib(memory.available).strip()}: '
    f'fits, {memory.free:.0%} free',
    '',
    'one step on a chip',
    f'  model          {report.model_flops / 1e12:9.3f} TFLOP, used for utilisation',
    f'  XLA counts     {report.xla_flops / 1e12:9.3f} TFLOP{partial}',
    f'  XLA counts     {report.bytes_accessed / 2**30:9.3f} GiB accessed{partial}',
    f'  Pallas kernels {report.kernels:9,}',
    *(
      f'  {kind:<14} {traffic.count:9,} x, {traffic.bytes / 1e6:,.1f} MB'
      for kind, traffic in report.collectives.items()
    ),
    '',
    'ESTIMATE, never checked on hardware',
    f'  compute        {_ms(estimate.compute)}, the model at the peak',
    f'  memory         {_ms(estimate.hbm)}, the accessed bytes at full bandwidth',
    f'  interconnect   {_ms(estimate.interconnect)}, collectives one after the other',
    f"  schedule       {_ms(estimate.schedule)}, the compiler's cycles"
    + (', without Pallas kernels' if report.kernels else ''),
    f'  step           {_ms(estimate.step)}, {"at least: " if report.kernels else ""}'
    'the largest of compute, interconnect and schedule',
    f'  utilisation    {estimate.utilisation:9.0%} of the peak'
    + (', at most' if report.kernels else ''),
  ]
  return '\n'.join(lines)


def _gib(size: int) -> str:
  return f'{size / 2**30:9.3f} GiB'


def _ms(seconds: float) -> str:
  return f'{seconds * 1e3:9.2f} ms'
