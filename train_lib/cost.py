"""What a model costs: parameters, tokens per stage, FLOPs of one view. Nothing is allocated."""

import dataclasses
import functools
import json
import math
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from train_lib import data
from train_lib.experiment import DataFacts, Experiment, parse
from train_lib.layer_rates import Group, groups
from train_lib.program import (
  build_model,
  build_objective,
  example_outputs,
  init_variables,
  input_shape,
)
from train_lib.state import OBJECTIVE, model_params


@dataclasses.dataclass(frozen=True)
class Cost:
  """Cost of one view (one clip, batch 1).

  Attributes:
    parameters: Number of parameters of the model, all heads included.
    trainable: Number of those that train, the objective's among them.
    flops: Multiply-add counted as one: XLA's count of the unoptimised program, where an FMA is
      two, halved. This is the convention that reproduces ViViT's Tables 2 and 5.
    training: The parameters and the FLOPs of a forward pass with every head and the objective, where
      the objective has parameters of its own; the model alone is what inference needs. None: as above.
    stages: (stage, sequences, tokens in each).
    tokenisers: (name, tokens, parameters) of what makes the tokens, for a trunk that has several.
    groups: Parameters that train alike, the objective's among them.
  """

  input_shape: tuple[int, ...]
  parameters: int
  trainable: int
  flops: float
  training: tuple[int, float] | None
  stages: list[tuple[str, int, int]]
  tokenisers: list[tuple[str, int, int]]
  groups: list[Group]


def cost_of(experiment: Experiment, facts: DataFacts, dataset: str) -> Cost:
  """Cost of an experiment's model on a dataset's frames, with the heads of its tasks.

  In float32, so that casts are not counted as work; heads on boxes with as many as a batch holds.
  """
  experiment = dataclasses.replace(experiment, compute_dtype='float32', host_patches=False)
  if experiment.trunk.accepts('scan_layers'):  # The body of a loop would be counted once.
    arguments = {**experiment.trunk.arguments, 'scan_layers': False}
    trunk = dataclasses.replace(experiment.trunk, arguments=arguments)
    experiment = dataclasses.replace(experiment, trunk=trunk)
  model = build_model(experiment, facts)
  shape = input_shape(experiment, dataset, 1)
  inputs = {'video': jax.ShapeDtypeStruct(shape, jnp.float32)}
  boxes, tasks = experiment.datasets[dataset].boxes, tuple(experiment.tasks_of(dataset))
  if boxes is not None:
    inputs['boxes'] = jax.ShapeDtypeStruct((1, boxes.max_boxes, 4), jnp.float32)
  objective = build_objective(experiment, facts)
  variables = nn.meta.unbox(jax.eval_shape(lambda: init_variables(experiment, model, objective)))
  parts = groups(experiment.optimizer, model.trunk, variables['params'])
  trainable = sum(sum(group.sizes.values()) for group in parts if group.factor)
  own = variables['params'].get(OBJECTIVE)
  variables['params'] = model_params(variables['params'])

  def forward(variables: Any, inputs: Any) -> Any:
    return model.apply(variables, **inputs, tasks=tasks, train=False)[1]

  def with_objective(variables: Any, own: Any, inputs: Any) -> Any:
    outputs: Any = model.apply(variables, **inputs, train=False)
    return objective.apply({'params': own}, example_outputs(*outputs))

  parameters, training = count(variables['params']), None
  if own is not None:
    training = parameters + count(own), _flops(with_objective, variables, own, inputs)
  flops = _flops(forward, variables, inputs)
  tokenisers = model.trunk.tokenisers(shape) if hasattr(model.trunk, 'tokenisers') else []
  stages = model.trunk.stages(shape)
  return Cost(shape, parameters, trainable, flops, training, stages, tokenisers, parts)


def _flops(function: Any, *inputs: Any) -> float:
  analysis: Any = jax.jit(function).lower(*inputs).cost_analysis()
  flops: float = analysis['flops'] / 2
  return flops


def count(tree: Any) -> int:
  """Number of entries of all arrays of a tree."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def metrics_of_run(workdir: Path) -> dict[str, float]:
  """What a run's model costs on a view of its first dataset, as further metrics of a sweep.

  Returns:
    `'cost/gflops'`, a multiply-add counted as one, and `'cost/parameters_millions'`, heads included.

  Raises:
    OSError: The folder has no `config.json`.
    ConfigError: That is no config.
  """
  config = json.loads((workdir / 'config.json').read_text(encoding='utf-8'))
  same = {**config, 'seed': 0, 'init_from': {**config['init_from'], 'path': ''}}
  return dict(_metrics_of(json.dumps(same)))


@functools.cache
def _metrics_of(config: str) -> dict[str, float]:
  """Counted once for all seeds."""
  experiment = parse(json.loads(config))
  facts = data.facts_or_nominal(experiment)
  cost = cost_of(experiment, facts, next(iter(experiment.datasets)))
  return {'cost/gflops': cost.flops / 1e9, 'cost/parameters_millions': cost.parameters / 1e6}
