"""What a horizontal flip does to labels: 'moving left' is 'moving right' in the mirror."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from datasets.clip_config import ClipConfig
from datasets.dataset import VideoDataset
from errors import ConfigError

_Array = np.ndarray[Any, np.dtype[Any]]

_DIRECTIONAL = re.compile(
  r'\b(left|right|clockwise|anti-?clockwise|counter-?clockwise)', re.IGNORECASE
)


def label_permutations(dataset: VideoDataset, clip: ClipConfig) -> dict[str, _Array]:
  """Task -> class of the mirrored clip for each class, int64 [K].

  Raises:
    ConfigError: flips are on and a class name says left or right without being in `clip.flip_swap`,
      or a name there is no class, or stands in two pairs.
  """
  pairs = _both_ways(clip)
  unknown, elsewhere = set(pairs), set()
  result = {}
  for task in dataset.tasks:
    names = dataset.class_names(task)
    unknown -= set(names)
    index = {name: i for i, name in enumerate(names)}
    others = [pairs.get(name, name) for name in names]
    elsewhere |= set(others) - set(names)
    result[task] = np.array([index.get(other, i) for i, other in enumerate(others)])
    if clip.flip_prob:
      _check_directional(dataset, task, pairs)
  if unknown | elsewhere:
    raise ConfigError(
      f'clip.flip_swap names {sorted(unknown | elsewhere)[:5]}, which are no classes of their task; '
      f'{dataset.where} has the tasks {list(dataset.tasks)}.'
    )
  return result


def swap_labels(labels: Mapping[str, _Array], swaps: Mapping[str, _Array]) -> dict[str, _Array]:
  """Labels of the mirrored clip: int32 [], or multi-hot float32 [K] or [boxes, K], per task."""
  return {
    task: label[..., swaps[task]] if label.ndim else np.asarray(swaps[task][label], label.dtype)
    for task, label in labels.items()
  }


def _both_ways(clip: ClipConfig) -> dict[str, str]:
  pairs: dict[str, str] = {}
  for first, second in clip.flip_swap:
    for name, other in {(first, second), (second, first)}:
      if name in pairs:
        raise ConfigError(f'clip.flip_swap: class {name!r} stands in two pairs.')
      pairs[name] = other
  return pairs


def _check_directional(dataset: VideoDataset, task: str, pairs: Mapping[str, str]) -> None:
  names = dataset.class_names(task)
  open_ = [name for name in names if _DIRECTIONAL.search(name) and name not in pairs]
  if open_:
    raise ConfigError(
      f'clip.flip_prob is above 0, but classes of task {task!r} name a direction: {open_[:5]}'
      f'{" ..." if len(open_) > 5 else ""}. Set clip.flip_prob=0, or list in clip.flip_swap the '
      'pairs that a flip exchanges (and with itself each class that it leaves as it is).'
    )
