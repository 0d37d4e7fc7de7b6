"""Optimisers from configs: any optax direction, clipping, decoupled decay and a schedule."""

from typing import Any

import jax
import optax

from train_lib.experiment import Lengths, OptimizerConfig
from train_lib.frozen import matcher
from train_lib.layer_rates import LayerRates, path_name


def learning_rate_schedule(config: OptimizerConfig, lengths: Lengths) -> optax.Schedule:
  """Linear warm-up, then cosine or constant (ViViT, Table 7; MultiTrain, supplement 2.1).

  The update of step s (the first is 0) uses the value at s + 1, and the cosine reaches its end one
  step after the last, so that neither end is a step with a rate of zero where the lowest rate is.
  """
  lowest, highest = config.min_learning_rate, config.learning_rate
  decay_steps = lengths.total - lengths.warmup + 1
  after = (
    optax.cosine_decay_schedule(highest, decay_steps, alpha=lowest / highest if highest else 0.0)
    if config.schedule == 'cosine'
    else optax.constant_schedule(highest)
  )
  warmup = optax.linear_schedule(lowest, highest, max(lengths.warmup, 1))
  joined = optax.join_schedules([warmup, after], [lengths.warmup])
  return lambda step: joined(step + 1)


def make_optimizer(
  config: OptimizerConfig, lengths: Lengths, rates: LayerRates | None = None
) -> optax.GradientTransformation:
  """Clips, turns into a direction, decays, and scales by the learning rate, and that of each layer.

  DEVIATION: Scenic's ViViT clips per device before averaging; here the norm is that of the global
  mean gradient, so that the result does not depend on the number of devices.
  """
  parts = []
  if config.max_grad_norm:
    parts.append(optax.clip_by_global_norm(config.max_grad_norm))
  parts.append(config.rule.build())
  if config.weight_decay:
    parts.append(optax.add_decayed_weights(config.weight_decay, mask=decay_mask(config.no_decay)))
  parts.append(optax.scale_by_learning_rate(learning_rate_schedule(config, lengths)))
  if rates is not None and rates.differ:
    parts.append(
      rates.scaling()
    )  # The last, and without state: that of the others keeps its place.
  return optax.chain(*parts)


def decay_mask(no_decay: tuple[str, ...]) -> Any:
  """A function params -> tree of bool, False where a pattern matches the parameter's path.

  Raises:
    ConfigError: A pattern is not a regular expression.
  """
  matches = matcher(no_decay, 'optimizer.no_decay')

  def decays(path: Any, _: Any) -> bool:
    return not matches(path_name(path))

  return lambda params: jax.tree_util.tree_map_with_path(decays, params)
