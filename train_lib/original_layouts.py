"""Models by the names of the code that they come from: what layouts have in common."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from errors import ExportError
from models.heads import LinearHead
from train_lib import params_file, weight_files
from train_lib.trained import Trained
from train_lib.weight_files import Arrays

# Hugging Face's names of our activations.
HIDDEN_ACT = {'tanh': 'gelu_fast', 'erf': 'gelu', 'quick': 'quick_gelu'}
_PIL_BILINEAR = 2


@dataclasses.dataclass(frozen=True)
class Layout:
  """How a model is written in another code's names, and read again.

  Attributes:
    canonical: (model, task) -> the arrays that the layout has a place for, by our names; raises
      ExportError where the layout cannot hold the model.
    to_official: these -> arrays by the other code's names.
    from_official: (those, model) -> what `canonical` gave, bit for bit: the importer.
    settings: (model, task) -> name of a JSON file -> its content.
  """

  canonical: Callable[[Trained, str], Arrays]
  to_official: Callable[[Arrays], Arrays]
  from_official: Callable[[Arrays, Trained], Arrays]
  settings: Callable[[Trained, str], Mapping[str, Any]] = lambda model, task: {}


def write(file: Path, layout: Layout, model: Trained, task: str) -> int:
  """Writes safetensors, reads them again, and compares bit for bit; returns the number of parameters.

  Raises:
    ExportError: The layout cannot hold the model, or what was read is not what was written.
    CheckpointMismatchError: The layout has no place for one of its arrays.
  """
  wanted = layout.canonical(model, task)
  official = layout.to_official(wanted)
  # Hugging Face's loader asks for the format.
  params_file.write_safetensors(file, official, {'format': 'pt'})
  found = layout.from_official(weight_files.read_arrays(str(file), 'the export'), model)
  wrong = sorted(
    name
    for name in {*wanted, *found}
    if name not in wanted or name not in found or not np.array_equal(wanted[name], found[name])
  )
  if wrong:
    raise ExportError(
      f'{file.name}: {len(wrong)} arrays, {wrong[:4]}, do not come back as they were. Nothing was kept; '
      'report this.'
    )
  return sum(array.size for array in official.values())


def of_one_head(model: Trained, task: str) -> Arrays:
  """The arrays of the trunk, and of one head without its name."""
  arrays = {}
  for name, array in model.arrays().items():
    if name.startswith(f'heads_{task}/'):
      arrays[name.removeprefix(f'heads_{task}/')] = array
    elif not name.startswith('heads_'):
      arrays[name] = array
  return arrays


def settings_misfits(owner: Any, expected: Mapping[str, Sequence[Any]]) -> list[str]:
  """`trunk.KEY=VALUE (expected ...)` for each setting of a trunk that is none of the expected ones."""
  return [
    f'trunk.{name}={getattr(owner, name)!r} (expected {" or ".join(map(repr, values))})'
    for name, values in expected.items()
    if getattr(owner, name) not in values
  ]


def head_misfits(model: Trained, task: str) -> list[str]:
  """Why a head is not one linear layer on the trunk's pooled vector."""
  head = model.model.heads[task]
  if not isinstance(head, LinearHead):
    return [f'its head is {type(head).__name__} (expected LinearHead)']
  wrong = [] if head.pooling == 'trunk' else [f"head.pooling={head.pooling!r} (expected 'trunk')"]
  if head.representation_size is not None:
    wrong.append(f'head.representation_size={head.representation_size} (expected None)')
  return wrong


def position_misfits(model: Trained, task: str) -> list[str]:
  """Whether positions are kept for another grid than that of the task's clips."""
  trunk, shape = model.model.trunk, clip_of(model, task).shape
  own = trunk.position_grid
  if own is None or tuple(own) == trunk.grid((1, *shape)):
    return []
  return [
    f'trunk.position_grid={tuple(own)} (expected {trunk.grid((1, *shape))}, that of the clips)'
  ]


def cropping_misfits(model: Trained, task: str) -> list[str]:
  """Whether the task's videos are padded to a square, which `processor` cannot say."""
  fit = clip_of(model, task).fit
  return [] if fit == 'crop' else [f"clip.fit={fit!r} (expected 'crop')"]


def refuse(layout: str, what: str, misfits: Sequence[str]) -> None:
  """Raises ExportError if there are any misfits."""
  if misfits:
    raise ExportError(
      f'--layout={layout}: {what} cannot hold this model: {"; ".join(misfits)}. Use --layout=ours.'
    )


def clip_of(model: Trained, task: str) -> Any:
  """How the clips of a task are cut, as `ClipConfig`."""
  return model.shown[model.experiment.tasks[task].dataset].clip


def processor(model: Trained, task: str, name: str) -> dict[str, Any]:
  """Hugging Face's `preprocessor_config.json` of a task whose clips are cropped.

  `rescale_factor` and `offset` make what is normalised x / 255, as here; Vivit's defaults would not.
  """
  shown = model.shown[model.experiment.tasks[task].dataset]
  mean, std = (
    np.resize(np.asarray(x, float), 3).tolist() for x in (shown.pixels.mean, shown.pixels.std)
  )
  return {
    'image_processor_type': name,
    'do_resize': True,
    'size': {'shortest_edge': shown.clip.resize},
    'resample': _PIL_BILINEAR,
    'do_center_crop': True,
    'crop_size': {'height': shown.clip.crop, 'width': shown.clip.crop},
    'do_rescale': True,
    'rescale_factor': 1 / 255,
    'offset': False,
    'do_normalize': True,
    'image_mean': mean,
    'image_std': std,
  }
