"""The fixed position of a token, from the centre of its tube."""

import numpy as np


def table(centres: np.ndarray, width: int) -> np.ndarray:
  """Sines and cosines of centres in (frame, row, column), float32 [N, width].

  Each axis, in the order t, y, x, has a third of the channels: sines, then cosines, of the
  coordinate times 10000^(-j / n), j = 0 .. n - 1, with n = width // 6. What 6 does not divide is
  zeros at the end: four of ViT-L's 1024 channels, two of ViT-H's 1280. Source: the public
  implementation; the supplement only has fixed positions.

  Args:
    centres: [N, 3], in frames and pixels.
    width: at least 6.
  """
  count = width // 6
  frequencies = 10_000.0 ** (-np.arange(count) / count)
  angles = centres[:, :, None] * frequencies  # [N, 3, n]
  waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).reshape(len(centres), -1)
  return np.pad(waves, ((0, 0), (0, width - 6 * count))).astype(np.float32)
