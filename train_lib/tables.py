"""Tables of a run for people."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from clu import parameter_overview

from train_lib.aot import Report
from train_lib.cost import Cost
from train_lib.experiment import OptimizerConfig
from train_lib.layer_rates import Group


def parameter_table(params: Any) -> str:
  """Name, shape and size of every parameter, with the total."""
  table: str = parameter_overview.get_parameter_overview(params, include_stats=False)
  return table


def layer_table(config: OptimizerConfig, groups: Sequence[Group]) -> str:
  """How the parts of a model train, by depth; empty where all train alike.

  Args:
    config: The optimiser's.
    groups: The model's, from the input to the heads.
  """
  if len({group.factor for group in groups}) == 1:
    return ''
  lines = [('depth', 'parameters', 'learning rate', 'weight decay', '')]
  for group in groups:
    lines.append(
      (
        f'{group.first}' if group.first == group.last else f'{group.first}-{group.last}',
        f'{sum(group.sizes.values()):,}',
        f'x {group.factor:.4g}' if group.factor else 'frozen',
        f'{config.weight_decay:g} of {group.decaying:,}' if group.decaying else '-',
        _parts(group.sizes),
      )
    )
  widths = [max(len(line[i]) for line in lines) for i in range(4)]
  return '\n'.join(
    '  '.join(
      [line[0].ljust(widths[0]), *(x.rjust(w) for x, w in zip(line[1:4], widths[1:])), line[4]]
    ).rstrip()
    for line in lines
  )


def _parts(paths: Iterable[str]) -> str:
  """What parameters belong to, no more than fits on a line."""
  part = re.compile(r'trunk/(\w*Transformer/)?(\w+)|\w+')
  found = [part.match(path) for path in paths]
  names = list(dict.fromkeys(match[0].removeprefix('trunk/') for match in found if match))
  return ', '.join(names[:2]) + f' and {len(names) - 2} more' * (len(names) > 2)


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
