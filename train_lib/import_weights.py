"""What the commands that convert the checkpoints of other code have in common."""

from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags

from datasets import annotations
from datasets.class_names import normalise_class_name
from errors import ConfigError
from train_lib import label_map, params_file
from train_lib.state import OBJECTIVE, STATISTICS
from train_lib.weight_files import TORCH_SUFFIXES, Arrays, read_arrays

_CHECKPOINT = flags.DEFINE_string(
  'checkpoint',
  '',
  f'State dict by official names: .npz, .safetensors or with torch {", ".join(TORCH_SUFFIXES)}.',
  allow_override=True,
)
_OUT = flags.DEFINE_string('out', '', 'The .npz or .safetensors to write.', allow_override=True)
_CLASS_NAMES = flags.DEFINE_multi_string(
  'class_names',
  [],
  'File with the class names of the head, one a line, in its order; of several heads TASK=FILE each.',
  allow_override=True,
)


def convert(from_official: Callable[[Arrays], Arrays]) -> None:
  """Reads --checkpoint, converts it, writes --out and says what was written.

  Args:
    from_official: official name -> array, to what `init_from.path` reads: the trunk's arrays at the top,
      heads as `heads_TASK` or, without a name, as `output_projection` and `pre_logits`, the objective's
      under `objective`, running statistics under `batch_stats`.

  Raises:
    ConfigError: A flag is missing, there is no such file, or the other cannot be written; a head has
      another number of classes than --class_names, there is no such head, or only some of several are
      given names; names that differ in case and symbols only.
    CheckpointMismatchError: The file cannot be read.
    DataError: A file of class names cannot be read or repeats one.
  """
  for name, value in (('--checkpoint', _CHECKPOINT.value), ('--out', _OUT.value)):
    if not value:
      raise ConfigError(f'{name} is missing: name a file.')
  if not Path(_CHECKPOINT.value).is_file():
    raise ConfigError(f'--checkpoint={_CHECKPOINT.value}: there is no such file.')
  arrays = from_official(read_arrays(_CHECKPOINT.value, '--checkpoint'))
  names = _class_names(arrays)
  params_file.write_arrays(Path(_OUT.value), arrays, {'class_names': names} if names else None)
  sizes = {'trunk': 0, 'heads': 0, 'objective': 0, STATISTICS: 0}
  for name, array in arrays.items():
    scope = name.split('/')[0]
    head = scope.startswith('heads_') or scope in ('output_projection', 'pre_logits')
    own = scope in (OBJECTIVE, STATISTICS)
    sizes[scope if own else 'heads' if head else 'trunk'] += array.size
  statistics = sizes.pop(STATISTICS)
  parts = ', '.join(f'{name} {size:,}' for name, size in sizes.items() if size)
  rest = f', {statistics:,} running statistics' if statistics else ''
  print(f'{_OUT.value}: {sum(sizes.values()):,} parameters ({parts}){rest}.')
  if not names and _heads(arrays):
    print(label_map.unnamed(_OUT.value))


def _heads(arrays: Arrays) -> list[str]:
  """The heads, each by the array that has an entry for each class."""
  return sorted(name for name in arrays if name.endswith('output_projection/bias'))


def _class_names(arrays: Arrays) -> dict[str, tuple[str, ...]]:
  """Task -> class names of --class_names; '' for a head without a name."""
  names: dict[str, tuple[str, ...]] = {}
  unnamed = _heads(arrays)
  for given in _CLASS_NAMES.value:
    task, equals, file = given.partition('=')
    if not equals or Path(given).is_file():
      task, file = '', given
    if task in names:
      raise ConfigError(f'--class_names={given}: the head has class names already.')
    names[task] = annotations.read_classes(file)
    head = f'heads_{task}/output_projection/bias' if task else 'output_projection/bias'
    if head not in unnamed:
      raise ConfigError(
        f'--class_names={given}: there is no {head}; the heads are {_heads(arrays)}.'
      )
    if arrays[head].size != len(names[task]):
      raise ConfigError(
        f'--class_names={given} has {len(names[task])} names, but the head {arrays[head].size} classes.'
      )
    _check_told_apart(given, names[task])
    unnamed.remove(head)
  if names and unnamed:
    raise ConfigError(
      f'--class_names names the classes of {sorted(names)}, but not of {unnamed}: give '
      '--class_names=TASK=FILE for every head, or none.'
    )
  return names


def _check_told_apart(given: str, names: Sequence[str]) -> None:
  """Raises ConfigError where names are the same to `label_map`."""
  by_plain: dict[str, list[str]] = {}
  for name in names:
    by_plain.setdefault(normalise_class_name(name), []).append(name)
  same = [found for found in by_plain.values() if len(found) > 1]
  if same:
    raise ConfigError(
      f'--class_names={given}: classes must differ in more than case and symbols, by which they are '
      f'found; these do not: {same[:5]}. Change their names.'
    )
