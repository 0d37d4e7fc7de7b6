"""Photometric and policy augmentation and normalisation, inside the compiled train step.

Everything is per example under `vmap`, with one draw per clip shared by its frames, so a batch
sharded on its first axis needs no communication; only `mixing` pairs examples across the batch.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from datasets.color import LUMA, ColorJitterConfig
from train_lib.randaugment import RandAugmentConfig, apply_policy


def example_keys(key: jax.Array, positions: jax.Array) -> jax.Array:
  """One key [B] for each example, a function of `key` and its position [B] in the global batch.

  So what is drawn for an example depends neither on the batch's size nor on how the batch is split
  over devices and gradient accumulation.
  """
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, positions)


def augment(
  keys: jax.Array,
  inputs: jax.Array,
  color_jitter: ColorJitterConfig,
  rand_augment: RandAugmentConfig,
) -> jax.Array:
  """Applies colour jitter, then RandAugment, to each clip with a key of its own.

  Args:
    keys: [B] random keys, from `example_keys`.
    inputs: [B, T, H, W, 3] uint8, or float in [0, 255].
    color_jitter: colour distortion; compiled in when it is on, and on the device.
    rand_augment: policy augmentation; not compiled in when it has 0 layers.

  Returns:
    [B, T, H, W, 3] float32 in [0, 255].
  """

  def augment_clip(key: jax.Array, clip: jax.Array) -> jax.Array:
    color_key, policy_key = jax.random.split(key)
    if color_jitter.active('device'):
      clip = jitter_colors(color_key, clip, color_jitter)
    if rand_augment.num_layers:
      clip = apply_policy(policy_key, clip, rand_augment)
    return clip.astype(jnp.float32)

  return jax.vmap(augment_clip)(keys, inputs)


def normalize(
  inputs: jax.Array, mean: float | Sequence[float], std: float | Sequence[float]
) -> jax.Array:
  """Returns (inputs / 255 - mean) / std in float32.

  mean, std: scalars or one per channel, in units of the range [0, 1].
  inputs: [..., 3], or patches [..., t*h*w*3], uint8 or float in [0, 255]. mean 0.5 and std 0.5 give
    ViViT's [-1, 1].
  """
  scaled = inputs.astype(jnp.float32) / 255
  # `np.resize` repeats the channels over the pixels of a patch.
  shift, scale = (np.resize(np.asarray(x, np.float32), inputs.shape[-1:]) for x in (mean, std))
  return (scaled - shift) / scale


# --- Colour jitter ---


def jitter_colors(key: jax.Array, clip: jax.Array, config: ColorJitterConfig) -> jax.Array:
  """Distorts the colours of a clip, all frames alike, each with its configured probability.

  clip: [T, H, W, 3] uint8, or float in [0, 255]. Returns float32 in [0, 255]; what is not distorted
  is unchanged. The operations are those of tf.image, whose units the strengths are given in.
  """
  keys = jax.random.split(key, 6)
  clip = clip.astype(jnp.float32)
  shift = jax.random.uniform(keys[0], (), minval=-config.brightness, maxval=config.brightness)
  hue = jax.random.uniform(keys[3], (), minval=-config.hue, maxval=config.hue)
  distorted = clip + 255 * shift
  distorted = scale_saturation(distorted, _factor(keys[1], config.saturation))
  distorted = scale_contrast(distorted, _factor(keys[2], config.contrast))
  distorted = jnp.clip(shift_hue(distorted, hue), 0, 255)
  clip = jnp.where(jax.random.bernoulli(keys[4], config.prob), distorted, clip)
  grey = jnp.sum(clip * jnp.asarray(LUMA), axis=-1, keepdims=True)
  return jnp.where(jax.random.bernoulli(keys[5], config.grayscale_prob), grey, clip)


def _factor(key: jax.Array, spread: float) -> jax.Array:
  return jax.random.uniform(key, (), minval=1 - spread, maxval=1 + spread)


def scale_contrast(clip: jax.Array, factor: jax.Array | float) -> jax.Array:
  """Scales the distance of each channel [T, H, W, C] to its mean by `factor`.

  DEVIATION: the mean is the clip's, where tf.image takes each frame's: frames keep their relative
  brightness.
  """
  mean = jnp.mean(jnp.mean(clip, axis=(1, 2), keepdims=True), axis=0, keepdims=True)
  return mean + (clip - mean) * factor


def scale_saturation(clip: jax.Array, factor: jax.Array | float) -> jax.Array:
  """Multiplies the HSV saturation, at most 1, by `factor`, keeping hue and value. [..., 3]."""
  value = jnp.max(clip, axis=-1, keepdims=True)
  chroma = value - jnp.min(clip, axis=-1, keepdims=True)
  # Saturation is chroma / value; value <= 0 after a shift of the brightness has none.
  limit = jnp.maximum(value, 0) / jnp.maximum(chroma, 1e-6)
  return value - (value - clip) * jnp.minimum(factor, limit)


def shift_hue(clip: jax.Array, delta: jax.Array | float) -> jax.Array:
  """Turns the HSV hue by `delta` circles, keeping saturation and value. [..., 3]."""
  red, green, blue = clip[..., 0], clip[..., 1], clip[..., 2]
  value = jnp.max(clip, axis=-1)
  chroma = value - jnp.min(clip, axis=-1)
  divisor = jnp.maximum(chroma, 1e-6)
  # [0, 6] around the circle, red at 0, green at 2, blue at 4. Which channel is largest is not asked by
  # `value == red`: the compiler may compute the two in different ways, and then none would be.
  sextant = jnp.where(
    red >= jnp.maximum(green, blue),
    (green - blue) / divisor,
    jnp.where(green >= blue, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
  )
  sextant = sextant + 6 * delta

  def channel(offset: int) -> jax.Array:
    position = jnp.mod(offset + sextant, 6)
    return value - chroma * jnp.clip(jnp.minimum(position, 4 - position), 0, 1)

  return jnp.stack([channel(5), channel(3), channel(1)], axis=-1)
