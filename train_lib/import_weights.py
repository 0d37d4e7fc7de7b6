"""What the commands that convert the checkpoints of other code have in common."""

from collections.abc import Callable
from pathlib import Path

from absl import flags

from datasets import annotations
from errors import ConfigError
from train_lib import params_file
from train_lib.state import OBJECTIVE, STATISTICS
from train_lib.weight_files import TORCH_SUFFIXES, Arrays, read_arrays

_CHECKPOINT = flags.DEFINE_string(
  'checkpoint',
  '',
  f'State dict by official names: .npz, .safetensors or with torch {", ".join(TORCH_SUFFIXES)}.',
  allow_override=True,
)
_OUT = flags.DEFINE_string('out', '', 'The .npz to write.', allow_override=True)
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
      another number of classes than --class_names, or there is no such head.
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


def _class_names(arrays: Arrays) -> dict[str, tuple[str, ...]]:
  """Task -> class names of --class_names; '' for a head without a name."""
  names = {}
  for given in _CLASS_NAMES.value:
    task, _, file = given.rpartition('=')
    head = f'heads_{task}/output_projection/bias' if task else 'output_projection/bias'
    names[task] = annotations.read_classes(file)
    if head not in arrays:
      heads = sorted(name for name in arrays if name.endswith('output_projection/bias'))
      raise ConfigError(f'--class_names={given}: there is no {head}; the heads are {heads}.')
    if arrays[head].size != len(names[task]):
      raise ConfigError(
        f'--class_names={given} has {len(names[task])} names, but the head {arrays[head].size} classes.'
      )
  return names
