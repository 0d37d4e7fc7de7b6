"""What a model must be shown: one description, kept with every checkpoint.

Training, evaluation and prediction cut and normalise videos by it; a checkpoint that was trained with
another is not used in silence.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets.clip_config import ClipConfig
from errors import CheckpointMismatchError
from train_lib import configuration
from train_lib.console import say
from train_lib.experiment import Experiment, PixelConfig


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """From a video to the model's input.

  Attributes:
    clip: Frames, stride, size and fit; nothing random.
    pixels: Mean and standard deviation of the normalisation.
  """

  clip: ClipConfig
  pixels: PixelConfig


def of(experiment: Experiment) -> dict[str, Preprocessing]:
  """Dataset -> how its videos are shown to the model."""
  return {
    name: Preprocessing(config.clip.without_augmentation(), experiment.pixels)
    for name, config in experiment.datasets.items()
  }


def to_json(descriptions: Mapping[str, Preprocessing]) -> dict[str, Any]:
  """As it stands in a checkpoint's `meta`."""
  return {name: dataclasses.asdict(value) for name, value in descriptions.items()}


def from_json(stored: Mapping[str, Any]) -> dict[str, Preprocessing]:
  """Reads what `to_json` wrote.

  Raises:
    ConfigError: It is not of this form.
  """
  return {
    name: configuration.parse(Preprocessing, value, f'preprocessing.{name}')
    for name, value in stored.items()
  }


def changes(meta: Mapping[str, Any], experiment: Experiment, where: Path) -> list[str]:
  """Compares a checkpoint's preprocessing with the experiment's, for datasets that both have.

  Args:
    meta: The checkpoint's `meta`.
    experiment: What it is to be used with; it may have other datasets.
    where: The checkpoint, for messages.

  Returns:
    `dataset.clip.key: old -> new` for every difference of the clips, for people to read.

  Raises:
    CheckpointMismatchError: The normalisation differs: the weights would see other numbers.
  """
  stored = from_json(meta['preprocessing'])
  now_pixels = experiment.pixels
  for then_pixels in (then.pixels for then in stored.values()):
    if then_pixels != now_pixels:
      raise CheckpointMismatchError(
        f'{where} was trained on pixels normalised with mean {then_pixels.mean} and std '
        f'{then_pixels.std}, but `pixels` says {now_pixels.mean} and {now_pixels.std}. Use those '
        'of the checkpoint.'
      )
  found = []
  for name, now in of(experiment).items():
    if name not in stored:
      continue
    then = stored[name]
    found += [
      f'{name}.clip.{field.name}: {getattr(then.clip, field.name)!r} -> '
      f'{getattr(now.clip, field.name)!r}'
      for field in dataclasses.fields(ClipConfig)
      if getattr(then.clip, field.name) != getattr(now.clip, field.name)
    ]
  return found


def say_changes(meta: Mapping[str, Any], experiment: Experiment, where: Path) -> None:
  """Prints what `changes` finds.

  Raises:
    CheckpointMismatchError: As `changes`.
  """
  found = changes(meta, experiment, where)
  if found:
    say(f'Videos are cut otherwise than in the training of {where}:\n  ' + '\n  '.join(found))
