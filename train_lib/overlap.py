"""Refuses to train on what is evaluated on: the same video in a training and an evaluation split."""

from collections.abc import Mapping

from datasets.dataset import VideoDataset
from datasets.progress import with_progress
from errors import DataError
from train_lib.console import say

_SHOWN = 3


def check(
  train: Mapping[str, VideoDataset], evaluated: Mapping[str, VideoDataset], *, allowed: bool
) -> None:
  """Compares every training split with every evaluation split of a run, by `VideoDataset.identity`.

  Args:
    train: dataset -> its open training split.
    evaluated: dataset -> its open evaluation split.
    allowed: whether shared videos are only said, not refused.

  Raises:
    DataError: they share videos; it names the splits, how many and the first ones.
  """
  held_out: dict[tuple[str, ...], list[str]] = {}
  for name, split in evaluated.items():
    for row in range(len(split)):
      names = held_out.setdefault(split.identity(row), [])
      if name not in names:  # Several clips of one video.
        names.append(name)
  shared: dict[tuple[str, str], list[str]] = {}
  for name, split in train.items():
    title = f'comparing {name} with what is evaluated'
    for row in with_progress(range(len(split)), len(split), title):
      for other in held_out.get(split.identity(row), ()):
        shared.setdefault((name, other), []).append(split.key(row))
  if not shared:
    return
  lines = [
    f'{name} {train[name].split!r} and {other} {evaluated[other].split!r}: {len(keys):,} of '
    f'{len(train[name]):,} training examples, as {", ".join(map(repr, keys[:_SHOWN]))}'
    for (name, other), keys in shared.items()
  ]
  found = 'Videos that are trained on are evaluated on too:\n  ' + '\n  '.join(lines)
  if not allowed:
    raise DataError(
      f'{found}\nLeave them out of the training data (for Kinetics `python -m '
      'projects.uniformerv2.kinetics710` writes training lists without them), or set '
      '`mixture.allow_overlap=True` if scores that are too high are what you want.'
    )
  say(f'{found}\nTheir scores are too high; `mixture.allow_overlap` lets it be.')
