"""The union of Kinetics-400, -600 and -700: which clips stay, and why the others do not."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from projects.uniformerv2.kinetics_lists import Clip
from projects.uniformerv2.label_table import SETS

# Later sets split classes that were too coarse (hugging, opening bottle), so their labels say more.
_NEWEST_FIRST = tuple(reversed(SETS))


class Dropped(NamedTuple):
  """A clip left out, and the one that is why: the same video elsewhere.

  Attributes:
    reason: 'repeated', 'repeated, other label', 'repeated, other times' or 'evaluated on'.
  """

  clip: Clip
  reason: str
  kept: Clip


@dataclasses.dataclass(frozen=True)
class Merged:
  """The outcome.

  Attributes:
    clips: all that were read.
    splits: 'train' and 'validation' -> the clips of the union, one a video.
    own_train: set -> its training clips that no set evaluates on.
    dropped: from the union's splits.
    held_out: every video of a validation or test list -> a clip of it.
  """

  clips: Sequence[Clip]
  splits: Mapping[str, Sequence[Clip]]
  own_train: Mapping[str, Sequence[Clip]]
  dropped: Sequence[Dropped]
  held_out: Mapping[str, Clip]


def merge(clips: Sequence[Clip]) -> Merged:
  """Merges clips of the three sets (UniFormerV2, arXiv:2211.09552, section 4).

  A video counts once, by its YouTube id, in the newest set that has it. The paper does not say which
  set's label and times are kept where they differ; such clips are told apart in `dropped`.

  Args:
    clips: of all sets and splits, in the order of the files.
  """
  newest = sorted(clips, key=lambda clip: _NEWEST_FIRST.index(clip.set_name))
  held_out: dict[str, Clip] = {}
  for clip in newest:
    if clip.split != 'train':
      held_out.setdefault(clip.youtube_id, clip)
  dropped: list[Dropped] = []
  trained = []
  for clip in (clip for clip in newest if clip.split == 'train'):
    if clip.youtube_id in held_out:
      dropped.append(Dropped(clip, 'evaluated on', held_out[clip.youtube_id]))
    else:
      trained.append(clip)
  splits = {
    'train': _once(trained, dropped),
    'validation': _once((clip for clip in newest if clip.split == 'validation'), dropped),
  }
  own_train = {name: [clip for clip in trained if clip.set_name == name] for name in SETS}
  return Merged(clips, splits, own_train, dropped, held_out)


def _once(clips: Iterable[Clip], dropped: list[Dropped]) -> list[Clip]:
  """The first clip of each video; the others go to `dropped`."""
  kept: dict[str, Clip] = {}
  for clip in clips:
    first = kept.setdefault(clip.youtube_id, clip)
    if first is not clip:
      dropped.append(Dropped(clip, _difference(clip, first), first))
  return list(kept.values())


def _difference(clip: Clip, kept: Clip) -> str:
  if clip.label != kept.label:
    return 'repeated, other label'
  return 'repeated' if _seconds(clip) == _seconds(kept) else 'repeated, other times'


def _seconds(clip: Clip) -> tuple[str, ...]:
  """The times without the zeros in which files differ: 10 is 10.0 and 000010."""
  return tuple((t.rstrip('0').rstrip('.') if '.' in t else t).lstrip('0') for t in clip.times)
