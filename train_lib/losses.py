"""Per-example losses and hits on logits, and their weighted sums. All results are float32."""

import jax
import jax.numpy as jnp

_EPSILON = 1e-8  # a batch of padding alone has loss 0, not 0 / 0


def smooth_labels(labels: jax.Array, smoothing: float) -> jax.Array:
  """Mixes labels [..., K], one-hot or multi-hot, with the uniform distribution: y (1 - s) + s / K.

  smoothing in [0, 1]; 0 changes nothing. Source: ViViT Eq. 11.
  """
  labels = labels.astype(jnp.float32)
  return labels * (1 - smoothing) + smoothing / labels.shape[-1]


def softmax_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Cross-entropy in nats of logits [B, K] against target distributions [B, K] -> [B]."""
  log_probs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
  return -jnp.sum(targets.astype(jnp.float32) * log_probs, axis=-1)


def sigmoid_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Binary cross-entropy in nats, summed over classes: logits, targets in [0, 1] [..., K] -> [...]."""
  logits, targets = logits.astype(jnp.float32), targets.astype(jnp.float32)
  log_on, log_off = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
  return -jnp.sum(targets * log_on + (1 - targets) * log_off, axis=-1)


def weighted_sum(
  values: jax.Array, weights: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
  """Returns (sum of values times weights, sum of weights) of [...] arrays, to add over batches.

  weights: [...], 0 for padding; None is all ones. A value of weight 0 counts for nothing even if it
  is not finite.
  """
  values = values.astype(jnp.float32)
  weights = jnp.ones_like(values) if weights is None else weights.astype(jnp.float32)
  return jnp.sum(jnp.where(weights == 0, 0.0, values * weights)), jnp.sum(weights)


def weighted_mean(values: jax.Array, weights: jax.Array | None = None) -> jax.Array:
  """Returns sum(values weights) / (sum(weights) + 1e-8) of [...] arrays -> []."""
  total, count = weighted_sum(values, weights)
  return total / (count + _EPSILON)


def rank_of_label(logits: jax.Array, label: jax.Array) -> jax.Array:
  """1 + how many other classes score at least as high as the true one -> int32 [B].

  Ties count against the model, as do NaNs, so constant logits earn nothing (`jax.lax.top_k` would
  credit the first classes).

  Args:
    logits: [B, K].
    label: [B] int class, or [B, K] one-hot; of mixed labels the largest entry counts.
  """
  if label.ndim == logits.ndim:
    label = jnp.argmax(label, axis=-1)
  true = jnp.take_along_axis(logits, label[..., None], axis=-1)
  return jnp.sum(~(logits < true), axis=-1, dtype=jnp.int32)  # the true class among them


def top_k_correct(logits: jax.Array, label: jax.Array, k: int) -> jax.Array:
  """1.0 where the true class is among the best `k` by `rank_of_label`, else 0.0 -> [B].

  Args:
    logits: see `rank_of_label`.
    label: see there.
    k: positive; every example is correct once k >= K.
  """
  return (rank_of_label(logits, label) <= k).astype(jnp.float32)
