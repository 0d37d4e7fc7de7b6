"""Objectives: what turns a model's outputs and a batch's targets into one number.

An objective is a Linen module with a field `tasks`, called with `ModelOutputs`; what else it has comes
from the config. Parameters of its own are trained under `params['objective']`, and neither the model
nor an evaluation is given them. A classmethod `check(experiment, facts)`, if its class has one, raises
ConfigError for what it cannot train.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from models.features import Features
from train_lib import losses
from train_lib.experiment import TaskConfig

Array = jax.Array


@struct.dataclass
class ModelOutputs:
  """What an objective sees.

  Attributes:
    features: of the trunk.
    logits: Task -> [B, K] float32, or [B, N, K] of boxes; of the tasks that the batch carries.
    targets: Task -> the same shapes, float32, one-hot or multi-hot, mixed when mixup is on.
    masks: Task -> [B] or [B, N] float32, the weight of the label: 1, 0 where the example does not
      carry the task or the box is padding, in between where clips of several datasets are mixed.
  """

  features: Features
  logits: Mapping[str, Array]
  targets: Mapping[str, Array]
  masks: Mapping[str, Array]


def per_example_loss(task: TaskConfig, logits: Array, targets: Array) -> Array:
  """Loss of every example, [B] or [B, N] float32, with the task's label smoothing (Eq. 11)."""
  targets = losses.smooth_labels(targets, task.label_smoothing)
  if task.loss == 'softmax':
    return losses.softmax_cross_entropy(logits, targets)
  return losses.sigmoid_cross_entropy(logits, targets)


class WeightedSum(nn.Module):
  """Sum over the batch's tasks of weight times the masked mean loss.

  ViViT sums the losses of verb and noun on Epic Kitchens without weights (section 4.3), which are
  the default weights of 1.

  Attributes:
    tasks: Name -> the task; a batch may carry some of them.
  """

  tasks: Mapping[str, TaskConfig]

  def __call__(self, outputs: ModelOutputs) -> tuple[Array, dict[str, Array]]:
    """Returns the loss [] and `loss/TASK` of each task, all float32."""
    terms, total = {}, jnp.float32(0)
    for name in outputs.targets:
      task = self.tasks[name]
      values = per_example_loss(task, outputs.logits[name], outputs.targets[name])
      terms[f'loss/{name}'] = losses.weighted_mean(values, outputs.masks[name])
      total += task.weight * terms[f'loss/{name}']
    return total, terms
