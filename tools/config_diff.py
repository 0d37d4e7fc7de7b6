"""Compares two configs, however they are at hand.

  python -m tools.config_diff runs/first runs/second
  python -m tools.config_diff runs/demo configs/vivit/demo.py:attention=spacetime
  python -m tools.config_diff runs/demo/checkpoints/400 runs/demo/config.json --json

Each is a config file, a run's folder, its config.json, or one of its checkpoints. Like `diff`, it ends
with exit code 0 if they are the same, 1 if they differ and 2 if one cannot be read.
"""

import json
import sys
from pathlib import Path
from typing import Any

from absl import flags

from errors import ConfigError
from tools import command
from train_lib import experiment
from train_lib.config_changes import ABSENT, config_changes, describe

_JSON = flags.DEFINE_bool(
  'json', False, 'Print one JSON object instead of lines.', allow_override=True
)

# Inside a checkpoint and a run's folder.
_META, _CONFIG = Path('meta', 'metadata'), Path('config.json')
DIFFERENT, TROUBLE = 1, 2


def read(source: str) -> dict[str, Any]:
  """The resolved config of a config file, a run's folder, a `config.json` or a checkpoint.

  Raises:
    ConfigError: There is no such config, or it cannot be read.
  """
  path = Path(source)
  if source.partition(':')[0].endswith('.py'):
    return json.loads(experiment.to_json(command.load_config(source)))
  if (path / _META).is_file():
    return _read_json(path / _META)['config']
  file = path / _CONFIG if path.is_dir() else path
  if not file.is_file():
    raise ConfigError(
      f'{source} is no config: expected a config file (FILE.py or FILE.py:ARGUMENT), the folder of a '
      'run, its config.json, or a checkpoint in its checkpoints/.'
    )
  return _read_json(file)


def _read_json(file: Path) -> dict[str, Any]:
  try:
    values = json.loads(file.read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    raise ConfigError(f'{file} cannot be read as JSON: {error}') from error
  if not isinstance(values, dict):
    raise ConfigError(f'{file}: expected a JSON object, got {type(values).__name__}.')
  return values


def main(a: str, b: str) -> None:
  """Prints the differences."""
  try:
    changes = config_changes(read(a), read(b))
  except ConfigError as error:
    print(f'ConfigError: {error}', file=sys.stderr)
    sys.exit(TROUBLE)
  if _JSON.value:
    named = [{'key': key, 'a': old, 'b': new} for key, old, new in changes]
    rows = [{k: v for k, v in row.items() if v is not ABSENT} for row in named]
    print(json.dumps({'a': a, 'b': b, 'changes': rows}, indent=2))
  else:
    print('\n'.join(describe(changes) or [f'{a} and {b} are the same.']))
  sys.exit(DIFFERENT if changes else 0)


if __name__ == '__main__':
  command.run(main, ('A', 'B'))
