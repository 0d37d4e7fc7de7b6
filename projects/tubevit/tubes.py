"""Where the tokens of sparse video tubes lie in a clip (TubeViT supplement, Table 3).

All sizes are (t, h, w) in frames and pixels. No tube is padded: what none reaches is not seen.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from errors import ConfigError

Size = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Tube:
  """Windows of one shape at regular places of a clip, one token each.

  Attributes:
    kernel: what a window covers.
    stride: from one token to the next.
    offset: where the first window begins.
    space_to_depth: (ft, fh, fw). The kernel gives d / (ft fh fw) channels at 1 / ft, 1 / fh and 1 /
      fw of the stride, and ft x fh x fw neighbours side by side are one token of d channels, which
      so sees more of the clip with no more parameters.
    grown_from: shape of the kernel that is learned; it is interpolated to `kernel`. Tokens are as
      many, and have the centres, as if the kernel had this shape: the grown one is laid around the
      same centres, and sees zeros, the mean pixel, outside the clip (supplement, section 2).

  Raises:
    ConfigError: a size is out of range, or `space_to_depth` does not divide the stride.
  """

  kernel: Size
  stride: Size
  offset: Size = (0, 0, 0)
  space_to_depth: Size = (1, 1, 1)
  grown_from: Size | None = None

  def __post_init__(self) -> None:
    for field in dataclasses.fields(self):
      value, least = getattr(self, field.name), 0 if field.name == 'offset' else 1
      if value is not None and (len(value) != 3 or min(value) < least):
        raise ConfigError(
          f'{field.name}={value}: expected (t, h, w) in frames and pixels, each at least {least}.'
        )
    if any(size % factor for size, factor in zip(self.stride, self.space_to_depth)):
      raise ConfigError(
        f'stride={self.stride} is not divisible by space_to_depth={self.space_to_depth}: expected '
        'a multiple of it on each axis; change one of them.'
      )

  @property
  def learned(self) -> Size:
    """Shape of the kernel that is learned."""
    return self.grown_from or self.kernel

  @property
  def parts(self) -> int:
    """How often the kernel is applied for one token."""
    return math.prod(self.space_to_depth)

  @property
  def step(self) -> Size:
    """From one place of the kernel to the next: the stride over `space_to_depth`."""
    return _size(s // f for s, f in zip(self.stride, self.space_to_depth))

  @property
  def extent(self) -> Size:
    """What one token covers with the learned kernel, all parts together."""
    sizes = zip(self.learned, self.step, self.space_to_depth)
    return _size(kernel + (f - 1) * step for kernel, step, f in sizes)

  @property
  def start(self) -> Size:
    """Where the first window begins; below 0 where a grown kernel leaves the clip."""
    sizes = zip(self.offset, self.learned, self.kernel)
    return _size(offset + learned // 2 - kernel // 2 for offset, learned, kernel in sizes)

  def grid(self, clip: Sequence[int]) -> Size:
    """Tokens along each axis of a clip (T, H, W): floor((size - offset - extent) / stride) + 1."""
    sizes = zip(clip, self.offset, self.extent, self.stride)
    return _size(max(0, (size - o - e) // stride + 1) for size, o, e, stride in sizes)

  def centres(self, grid: Size) -> np.ndarray:
    """(frame, row, column) of the middle of each token of a grid, int [N, 3], t slowest.

    Clips of any length and size, and images, share these coordinates.
    """
    first = [offset + extent // 2 for offset, extent in zip(self.offset, self.extent)]
    return np.indices(grid).reshape(3, -1).T * np.asarray(self.stride) + np.asarray(first)

  def boxes(self, grid: Size) -> np.ndarray:
    """Begin and end in (frame, row, column) of what each token of a grid sees, int [N, 2, 3]."""
    begin = np.indices(grid).reshape(3, -1).T * np.asarray(self.stride) + np.asarray(self.start)
    sizes = zip(self.kernel, self.step, self.space_to_depth)
    seen = [kernel + (f - 1) * step for kernel, step, f in sizes]
    return np.stack([begin, begin + np.asarray(seen)], axis=1)


def token_boxes(tubes: Mapping[str, Tube], clip: Sequence[int]) -> np.ndarray:
  """Begin and end in (frame, row, column) of what each token sees, int [N, 2, 3], tubes by name.

  Grown kernels may reach out of the clip. Raises ConfigError as `token_grids`.
  """
  grids = token_grids(tubes, clip)
  return np.concatenate([tubes[name].boxes(grid) for name, grid in grids.items()])


def token_grids(tubes: Mapping[str, Tube], clip: Sequence[int]) -> dict[str, Size]:
  """Name -> grid of the tubes that make tokens of a clip (T, H, W), by name.

  Of an image, T = 1, these are the tubes that fit one frame; of anything longer, all.

  Raises:
    ConfigError: a tube, or the kernel that it has grown to, is larger than the clip, or none fits
      one frame. Of an image a grown kernel may be larger.
  """
  names = sorted(tubes)
  if clip[0] == 1:
    names = [name for name in names if tubes[name].offset[0] + tubes[name].extent[0] == 1]
    if not names:
      raise ConfigError(
        f'trunk.tubes: the input is an image, (T, H, W) = {tuple(clip)}, and none of '
        f'{sorted(tubes)} fits one frame. Add a tube whose kernel, space_to_depth and offset in '
        'time are 1, 1 and 0, or train on clips alone.'
      )
  grids = {name: tubes[name].grid(clip) for name in names}
  for name, grid in grids.items():
    if min(grid) < 1:
      tube = tubes[name]
      raise ConfigError(
        f'trunk.tubes.{name} leaves no token: it covers (t, h, w) = {tube.extent}, space_to_depth '
        f'included, from the offset {tube.offset}; the input is (T, H, W) = {tuple(clip)}. Make '
        f'clips longer or larger, or trunk.tubes.{name}.kernel, its stride (with space_to_depth) '
        'or its offset smaller.'
      )
  if clip[0] > 1:
    _check_grown(tubes, clip)
  return grids


def _check_grown(tubes: Mapping[str, Tube], clip: Sequence[int]) -> None:
  for name, tube in sorted(tubes.items()):
    if any(kernel > size for kernel, size in zip(tube.kernel, clip)):
      raise ConfigError(
        f'trunk.tubes.{name}.kernel={tube.kernel} is larger than the input, (T, H, W) = '
        f'{tuple(clip)}. Make it smaller, or clips longer or larger.'
      )


def _size(values) -> Size:
  t, h, w = values
  return t, h, w
