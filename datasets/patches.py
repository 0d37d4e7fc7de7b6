"""Clips cut into patches on the host, in the order in which a trunk's kernel takes their values."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from datasets.examples import Batch, Examples
from datasets.memory import Pool
from errors import ConfigError

_Array = np.ndarray[Any, np.dtype[Any]]
Patch = tuple[int, int, int]


def patch_shape(shape: Sequence[int], patch: Patch) -> tuple[int, ...]:
  """Shape of clips [..., T, H, W, 3] cut into patches of (t, h, w): [..., nt, nh, nw, t*h*w*3].

  Raises:
    ConfigError: a patch does not divide the clip.
  """
  *leading, frames, height, width, channels = shape
  size = (frames, height, width)
  if any(whole % part for whole, part in zip(size, patch, strict=True)):
    raise ConfigError(
      f'trunk.tubelet: (t, h, w) = {patch} does not divide the clip (T, H, W) = {size}; change the '
      'tubelet, the number of frames or the crop size.'
    )
  counts = (whole // part for whole, part in zip(size, patch, strict=True))
  return (*leading, *counts, int(np.prod(patch)) * channels)


def cut(clips: _Array, patch: Patch, out: _Array) -> None:
  """Writes the patches of uint8 clips [..., T, H, W, 3] to `out`, both contiguous in memory.

  Args:
    clips: what to cut.
    patch: (t, h, w) in frames and px.
    out: uint8 of `patch_shape(clips.shape, patch)`; a patch's values are in the order t, h, w, 3.
  """
  t, h, w = patch
  nt, nh, nw = out.shape[-4:-1]
  row = np.dtype(('V', w * clips.shape[-1]))  # A row of a patch is copied as one item.
  rows = clips.reshape(-1).view(row).reshape(-1, nt, t, nh, h, nw)
  out.reshape(-1).view(row).reshape(-1, nt, nh, nw, t, h)[...] = rows.transpose(0, 1, 3, 5, 2, 4)


class PatchExamples:
  """Examples whose pixels are cut into patches, `[..., nt, nh, nw, t*h*w*3]`."""

  def __init__(self, examples: Examples, patch: Patch):
    """Cuts the clips of `examples` into patches of (t, h, w).

    Raises:
      ConfigError: a patch does not divide the clip.
    """
    self.shape = patch_shape(examples.shape, patch)
    self.per_group = examples.per_group
    self._arguments = (examples, patch)
    self._examples = examples
    self._patch = patch
    self._memory = Pool((examples.per_group, *examples.shape))

  def __reduce__(self) -> tuple[Any, ...]:
    return PatchExamples, self._arguments  # A worker process has memory of its own.

  def __call__(self, position: int, out: _Array) -> Sequence[Batch]:
    pixels = self._memory.empty()
    examples = self._examples(position, pixels)
    cut(pixels, self._patch, out)
    return examples
