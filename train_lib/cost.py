"""What a model costs: parameters, tokens per stage, FLOPs of one view. Nothing is allocated."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from train_lib.experiment import DataFacts, Experiment
from train_lib.program import build_model, example_inputs, input_shape


@dataclasses.dataclass(frozen=True)
class Cost:
  """Cost of one view (one clip, batch 1).

  Attributes:
    parameters: Number of parameters, all heads included.
    flops: Multiply-add counted as one: XLA's count of the unoptimised program, where an FMA is
      two, halved. This is the convention that reproduces ViViT's Tables 2 and 5.
    stages: (stage, sequences, tokens in each).
  """

  input_shape: tuple[int, ...]
  parameters: int
  flops: float
  stages: list[tuple[str, int, int]]


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
  params = abstract_params(model, jax.eval_shape(lambda: example_inputs(experiment)))

  def forward(params: Any, inputs: Any) -> Any:
    return model.apply(params, **inputs, tasks=tasks, train=False)[1]

  analysis: Any = jax.jit(forward).lower(params, inputs).cost_analysis()
  return Cost(shape, count(params['params']), analysis['flops'] / 2, model.trunk.stages(shape))


def abstract_params(model: Any, inputs: Mapping[str, Any]) -> Any:
  """Shapes of a model's variables; `inputs` are arguments of its call."""
  key = jax.random.key(0)
  return nn.meta.unbox(jax.eval_shape(lambda v: model.init(key, **v, train=False), inputs))


def count(tree: Any) -> int:
  """Number of entries of all arrays of a tree."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
