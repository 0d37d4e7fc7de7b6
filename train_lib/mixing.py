"""Mixup and CutMix: each clip of a batch with its partner, the batch reversed."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from errors import check_range


@dataclasses.dataclass(frozen=True)
class MixConfig:
  """Mixup (arXiv:1710.09412) and CutMix (arXiv:1905.04899), one draw for a whole batch.

  ViViT Table 7 has mixup with alpha 0.1 (EPIC) and 0.3 (SSv2).

  Attributes:
    mixup_alpha: [0, 100] lambda ~ Beta(alpha, alpha); the smaller, the nearer lambda is to 0 or 1.
      0 is off.
    cutmix_alpha: [0, 100] the same for CutMix, where lambda is the kept fraction of the frame.
    switch_prob: [0, 1] probability of CutMix rather than mixup where both are on.
    prob: [0, 1] probability that a batch is mixed at all.

  Raises:
    ConfigError: A value outside its range.
  """

  mixup_alpha: float = 0.0
  cutmix_alpha: float = 0.0
  switch_prob: float = 0.5
  prob: float = 1.0

  def __post_init__(self) -> None:
    for field in dataclasses.fields(self):
      high = 100 if field.name.endswith('alpha') else 1
      check_range(type(self).__name__, field.name, getattr(self, field.name), 0, high)


def mix(
  key: jax.Array,
  video: jax.Array,
  labels: Mapping[str, jax.Array],
  masks: Mapping[str, jax.Array],
  config: MixConfig,
) -> tuple[jax.Array, dict[str, jax.Array], dict[str, jax.Array]]:
  """Mixes a batch with its reverse (ViViT Eq. 12); CutMix's box is the same in all frames.

  Where examples of several datasets are mixed, each task's label is that of the partners that carry
  it, and its weight their share of the clip: with a clip of 0.7 of dataset A and 0.3 of B, A's loss
  counts 0.7 and B's 0.3, each against its own label. So labels remain distributions, the weights of a
  clip's labels sum to 1, and both heads learn from it. DEVIATION: MultiTrain's paper does not say how
  it mixes labels; its released code leaves B's label out and weighs A's 1, whose row then sums to
  about 0.7.

  Args:
    key: one random key.
    video: [B, T, H, W, 3] float, normalised or not. On a sharded batch a partner may come from
      another device.
    labels: task -> [B, K] one-hot, multi-hot or smoothed.
    masks: task -> [B] float, 0 where an example does not carry the task, or is padding: it is padding
      when it carries none, and one whose partner is padding stays as it is.
    config: not compiled in when both alphas or `prob` are 0.

  Returns:
    The mixed video, in its dtype; the mixed labels and the labels' weights in float32.
  """
  if not config.prob or not (config.mixup_alpha or config.cutmix_alpha):
    return video, dict(labels), dict(masks)
  height, width = video.shape[2:4]
  kept, share = draw_shares(key, height, width, config)
  real = jnp.sum(jnp.stack(list(masks.values())), 0) > 0  # [B]
  with_partner = real[::-1]
  kept = jnp.where(with_partner[:, None, None, None, None], kept[:, :, None], 1.0)
  share = jnp.where(with_partner, share, 1.0)
  carried = {task: label * masks[task][:, None] for task, label in labels.items()}
  weights = {task: real * (share * mask + (1 - share) * mask[::-1]) for task, mask in masks.items()}
  video, carried = mix_with_reverse(video, carried, kept, share[:, None])
  mixed = {task: x / jnp.maximum(weights[task], 1e-8)[:, None] for task, x in carried.items()}
  return video, mixed, weights


def draw_shares(
  key: jax.Array, height: int, width: int, config: MixConfig
) -> tuple[jax.Array, jax.Array]:
  """Draws the share of each pixel [H, W] and of the labels [] that an example keeps, in [0, 1]."""
  mix_key, switch_key, mixup_key, cutmix_key = jax.random.split(key, 4)
  share = jnp.float32(1)
  kept = jnp.ones((height, width))
  if config.mixup_alpha:
    share = jax.random.beta(mixup_key, config.mixup_alpha, config.mixup_alpha)
    kept = jnp.full((height, width), share)
  if config.cutmix_alpha:
    outside = _draw_outside(cutmix_key, height, width, config.cutmix_alpha)
    switch_prob = config.switch_prob if config.mixup_alpha else 1.0
    cutmix = jax.random.bernoulli(switch_key, switch_prob)
    kept = jnp.where(cutmix, outside, kept)
    share = jnp.where(cutmix, jnp.mean(outside), share)
  mixed = jax.random.bernoulli(mix_key, config.prob)
  return jnp.where(mixed, kept, 1.0), jnp.where(mixed, share, 1.0)


def _draw_outside(key: jax.Array, height: int, width: int, alpha: float) -> jax.Array:
  """Draws CutMix's box: [H, W] float32, 0 inside and 1 outside.

  The box has the frame's aspect and 1 - lambda of its area before it is cut at the border
  (arXiv:1905.04899, Eq. 2 and appendix A), so the share of the labels is its area as it is.
  """
  share_key, row_key, column_key = jax.random.split(key, 3)
  side = jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha))

  def span(key: jax.Array, size: int) -> jax.Array:
    half = jnp.floor(size * side).astype(jnp.int32) // 2
    middle = jax.random.randint(key, (), 0, size)
    place = jnp.arange(size)
    return (place >= middle - half) & (place < middle + half)

  box = span(row_key, height)[:, None] & span(column_key, width)[None, :]
  return 1.0 - box


def mix_with_reverse(
  inputs: jax.Array,
  labels: Mapping[str, jax.Array],
  kept: jax.Array | float,
  share: jax.Array | float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns w x + (1 - w) x[::-1] of inputs [B, ...], w = `kept`, and labels [B, K], w = `share`.

  kept, share: in [0, 1], of shapes that broadcast to the inputs and the labels.
  """

  def mixed(x: jax.Array, weight: jax.Array | float) -> jax.Array:
    return weight * x + (1 - weight) * x[::-1]

  video = mixed(inputs.astype(jnp.float32), kept).astype(inputs.dtype)
  return video, {task: mixed(x.astype(jnp.float32), share) for task, x in labels.items()}
