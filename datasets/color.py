"""Random colour distortion: its settings, and the host's way of doing it.

On the device `train_lib.augment` distorts clips inside the compiled step. Here the same draws act as
one matrix per clip on uint8 pixels, for accelerators that have no time to spare.
"""

import dataclasses
from typing import Any, Literal

import cv2
import numpy as np

from errors import ConfigError, check_range

_Array = np.ndarray[Any, np.dtype[Any]]

LUMA = (0.2989, 0.5870, 0.1140)
"""Weights of red, green and blue in the grey value (ITU-R 601-2)."""

# Colour circle of NTSC: RGB to luma, in-phase and quadrature, in which a hue shift is a rotation.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


@dataclasses.dataclass(frozen=True)
class ColorJitterConfig:
  """Random colour distortion, once per clip, in the order brightness, saturation, contrast, hue.

  Both probabilities are 0, off, unless set. ViViT Table 7 has `prob` 0.8 for Kinetics and Moments
  in Time but gives no strengths: the defaults here are those of the DMVR video pipeline that
  Scenic's Kinetics configs use (brightness 32/255, saturation and contrast 0.6..1.4, hue 0.2), and
  those configs set `grayscale_prob`, the colour drop, to 0.1.

  Attributes:
    prob: [0, 1] probability that a clip is distorted.
    brightness: [0, 1] largest shift, as a fraction of 255.
    contrast: [0, 1] factor is drawn from 1 - contrast .. 1 + contrast.
    saturation: [0, 1] factor is drawn from 1 - saturation .. 1 + saturation.
    hue: [0, 0.5] largest shift, as a fraction of the colour circle.
    grayscale_prob: [0, 1] probability that a clip loses its colours, drawn independently.
    where: 'device', inside the compiled step, or 'host', in the reader's threads.
  """

  prob: float = 0.0
  brightness: float = 32 / 255
  contrast: float = 0.4
  saturation: float = 0.4
  hue: float = 0.2
  grayscale_prob: float = 0.0
  where: Literal['device', 'host'] = 'device'

  def __post_init__(self) -> None:
    """Raises ConfigError on values out of range."""
    for field in ('prob', 'brightness', 'contrast', 'saturation', 'hue', 'grayscale_prob'):
      high = 0.5 if field == 'hue' else 1
      check_range(type(self).__name__, field, getattr(self, field), 0, high)
    if self.where not in ('device', 'host'):
      raise ConfigError(f"color_jitter.where: expected 'device' or 'host', got {self.where!r}.")

  def active(self, where: str) -> bool:
    """Whether clips are distorted there."""
    return self.where == where and (self.prob > 0 or self.grayscale_prob > 0)


def jitter(rng: np.random.Generator, clip: _Array, config: ColorJitterConfig) -> None:
  """Distorts the colours of a clip uint8 [T, H, W, 3] in place, all frames alike.

  DEVIATION: saturation blends with the grey value and hue is a rotation in YIQ, where the device
  scales and shifts them in HSV: so that all of it is one 3x4 matrix, rounded once.
  """
  apply, drop, *strengths = rng.random(6)
  matrix = np.eye(4)
  if apply < config.prob:
    mean = cv2.mean(clip.reshape(-1, clip.shape[2], 3))[:3]  # of [T*H, W, 3]
    matrix = distortion(2 * np.array(strengths) - 1, config, np.array(mean))
  if drop < config.grayscale_prob:
    matrix = _linear(np.tile(LUMA, (3, 1))) @ matrix
  if not np.array_equal(matrix, np.eye(4)):
    for frame in clip:  # One by one they stay in the processor's cache.
      cv2.transform(frame, matrix[:3].astype(np.float32), dst=frame)


def distortion(strengths: _Array, config: ColorJitterConfig, mean: _Array) -> _Array:
  """The distortion as an affine map of RGB in [0, 255], float64 [4, 4].

  Args:
    strengths: [4] in [-1, 1]: of brightness, saturation, contrast and hue, relative to their
      ranges in `config`.
    config: the ranges.
    mean: [3] mean of the clip per channel, about which contrast scales.
  """
  brightness, saturation, contrast, hue = strengths
  matrix = np.eye(4)
  matrix[:3, 3] = 255 * config.brightness * brightness
  factor = 1 + config.saturation * saturation
  matrix = _linear(factor * np.eye(3) + (1 - factor) * np.tile(LUMA, (3, 1))) @ matrix
  factor = 1 + config.contrast * contrast
  centre = matrix[:3, :3] @ mean + matrix[:3, 3]
  matrix = _linear(factor * np.eye(3), (1 - factor) * centre) @ matrix
  angle = 2 * np.pi * config.hue * hue
  cos, sin = np.cos(angle), np.sin(angle)
  turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
  return _linear(np.linalg.inv(_YIQ) @ turn @ _YIQ) @ matrix


def _linear(matrix: _Array, shift: _Array | float = 0.0) -> _Array:
  """[3, 3] and a shift [3] as a map of homogeneous coordinates [4, 4]."""
  result = np.eye(4)
  result[:3, :3] = matrix
  result[:3, 3] = shift
  return result
