"""Lists published checkpoints, and checks step by step whether a file gives what is published of it.

  python -m tools.zoo list
  python -m tools.zoo show vivit_b16x2_k400
  python -m tools.zoo verify vivit_b16x2_k400 --weights=checkpoint
  python -m tools.zoo verify vivit_b16x2_k400 --weights=checkpoint --data=/data/k400 --split=validation \\
      --clip=clip.mp4 --batch_size=4

The checks are, in this order: the file can be read (and is the one published), its weights fill the model, the
config shows videos as the publisher does, stored clips give stored logits, --clip can be classified, the
data's labels are in the checkpoint's order, and its accuracy is the published one. The first that fails is the
culprit: those behind it are not run, and the exit code is 1. What there is nothing to check with is
skipped, and says why. --config checks another config than the one the list names.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from errors import ConfigError
from tools import command

if TYPE_CHECKING:
  from train_lib.zoo import Entry, Zoo

_ROOT = Path(__file__).parents[1]
_ACTIONS = ('list', 'show', 'verify')
_JSON = flags.DEFINE_bool('json', False, 'Print JSON instead of text.', allow_override=True)
_WEIGHTS = flags.DEFINE_string('weights', '', 'The file to verify.', allow_override=True)
_DATA = flags.DEFINE_string('data', '', 'Dataset to evaluate on.', allow_override=True)
_SPLIT = flags.DEFINE_string('split', 'validation', 'Its split.', allow_override=True)
_CLIP = flags.DEFINE_string('clip', '', 'A video to classify.', allow_override=True)
_BATCH = flags.DEFINE_integer(
  'batch_size', 0, 'Videos evaluated at a time; 0: as the config has it.', 0, allow_override=True
)
_CONFIG = config_flags.DEFINE_config_file(
  'config',
  None,
  "A config in place of the entry's; --config.KEY=VALUE overrides.",
  allow_override=True,
)


def show(action: str, name: str, as_json: bool) -> str:
  """What `list` and `show` print.

  Raises:
    ConfigError: There is no such entry.
  """
  from train_lib import zoo

  models = zoo.Zoo()
  if action == 'list':
    entries = list(models.entries.values())
    return _json([dataclasses.asdict(e) for e in entries]) if as_json else zoo.table(models.entries)
  entry = models.find(name)
  return _json(dataclasses.asdict(entry)) if as_json else zoo.description(entry)


def config_of(entry: 'Entry') -> ConfigDict:
  """The entry's config with its overrides.

  Raises:
    ConfigError: It cannot be loaded.
  """
  config = command.load_config(str(_ROOT / entry.config))  # Whatever the working directory.
  lists = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.overrides.items()}
  config.update_from_flattened_dict(lists)
  return config


def verify(
  models: 'Zoo', name: str, weights: str, as_json: bool, config: ConfigDict | None = None, **options
) -> tuple[str, int]:
  """What `verify` prints, and the exit code.

  Args:
    models: the list.
    name: of the entry.
    weights: file.
    as_json: whether to print JSON.
    config: in place of the entry's.
    **options: as of `train_lib.zoo_checks.verify`.

  Raises:
    ConfigError: There is no such entry, or the config cannot be used.
  """
  from train_lib import zoo_checks
  from train_lib.experiment import parse

  experiment = parse(config_of(models.find(name)) if config is None else config)
  checks = zoo_checks.verify(models, name, weights, experiment, **options)
  failed = zoo_checks.first_failure(checks)
  values = {'model': name, 'ok': failed is None, 'checks': zoo_checks.to_json(checks)}
  return _json(values) if as_json else zoo_checks.summary(checks), int(failed is not None)


def _json(values: Any) -> str:
  return json.dumps(values, indent=2)


def main(action: str, name: str = '') -> None:
  """Lists, shows or verifies."""
  if action not in _ACTIONS:
    raise ConfigError(f'{action}: expected one of {", ".join(_ACTIONS)}.')
  if (action == 'list') == bool(name):
    raise ConfigError('list takes no name.' if name else f'{action} needs the name of a model.')
  if action != 'verify':
    print(show(action, name, _JSON.value))
    return
  if not _WEIGHTS.value:
    raise ConfigError('--weights is missing: name the file to verify.')
  from train_lib.zoo import Zoo

  text, code = verify(
    Zoo(),
    name,
    _WEIGHTS.value,
    _JSON.value,
    _CONFIG.value,
    data_dir=_DATA.value,
    split=_SPLIT.value,
    clip=_CLIP.value,
    batch_size=_BATCH.value,
  )
  print(text)
  sys.exit(code)


if __name__ == '__main__':
  command.run(main, ('ACTION',), ('NAME',))
