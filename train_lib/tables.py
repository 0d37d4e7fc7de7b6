"""Tables of a run for people."""

from typing import Any

from clu import parameter_overview

from train_lib.cost import Cost


def parameter_table(params: Any) -> str:
  """Name, shape and size of every parameter, with the total."""
  table: str = parameter_overview.get_parameter_overview(params, include_stats=False)
  return table


def cost_table(cost: Cost) -> str:
  """Input, parameters, tokens per stage and FLOPs of one view."""
  _, frames, height, width, _ = cost.input_shape
  lines = [
    f'input            {frames} frames x {height} x {width}',
    f'parameters       {cost.parameters:,}',
    f'GFLOPs per view  {gflops(cost.flops)}  (multiply-add = 1)',
    'tokens           sequences x length',
  ]
  lines += [
    f'  {name:<14} {sequences:>5} x {tokens:>5} = {sequences * tokens:>6,}'
    for name, sequences, tokens in cost.stages
  ]
  return '\n'.join(lines)


def gflops(flops: float) -> str:
  """FLOPs in units of 1e9: one decimal, or three significant digits below ten."""
  value = flops / 1e9
  return f'{value:,.1f}' if value >= 10 else f'{value:.3g}'
