"""The terms of MultiTrain's objective (Eq. 2-6), pure functions of arrays. All results are float32.

Weights of examples say which count: those of weight 0 are padding, or of another dataset.
"""

from collections.abc import Iterable
from typing import Literal

import jax
import jax.numpy as jnp

from train_lib import losses

Array = jax.Array


def variance_loss(embeddings: Array, weights: Array | None = None, epsilon: float = 1e-4) -> Array:
  """Mean over dimensions of how far the standard deviation is below 1 (Eq. 2).

  DEVIATION: Eq. 2 divides by d - 1, the number of dimensions; a variance over n examples divides by
  n - 1, as Eq. 3 and the released code do. And it adds epsilon outside the root, where it changes
  nothing but the value: inside, as in the released code, it keeps the gradient of the root finite
  where a dimension has collapsed, which is what the term is there for.

  Args:
    embeddings: [n, d] of any float type.
    weights: [n], 1 for examples that count, 0 for others; None: all count.
    epsilon: added to the variance.

  Returns:
    [] in [0, 1]; with fewer than two examples the variance is 0.
  """
  centred, freedom = _centre(embeddings, weights)
  deviation = jnp.sqrt(jnp.sum(jnp.square(centred), 0) / freedom + epsilon)
  return jnp.mean(jnp.maximum(0.0, 1 - deviation))


def covariance_loss(embeddings: Array, weights: Array | None = None) -> Array:
  """Sum of the squared covariances between dimensions, over their number d (Eq. 3).

  Args:
    embeddings: [n, d] of any float type.
    weights: [n], 1 for examples that count, 0 for others; None: all count.
  """
  centred, freedom = _centre(embeddings, weights)
  # A TPU would round to bfloat16 before it multiplies.
  covariance = jnp.matmul(centred.T, centred, precision=jax.lax.Precision.HIGHEST) / freedom
  d = len(covariance)
  return jnp.sum(jnp.square(covariance * (1 - jnp.eye(d)))) / d


def _centre(embeddings: Array, weights: Array | None) -> tuple[Array, Array]:
  """Deviations from the mean [n, d], rows of zeros where the weight is 0; and n - 1, at least 1."""
  x = embeddings.astype(jnp.float32)
  counts = (jnp.ones(len(x)) if weights is None else weights)[:, None] > 0
  n = jnp.sum(counts)
  mean = jnp.sum(jnp.where(counts, x, 0), 0) / jnp.maximum(n, 1)
  return jnp.where(counts, x - mean, 0), jnp.maximum(n - 1, 1)


def added_logits(logits: Array, projected: Iterable[Array], weight: float = 1.0) -> Array:
  """[B, C] of a dataset plus `weight` times what others' logits project to, each [B, C] (Eq. 4)."""
  return logits + weight * sum(projected, jnp.zeros_like(logits))


def average_loss(
  values: Array, weights: Array, real: Array, average: Literal['dataset', 'batch']
) -> Array:
  """A dataset's loss in a mixed batch: 0 where it has no example there.

  Args:
    values: [B] losses of all examples against the dataset's labels.
    weights: [B] of these labels; 0 for other datasets' examples.
    real: [B], 1 for examples of any dataset, 0 for padding.
    average: `'dataset'`, over the dataset's own examples (Eq. 5 of one example); `'batch'`, their sum
      over the number of all examples, as in the released code: a dataset counts by its share.
  """
  total, own = losses.weighted_sum(values, weights)
  return total / jnp.maximum(own if average == 'dataset' else jnp.sum(real), 1e-8)


def uncertainty_weighted(loss: Array, log_sigma: Array) -> Array:
  """L / (2 sigma^2) + log sigma (Eq. 6); a parameter log sigma keeps sigma positive."""
  return 0.5 * jnp.exp(-2 * log_sigma) * loss + log_sigma
