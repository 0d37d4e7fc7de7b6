"""Objectives: what turns a model's outputs and a batch's targets into one number."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from train_lib import losses
from train_lib.experiment import TaskConfig

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class ModelOutputs:
  """What an objective sees.

  Attributes:
    features: `models.features.Features` of the trunk.
    logits: Task -> [B, K] float32, or [B, N, K] of boxes; of the tasks that the batch carries.
    targets: Task -> the same shapes, float32, one-hot or multi-hot, mixed when mixup is on.
    masks: Task -> [B] or [B, N] float32, the weight of the label: 1, 0 where the example does not
      carry the task or the box is padding, in between where clips of several datasets are mixed.
  """

  features: Any
  logits: Mapping[str, Array]
  targets: Mapping[str, Array]
  masks: Mapping[str, Array]


def per_example_loss(task: TaskConfig, logits: Array, targets: Array) -> Array:
  """Loss of every example, [B] or [B, N] float32, with the task's label smoothing (Eq. 11)."""
  targets = losses.smooth_labels(targets, task.label_smoothing)
  if task.loss == 'softmax':
    return losses.softmax_cross_entropy(logits, targets)
  return losses.sigmoid_cross_entropy(logits, targets)


def weighted_sum(
  outputs: ModelOutputs, tasks: Mapping[str, TaskConfig]
) -> tuple[Array, dict[str, Array]]:
  """Sum over the batch's tasks of weight times the masked mean loss.

  ViViT sums the losses of verb and noun on Epic Kitchens without weights (section 4.3), which are
  the default weights of 1.

  Returns:
    The scalar loss and its terms by name.
  """
  terms = {}
  for name in outputs.targets:
    values = per_example_loss(tasks[name], outputs.logits[name], outputs.targets[name])
    terms[f'loss/{name}'] = losses.weighted_mean(values, outputs.masks[name])
  total = sum((tasks[n].weight * terms[f'loss/{n}'] for n in outputs.targets), jnp.float32(0))
  return total, terms
