"""Turns a checkpoint of the released MultiTrain code into a file that `init_from.path` reads.

  python -m projects.multitrain.import_weights --checkpoint=official.safetensors --out=multitrain.npz \\
      [--tasks=kinetics=kinetics400,mit=moments_in_time]

The checkpoint holds the model's state dict by its PyTorch names, as .npz or .safetensors. With --tasks
its datasets get the names of a config's tasks. Then `--config.init_from.path=multitrain.npz` with
`--config.init_from.load_head=True` loads the heads and what belongs to the objective, too.
"""

from absl import flags

from errors import ConfigError
from projects.multitrain import weights
from train_lib import import_weights
from train_lib.console import run_command

_TASKS = flags.DEFINE_list(
  'tasks', [], 'OFFICIAL_DATASET=TASK, separated by commas.', allow_override=True
)


def main() -> None:
  """Reads, converts, writes and says what was written."""
  import_weights.convert(lambda official: weights.from_official(official, _tasks(_TASKS.value)))


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
