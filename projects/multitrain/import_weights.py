"""Turns a checkpoint of the released MultiTrain code into a file that `init_from.path` reads.

  python -m projects.multitrain.import_weights --checkpoint=official.safetensors --out=multitrain.npz \\
      [--tasks=kinetics=kinetics400,mit=moments_in_time]

The checkpoint holds the model's state dict by its PyTorch names, as .npz or .safetensors. With --tasks
its datasets get the names of a config's tasks. Then `--config.init_from.path=multitrain.npz` with
`--config.init_from.load_head=True` loads the heads and what belongs to the objective, too.
"""

from pathlib import Path

from absl import flags

from errors import ConfigError
from projects.multitrain import weights
from train_lib import params_file, pretrained_vit
from train_lib.console import run_command
from train_lib.state import OBJECTIVE

_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', '', 'State dict by official names, .npz or .safetensors.', allow_override=True
)
_OUT = flags.DEFINE_string('out', '', 'The .npz to write.', allow_override=True)
_TASKS = flags.DEFINE_list('tasks', [], 'OFFICIAL_DATASET=TASK, separated by commas.')


def main() -> None:
  """Reads, converts, writes and says what was written."""
  for name, value in (('--checkpoint', _CHECKPOINT.value), ('--out', _OUT.value)):
    if not value:
      raise ConfigError(f'{name} is missing: name a file.')
  if not Path(_CHECKPOINT.value).is_file():
    raise ConfigError(f'--checkpoint={_CHECKPOINT.value}: there is no such file.')
  official = pretrained_vit.read_arrays(_CHECKPOINT.value)
  arrays = weights.from_official(official, _tasks(_TASKS.value))
  params_file.write_arrays(Path(_OUT.value), arrays)
  sizes = {'trunk': 0, 'heads': 0, 'objective': 0}
  for name, array in arrays.items():
    scope = name.split('/')[0]
    head = scope.startswith('heads_') or scope == 'output_projection'
    sizes[scope if scope == OBJECTIVE else 'heads' if head else 'trunk'] += array.size
  parts = ', '.join(f'{name} {size:,}' for name, size in sizes.items())
  print(f'{_OUT.value}: {sum(sizes.values()):,} parameters ({parts}).')


def _tasks(pairs: list[str]) -> dict[str, str]:
  """Raises ConfigError unless every item is `dataset=task`, with another dataset each."""
  tasks: dict[str, str] = {}
  for pair in pairs:
    dataset, _, task = pair.partition('=')
    if not (dataset and task) or '=' in task:
      raise ConfigError(f'--tasks: expected items such as kinetics=kinetics400, got {pair!r}.')
    if dataset in tasks:
      raise ConfigError(
        f'--tasks: expected each dataset once, got {dataset}={tasks[dataset]} and {pair}.'
      )
    tasks[dataset] = task
  return tasks


if __name__ == '__main__':
  run_command(main)
