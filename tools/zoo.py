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

from absl import flags

from errors import ConfigError
from tools import command

_ACTIONS = ('list', 'show', 'verify')
_JSON = flags.DEFINE_bool('json', False, 'Print JSON instead of text.', allow_override=True)
_WEIGHTS = flags.DEFINE_string('weights', '', 'The file to verify.', allow_override=True)
_DATA = flags.DEFINE_string('data', '', 'Dataset to evaluate on.', allow_override=True)
_SPLIT = flags.DEFINE_string('split', 'validation', 'Its split.', allow_override=True)
_CLIP = flags.DEFINE_string('clip', '', 'A video to classify.', allow_override=True)
_BATCH = flags.DEFINE_integer(
  'batch_size', 0, 'Videos evaluated at a time; 0: as the config has it.', 0, allow_override=True
)
_CONFIG = flags.DEFINE_string(
  'config', '', "A config in place of the entry's.", allow_override=True
)


def main(action: str, name: str = '') -> None:
  """Lists, shows or verifies."""
  if action not in _ACTIONS:
    raise ConfigError(f'{action}: expected one of {", ".join(_ACTIONS)}.')
  if (action == 'list') == bool(name):
    raise ConfigError('list takes no name.' if name else f'{action} needs the name of a model.')
  if action == 'verify' and not _WEIGHTS.value:
    raise ConfigError('--weights is missing: name the file to verify.')
  from train_lib import zoo

  models = zoo.Zoo()
  if action == 'verify':
    _verify(models, name)
  elif action == 'show':
    entry = models.find(name)
    values = dataclasses.asdict(entry)
    print(json.dumps(values, indent=2) if _JSON.value else zoo.description(entry))
  elif _JSON.value:
    print(json.dumps([dataclasses.asdict(e) for e in models.entries.values()], indent=2))
  else:
    print(zoo.table(models.entries))


def _verify(models, name: str) -> None:
  from train_lib import zoo_checks

  entry = models.find(name)
  config = command.load_config(_CONFIG.value or entry.config)
  if not _CONFIG.value:
    zoo_checks.override(config, entry)
  checks = zoo_checks.verify(
    models,
    name,
    _WEIGHTS.value,
    config,
    data_dir=_DATA.value,
    split=_SPLIT.value,
    clip=_CLIP.value,
    batch_size=_BATCH.value,
  )
  failed = zoo_checks.first_failure(checks)
  if _JSON.value:
    values = {'model': name, 'ok': failed is None, 'checks': zoo_checks.to_json(checks)}
    print(json.dumps(values, indent=2))
  else:
    print(zoo_checks.summary(checks))
  sys.exit(1 if failed else 0)


if __name__ == '__main__':
  command.run(main, ('ACTION',), ('NAME',))
