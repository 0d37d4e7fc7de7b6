"""What to cut from a video: the settings of a clip."""

import dataclasses
import typing
from typing import Any, Literal, Self

from errors import ConfigError


@dataclasses.dataclass(frozen=True)
class ClipConfig:
  """What to cut from a video.

  Attributes:
    frames: frames per clip, T.
    stride: distance of two sampled frames; only with `sampling` 'dense' or 'keyframe'.
    resize: shorter side in px before cropping; with `fit='pad'` the longer side.
    crop: side of the square output in px.
    sampling: 'dense' (T frames a stride apart), 'uniform' (T frames from the first to the last),
      'segments' (one frame from each of T equal segments, random in training; TSN) or 'keyframe' (T
      frames a stride apart about the annotated keyframe, which is frame T // 2; beyond its ends a
      video holds its first and last frame).
    fps: frames per second that `stride` counts in, so that a clip spans the same time of every
      video; 0: each video's own frames.
    fit: 'crop' a square out of the resized frame, or 'pad' the shorter side with zeros.
    resize_jitter: range [lo, hi] in px that replaces `resize` in training, or None.
    scale_jitter: range [lo, hi] of a further random scale in training, or None.
    scale_jitter_prob: probability that the jitter is applied.
    random_crop: training's crop: 'uniform' (at a random place) or 'inception' (of random area and
      aspect ratio; `resize` and the jitters then only serve evaluation).
    crop_area: range of an inception crop's area, as a fraction of the frame's.
    crop_aspect: range of an inception crop's width / height.
    flip_prob: probability of a horizontal flip in training.
    flip_swap: pairs of class names that a flip turns into each other; a class whose name says left
      or right and that a flip does not change is paired with itself.
    repeats: clips cut from a video each time it is read in training, one after the other in the
      batch (repeated augmentation, arXiv:1901.09335).
    short_clip: 'loop' or 'hold', for videos shorter than the clip; not with `sampling='keyframe'`.
  """

  frames: int
  stride: int
  resize: int
  crop: int
  sampling: Literal['dense', 'uniform', 'segments', 'keyframe'] = 'dense'
  fps: float = 0.0
  fit: Literal['crop', 'pad'] = 'crop'
  resize_jitter: tuple[int, int] | None = None
  scale_jitter: tuple[float, float] | None = None
  scale_jitter_prob: float = 1.0
  random_crop: Literal['uniform', 'inception'] = 'uniform'
  crop_area: tuple[float, float] = (0.08, 1.0)
  crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
  flip_prob: float = 0.0
  flip_swap: tuple[tuple[str, str], ...] = ()
  repeats: int = 1
  short_clip: Literal['loop', 'hold'] = 'loop'

  @property
  def shape(self) -> tuple[int, int, int, int]:
    """Shape of a clip, [T, crop, crop, 3]."""
    return self.frames, self.crop, self.crop, 3

  def __post_init__(self) -> None:
    """Raises ConfigError on values out of range or that contradict each other."""
    for name in ('frames', 'stride', 'resize', 'crop', 'repeats'):
      require(getattr(self, name) >= 1, f'clip.{name}', 'at least 1', getattr(self, name))
    require(self.resize <= 4096, 'clip.resize', 'at most 4096 px', self.resize)
    require(0 <= self.fps <= 1000, 'clip.fps', 'in [0, 1000]', self.fps)
    for name in ('scale_jitter_prob', 'flip_prob'):
      require(0 <= getattr(self, name) <= 1, f'clip.{name}', 'in [0, 1]', getattr(self, name))
    for name, hint in typing.get_type_hints(type(self)).items():
      if typing.get_origin(hint) is Literal:
        known = typing.get_args(hint)
        require(
          getattr(self, name) in known, f'clip.{name}', f'one of {known}', getattr(self, name)
        )
    for name in ('resize_jitter', 'scale_jitter', 'crop_area', 'crop_aspect'):
      _require_range(f'clip.{name}', getattr(self, name))
    self._check_time()
    self._check_space()

  def without_augmentation(self) -> Self:
    """The same clip with everything off that only training does."""
    default = {field.name: field.default for field in dataclasses.fields(self)}
    return dataclasses.replace(self, **{name: default[name] for name in _TRAINING_ONLY})  # type: ignore[arg-type]

  def _check_time(self) -> None:
    if self.sampling not in ('dense', 'keyframe'):
      problem = f"1 with sampling='{self.sampling}', which has no stride"
      require(self.stride == 1, 'clip.stride', problem, self.stride)
      require(self.fps == 0, 'clip.fps', f"0 with sampling='{self.sampling}'", self.fps)

  def _check_space(self) -> None:
    if self.fit == 'pad':
      require(self.resize == self.crop, 'clip.resize', f'crop ({self.crop}) to pad', self.resize)
      require(self.random_crop == 'uniform', 'clip.random_crop', "'uniform' to pad", 'inception')
    require(self.crop <= self.resize, 'clip.crop', f'<= resize ({self.resize})', self.crop)
    if self.resize_jitter is not None and self.fit == 'crop':
      low = self.resize_jitter[0]
      require(low >= self.crop, 'clip.resize_jitter', f'at least crop ({self.crop})', low)
    if self.random_crop == 'inception':
      for name in ('resize_jitter', 'scale_jitter'):
        value = getattr(self, name)
        require(value is None, f'clip.{name}', "None with random_crop='inception'", value)
      require(self.crop_area[1] <= 1, 'clip.crop_area', 'at most the whole frame', self.crop_area)


_TRAINING_ONLY = (
  'resize_jitter',
  'scale_jitter',
  'scale_jitter_prob',
  'random_crop',
  'crop_area',
  'crop_aspect',
  'flip_prob',
  'flip_swap',
  'repeats',
)


def require(condition: bool, field: str, expected: str, got: object) -> None:
  """Raises ConfigError naming the field, what was expected and what it is, unless `condition`."""
  if not condition:
    raise ConfigError(f'{field}: expected {expected}, got {got!r}.')


def _require_range(field: str, value: Any) -> None:
  if value is not None:
    valid = len(value) == 2 and 0 < value[0] <= value[1]
    require(valid, field, '(lo, hi) with 0 < lo <= hi', value)
