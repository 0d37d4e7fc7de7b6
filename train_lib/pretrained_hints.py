"""Which setting of the trunk a checkpoint contradicts, said at once when many arrays do not fit."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from train_lib.pretrained_fit import by

_BLOCK = re.compile(r'(?:trunk/)?(?:Spatial)?Transformer/encoderblock_(\d+)/.*')
_CLASS = re.compile(r'cls(_\w+)?')

_THERE = ', in a trunk that has this setting, such as that of UniFormerV2'


def contradictions(targets: Mapping[str, Any], arrays: Mapping[str, Any]) -> Iterator[str]:
  """Sentences for people.

  Args:
    targets: The model's path -> leaf with a shape.
    arrays: Canonical path of the checkpoint -> array.
  """
  mine, theirs = _width(targets), _width(arrays)
  if None not in (mine, theirs) and mine != theirs:
    yield f'The model is {mine} wide, the checkpoint {theirs}: set `trunk.hidden_size`.'
  blocks, stored = _blocks(targets), _blocks(arrays)
  absent = sorted(set(range(max(stored, default=0))) - stored)
  if absent and stored:
    yield f'The checkpoint lacks the blocks {absent} of {max(stored) + 1}: it is not whole.'
  elif blocks and stored and blocks != stored:
    yield (
      f'The model has {len(blocks)} blocks, the checkpoint {len(stored)}: set `trunk.num_layers`.'
    )
  kernel, patch = targets.get('trunk/embedding/kernel'), arrays.get('embedding/kernel')
  if kernel is not None and patch is not None and kernel.shape[-4:-2] != patch.shape[-4:-2]:
    yield (
      f"The model's patches are {by(kernel.shape[-4:-2])} pixels, the checkpoint's "
      f'{by(patch.shape[-4:-2])}: set the size of patches (`trunk.patch_size`, `trunk.tubelet`).'
    )
  yield from _switch(targets, arrays, 'pre_norm/scale', 'pre_norm', 'a norm before its blocks')
  yield from _switch(targets, arrays, 'embedding/bias', 'patch_bias', 'a bias of its patches')
  for path in ('trunk/cls', 'trunk/cls_SpatialTransformer'):
    if path in targets and 'embedding/kernel' in arrays and not any(map(_CLASS.fullmatch, arrays)):
      yield (
        f'The model has a class token, the checkpoint none: let it begin as the model has it with '
        f'`init_from.allow_new=({path!r},)`.'
      )


def heads_note(heads: int, channels: int) -> tuple[str, ...]:
  """What to know of a file that does not tell the number of heads: nothing, or a line.

  Args:
    heads, channels: of each, of the model.
  """
  if channels == 64:
    return ()
  return (
    f'The file does not tell the number of heads; the model has {heads} of {channels} channels. '
    'Published ViTs have 64 each (H 80, g 88, G 104): see `trunk.num_heads`.',
  )


def _switch(
  targets: Mapping[str, Any], arrays: Mapping[str, Any], path: str, setting: str, what: str
) -> Iterator[str]:
  mine, theirs = f'trunk/{path}' in targets, path in arrays
  if mine and not theirs and 'embedding/kernel' in arrays:
    yield f'The model has {what}, the checkpoint has none: set `trunk.{setting}=False`{_THERE}.'
  if theirs and not mine and 'trunk/embedding/kernel' in targets:
    yield f'The checkpoint has {what}, the model has none: set `trunk.{setting}=True`{_THERE}.'


def _width(leaves: Mapping[str, Any]) -> int | None:
  """Of the final norm, or of what an image model's patches are made by."""
  for ending in ('encoder_norm/scale', 'embedding/bias', 'embedding/kernel'):
    for path, leaf in leaves.items():
      if path.endswith(ending):
        return int(leaf.shape[-1])
  return None


def _blocks(leaves: Mapping[str, Any]) -> set[int]:
  return {int(found[1]) for path in leaves if (found := _BLOCK.fullmatch(path))}
