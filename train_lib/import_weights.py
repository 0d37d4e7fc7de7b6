"""What the commands that convert the checkpoints of other code have in common."""

from collections.abc import Callable
from pathlib import Path

from absl import flags

from errors import ConfigError
from train_lib import params_file
from train_lib.state import OBJECTIVE, STATISTICS
from train_lib.weight_files import Arrays, read_arrays

_CHECKPOINT = flags.DEFINE_string(
  'checkpoint',
  '',
  'State dict by official names: .npz, .safetensors, .pt, .pth.',
  allow_override=True,
)
_OUT = flags.DEFINE_string('out', '', 'The .npz to write.', allow_override=True)


def convert(from_official: Callable[[Arrays], Arrays]) -> None:
  """Reads --checkpoint, converts it, writes --out and says what was written.

  Args:
    from_official: official name -> array, to what `init_from.path` reads: the trunk's arrays at the top,
      heads as `heads_TASK` or, without a name, as `output_projection` and `pre_logits`, the objective's
      under `objective`, statistics of batch normalisation as `batch_stats/trunk/...`.

  Raises:
    ConfigError: A flag is missing, there is no such file, or the other cannot be written.
    CheckpointMismatchError: The file cannot be read.
  """
  for name, value in (('--checkpoint', _CHECKPOINT.value), ('--out', _OUT.value)):
    if not value:
      raise ConfigError(f'{name} is missing: name a file.')
  if not Path(_CHECKPOINT.value).is_file():
    raise ConfigError(f'--checkpoint={_CHECKPOINT.value}: there is no such file.')
  arrays = from_official(read_arrays(_CHECKPOINT.value))
  params_file.write_arrays(Path(_OUT.value), arrays)
  sizes = {'trunk': 0, 'heads': 0, 'objective': 0, STATISTICS: 0}
  for name, array in arrays.items():
    scope = name.split('/')[0]
    head = scope.startswith('heads_') or scope in ('output_projection', 'pre_logits')
    sizes[scope if scope in (OBJECTIVE, STATISTICS) else 'heads' if head else 'trunk'] += array.size
  statistics = sizes.pop(STATISTICS)
  parts = ', '.join(f'{name} {size:,}' for name, size in sizes.items() if size)
  kept = f', {statistics:,} statistics' if statistics else ''
  print(f'{_OUT.value}: {sum(sizes.values()):,} parameters ({parts}){kept}.')
