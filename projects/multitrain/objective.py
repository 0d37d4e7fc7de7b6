"""MultiTrain's objective: informative loss, projection loss and uncertainty weights.

Multi-dataset Training of Transformers for Robust Action Recognition (NeurIPS 2022), section 3.2.
"""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from errors import ConfigError, check_integer, check_range
from models.layers import Mlp, partitioned
from projects.multitrain import losses
from train_lib.experiment import DataFacts, Experiment, TaskConfig
from train_lib.losses import weighted_mean
from train_lib.objective import ModelOutputs, per_example_loss

Array = jax.Array
Terms = dict[str, Array]


class MultiTrain(nn.Module):
  """Variance and covariance of an embedding, and a loss of each task that others' logits take part in.

  Task k's logits Y_k are joined by linear projections W_ik Y_i of the raw logits of every task i of
  another dataset; tasks of one dataset (such as verb and noun) do not project to each other. Heads are
  of clips, their losses softmax or sigmoid. In a batch without labels of a task all its terms are 0.

  Statistics are over the examples that a step differentiates together: the batch of all hosts, or with
  `grad_accumulation` each of its parts. Padding does not enter them. They are float32, as is the
  expander, whatever the trunk computes in.

  Parameters, none of which inference needs: `expander`, `from_TASK/to_TASK` [C_i, C_k] and
  `log_sigma_TASK`. `optimizer.inactive_heads` does not freeze them; set it to 'decay', because a head has
  gradients through its projections also in a batch without its dataset.

  Attributes:
    tasks: Name -> the task; its `weight` is a factor of L_k.
    projection: `'added'`: Y_k + w sum_i W_ik Y_i enters one loss (Eq. 4-5). `'separate'`: Y_k has its
      loss, and w times the mean over i of the losses of W_ik Y_i is added, as in the released code.
      `'none'`: Y_k alone.
    projection_weight: w above.
    variance_weight: Factor of Eq. 2; paper 1, released code 2.5. With both factors 0 there is no
      expander.
    covariance_weight: Factor of Eq. 3; paper 1, released code 0.1.
    expander_size: Hidden width of the two-layer MLP (exact GELU) between the clip's features and the
      embedding of their width; paper 2048, released code 4096.
    uncertainty: Whether tasks are weighted by a learned sigma, 1 at first (Eq. 6).
      DEVIATION: of a batch without the task Eq. 6 would keep log sigma, which alone lowers sigma
      without end; here the whole term is 0. The released code has sigma^2 as an unconstrained
      parameter that no optimiser is given, off by default.
    average: See `losses.average_loss`.
  """

  tasks: Mapping[str, TaskConfig]
  projection: Literal['added', 'separate', 'none'] = 'added'
  projection_weight: float = 1.0
  variance_weight: float = 1.0
  covariance_weight: float = 1.0
  expander_size: int = 2048
  uncertainty: bool = True
  average: Literal['dataset', 'batch'] = 'dataset'

  @nn.compact
  def __call__(self, outputs: ModelOutputs) -> tuple[Array, Terms]:
    """Returns the loss [] and its terms, all float32.

    `variance` and `covariance` are Eq. 2 and 3; `loss/TASK` is the mean loss of the task's own examples
    (with `'added'` of Y'), whatever `average`; `projection/TASK`, of `'separate'`, the mean over sources
    and examples; `sigma/TASK`. None has its weight in it.
    """
    real = jnp.any(jnp.stack([mask > 0 for mask in outputs.masks.values()]), 0)
    total, terms = self._informative(outputs.features.pooled, real)
    projected = self._project(outputs.logits)
    for name, task in self.tasks.items():
      values = self._values(name, outputs, projected[name])
      mask = outputs.masks[name]
      terms |= {f'{term}/{name}': weighted_mean(x, mask) for term, x in values.items()}
      weights = {'loss': 1.0, 'projection': self.projection_weight}
      combined = sum(weights[term] * x for term, x in values.items())
      loss = task.weight * losses.average_loss(combined, mask, real, self.average)
      if self.uncertainty:
        log_sigma = self.param(f'log_sigma_{name}', nn.initializers.zeros, ())
        terms[f'sigma/{name}'] = jnp.exp(log_sigma)
        loss = jnp.any(mask > 0) * losses.uncertainty_weighted(loss, log_sigma)
      total += loss
    return total, terms

  def _informative(self, pooled: Array, real: Array) -> tuple[Array, Terms]:
    """The weighted sum of both losses, and each by name; nothing where both weights are 0."""
    if not (self.variance_weight or self.covariance_weight):
      return jnp.float32(0), {}
    expander = Mlp(self.expander_size, gelu='erf', name='expander')
    embedding = expander(pooled.astype(jnp.float32), train=True)
    variance = losses.variance_loss(embedding, real)
    covariance = losses.covariance_loss(embedding, real)
    total = self.variance_weight * variance + self.covariance_weight * covariance
    return total, {'variance': variance, 'covariance': covariance}

  def _project(self, logits: Mapping[str, Array]) -> dict[str, list[Array]]:
    """Target -> what the logits of each source project to, [B, C_target]."""
    projected: dict[str, list[Array]] = {name: [] for name in self.tasks}
    if self.projection == 'none':
      return projected
    for source, task in self.tasks.items():
      others = {n: logits[n].shape[-1] for n, t in self.tasks.items() if t.dataset != task.dataset}
      for target, values in Projections(others, name=f'from_{source}')(logits[source]).items():
        projected[target].append(values)
    return projected

  def _values(self, name: str, outputs: ModelOutputs, projected: list[Array]) -> Terms:
    """Losses of every example [B] against the task's labels: `loss`, and `projection` if separate."""
    logits, targets = outputs.logits[name], outputs.targets[name]
    task = self.tasks[name]
    if self.projection == 'added':
      logits = losses.added_logits(logits, projected, self.projection_weight)
    values = {'loss': per_example_loss(task, logits, targets)}
    if self.projection == 'separate':
      of_sources = [per_example_loss(task, x, targets) for x in projected]
      values['projection'] = jnp.mean(jnp.stack(of_sources), 0)
    return values

  @classmethod
  def check(cls, experiment: Experiment, facts: DataFacts) -> None:
    """Raises ConfigError for an argument out of range, and for data it can learn nothing from."""
    objective = experiment.objective.build(tasks=experiment.tasks)
    for name in ('projection_weight', 'variance_weight', 'covariance_weight'):
      check_range('objective', name, getattr(objective, name), 0, 1e6)
    check_integer('objective', 'expander_size', objective.expander_size, 1, 1 << 20)
    _check_datasets(experiment, objective.projection)
    for name, task in experiment.tasks.items():
      if task.on_boxes:
        raise ConfigError(
          f'`tasks.{name}` has a head on boxes, but the objective is one of whole clips: use a head of '
          'clips, or train_lib.objective:WeightedSum.'
        )
      if task.loss == 'softmax' and facts.num_classes(name) < 2:
        raise ConfigError(
          f'`tasks.{name}` has one class, {facts.class_names[name][0]!r}, in {facts.source}: a softmax '
          'loss over one class is always 0, and nothing can be projected to it. Leave '
          f'`datasets.{task.dataset}` out.'
        )
      if objective.uncertainty and not task.weight:
        raise ConfigError(
          f'`tasks.{name}.weight` is 0 and `objective.uncertainty` is set: log sigma alone would fall '
          'without end. Give the task a weight, or leave it out.'
        )
    part = experiment.batch_size // experiment.grad_accumulation
    if part < 2 and (objective.variance_weight or objective.covariance_weight):
      raise ConfigError(
        f'`batch_size` {experiment.batch_size} in `grad_accumulation` {experiment.grad_accumulation} '
        'parts gives parts of one example, which has no variance. Use at least two examples a part, '
        'or set `objective.variance_weight` and `objective.covariance_weight` to 0.'
      )


def _check_datasets(experiment: Experiment, projection: str) -> None:
  """Raises ConfigError where tasks would not meet in a batch, or have nothing to project from."""
  several = len(experiment.datasets) > 1
  if several and not experiment.mixture.mixed:
    raise ConfigError(
      f'`mixture.sampling` is {experiment.mixture.sampling!r}, but the objective relates the datasets '
      "within a batch: set it to 'mixed'."
    )
  if not several and projection != 'none':
    raise ConfigError(
      f'`objective.projection` is {projection!r}, but there is one dataset, '
      f"{next(iter(experiment.datasets))!r}: nothing projects to it. Set it to 'none'."
    )


class Projections(nn.Module):
  """Bias-free linear maps of one task's logits to other tasks' classes (Eq. 4).

  Attributes:
    num_classes: Target task -> its number of classes. Its parameter is `to_TASK` [C_source, C_target].
  """

  num_classes: Mapping[str, int]

  @nn.compact
  def __call__(self, logits: Array) -> dict[str, Any]:
    """logits [B, C_source] -> target -> [B, C_target]."""
    # As in the released code; zeros would give sources no gradient at first.
    init = partitioned(nn.initializers.normal(stddev=0.02), 'classes', 'classes')
    return {
      target: logits @ self.param(f'to_{target}', init, (logits.shape[-1], classes))
      for target, classes in self.num_classes.items()
    }
