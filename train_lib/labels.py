"""Labels of a batch as losses and metrics take them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from train_lib import losses
from train_lib.experiment import DataFacts, Experiment

Batch = Mapping[str, Any]
Metrics = dict[str, tuple[jax.Array, jax.Array]]
"""Name -> (sum, count)."""


def targets_of(label: Mapping[str, jax.Array], facts: DataFacts) -> dict[str, jax.Array]:
  """Class numbers as one-hot rows; multi-hot rows as they are. [B, K] or [B, N, K] float32."""
  return {
    name: jax.nn.one_hot(x, facts.num_classes(name)) if x.ndim == 1 else x.astype(jnp.float32)
    for name, x in label.items()
  }


def masks_of(experiment: Experiment, batch: Batch) -> dict[str, jax.Array]:
  """1.0 for every label that counts, [B], or [B, N] of boxes."""

  def mask(name: str) -> jax.Array:
    own: jax.Array = batch['batch_mask'] * batch.get('label_mask', {}).get(name, 1.0)
    return own[:, None] * batch['box_mask'] if experiment.tasks[name].on_boxes else own

  return {name: mask(name) for name in batch['label']}


def best_is_right(
  experiment: Experiment, task: str, logits: jax.Array, targets: jax.Array
) -> tuple[str, jax.Array]:
  """`top1`: the label scores best; `hit1`, with several labels: the best class is one of them."""
  if experiment.tasks[task].loss == 'softmax':
    return 'top1', losses.top_k_correct(logits, targets, 1)
  hit = jnp.take_along_axis(targets, jnp.argmax(logits, -1)[..., None], -1)[..., 0]
  return 'hit1', hit
