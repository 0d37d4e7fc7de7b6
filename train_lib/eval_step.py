"""The compiled step of evaluation."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from models.video_model import VideoModel
from train_lib import losses
from train_lib import mesh as mesh_lib
from train_lib.augment import normalize
from train_lib.experiment import DataFacts, Experiment
from train_lib.labels import Batch, Metrics, best_is_right, masks_of, targets_of
from train_lib.objective import per_example_loss
from train_lib.state import PyTree


def make_eval_step(
  experiment: Experiment, facts: DataFacts, model: VideoModel
) -> Callable[[PyTree, Batch], dict[str, Any]]:
  """(variables, batch) -> what `Program.eval_step` says; clips are [B, V, ...], V views of each."""

  def eval_step(variables: PyTree, batch: Batch) -> dict[str, Any]:
    inputs = batch['inputs']
    b, views = inputs.shape[:2]
    video = normalize(
      inputs.reshape(b * views, *inputs.shape[2:]), experiment.pixels.mean, experiment.pixels.std
    )  # [B*V, T, H, W, 3]
    _, logits = model.apply(
      variables, video, boxes=batch.get('boxes'), tasks=tuple(batch['label']), train=False
    )
    on_boxes = {name for name in logits if experiment.tasks[name].on_boxes}
    logits = {  # Boxes have one view.
      k: v if k in on_boxes else over_views(experiment, k, v.reshape(b, views, -1))
      for k, v in logits.items()
    }
    targets, masks = targets_of(batch['label'], facts), masks_of(experiment, batch)
    for name in on_boxes:  # Detected boxes have no labels: they are for the protocol.
      masks[name] *= jnp.any(targets[name] > 0, -1)
    probabilities = {k: probabilities_of(experiment, k, v) for k, v in logits.items()}
    # By logits, not probabilities, which would tie: float32 rounds those of logits above 16.6 to 1.
    top = {
      k: jax.lax.top_k(v, min(5, v.shape[-1]))[1] for k, v in logits.items() if k not in on_boxes
    }
    return {
      'metrics': _eval_metrics(experiment, logits, targets, masks),
      'top_probabilities': {
        k: jnp.take_along_axis(probabilities[k], v, -1) for k, v in top.items()
      },
      'top_classes': top,
      'label_ranks': {
        k: losses.rank_of_label(logits[k], targets[k])
        for k in top
        if experiment.tasks[k].loss == 'softmax'
      },
      'logits': logits,
      'probabilities': probabilities,
    }

  return eval_step


def jit_eval_step(
  experiment: Experiment, facts: DataFacts, model: VideoModel, mesh: Mesh
) -> Callable[[PyTree, Batch], dict[str, Any]]:
  """The step compiled for a mesh: of evaluations in a run, and of predictions outside one."""
  step = mesh_lib.on_mesh(mesh, make_eval_step(experiment, facts, model))
  return jax.jit(step, out_shardings=mesh_lib.replicated(mesh))


def over_views(experiment: Experiment, task: str, logits: jax.Array) -> jax.Array:
  """Logits of videos [B, K] from those of their views [B, V, K].

  Their mean (ViViT, section 4.1), or those whose probabilities are the mean of the views'.
  """
  if experiment.evaluation.average == 'logits':
    return logits.mean(1)
  if experiment.tasks[task].loss == 'softmax':
    return jax.nn.logsumexp(jax.nn.log_softmax(logits), 1) - jnp.log(logits.shape[1])
  on, off = (jax.nn.logsumexp(jax.nn.log_sigmoid(x), 1) for x in (logits, -logits))
  return on - off


def _eval_metrics(
  experiment: Experiment,
  logits: Mapping[str, jax.Array],
  targets: Mapping[str, jax.Array],
  masks: Mapping[str, jax.Array],
) -> Metrics:
  metrics: Metrics = {}
  for name, task_logits in logits.items():
    task = dataclasses.replace(experiment.tasks[name], label_smoothing=0.0)
    values = per_example_loss(task, task_logits, targets[name])
    metrics[f'loss/{name}'] = losses.weighted_sum(values, masks[name])
    metric, correct = best_is_right(experiment, name, task_logits, targets[name])
    metrics[f'{metric}/{name}'] = losses.weighted_sum(correct, masks[name])
    if task.loss == 'softmax':
      correct = losses.top_k_correct(task_logits, targets[name], 5)
      metrics[f'top5/{name}'] = losses.weighted_sum(correct, masks[name])
  for name, tasks in experiment.evaluation.joint_tasks.items():
    if all(t in logits for t in tasks):
      joint, label = _joint_logits([logits[t] for t in tasks], [targets[t] for t in tasks])
      mask = jnp.prod(jnp.stack([masks[t] for t in tasks]), 0)
      for k in (1, 5):
        correct = losses.top_k_correct(joint, label, k)
        metrics[f'top{k}/{name}'] = losses.weighted_sum(correct, mask)
  return metrics


def _joint_logits(logits: list[jax.Array], targets: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
  """Scores and label of every combination of classes, flattened to [B, K1*K2*...]."""
  score, label = jax.nn.log_softmax(logits[0]), jnp.argmax(targets[0], -1)
  for task_logits, target in zip(logits[1:], targets[1:]):
    pair = score[:, :, None] + jax.nn.log_softmax(task_logits)[:, None, :]
    label = label * task_logits.shape[-1] + jnp.argmax(target, -1)
    score = pair.reshape(pair.shape[0], -1)
  return score, label


def probabilities_of(experiment: Experiment, task: str, logits: jax.Array) -> jax.Array:
  """Logits [..., K] of a task -> probabilities, by its loss: of one label, or of each by itself."""
  if experiment.tasks[task].loss == 'softmax':
    return jax.nn.softmax(logits)
  return jax.nn.sigmoid(logits)
