"""Lists which classes of one dataset the projections of a run relate to which of another (Table 4).

  python -m projects.multitrain.relations --checkpoint=runs/demo [--top=5] [--json] [--out=relations]

For every ordered pair of datasets, the pairs of classes whose weights W_ik are largest: the score of
the first speaks for the second. --checkpoint is the folder of a run (its newest checkpoint is read);
--step chooses another. With --json it prints one JSON object instead of text. --out=DIR writes
relations.json and relations.png, a heat map of each pair of datasets, of the classes of its strongest
pairs where there are many.
"""

import json
from pathlib import Path
from typing import Any

from absl import flags

from errors import CheckpointMismatchError, ConfigError, check_integer
from projects.multitrain import relations_chart
from projects.multitrain.projection_weights import ClassNames, Relations, relations, strongest
from train_lib import checkpoint
from train_lib.console import run_command
from train_lib.files import write_atomically

_CHECKPOINT = flags.DEFINE_string('checkpoint', '', "The run's folder.", allow_override=True)
_STEP = flags.DEFINE_integer(
  'step', None, 'Step of the checkpoint; default: the newest.', allow_override=True
)
_TOP = flags.DEFINE_integer(
  'top', 5, 'Pairs of classes of each pair of datasets.', allow_override=True
)
_JSON = flags.DEFINE_bool(
  'json', False, 'Print one JSON object instead of text.', allow_override=True
)
_OUT = flags.DEFINE_string(
  'out', '', 'Folder for relations.json and relations.png.', allow_override=True
)


def as_json(found: Relations, class_names: ClassNames, top: int) -> list[dict[str, Any]]:
  """The strongest pairs of classes of each pair of datasets as plain values."""
  return [
    {
      'source': source,
      'target': target,
      'pairs': [
        {
          'source_class': class_names[source][i],
          'target_class': class_names[target][k],
          'weight': round(float(weights[i, k]), 6),
        }
        for i, k in strongest(weights, top)
      ],
    }
    for (source, target), weights in found.items()
  ]


def as_text(entries: list[dict[str, Any]]) -> str:
  """The same for people: a heading for each pair of datasets, a line for each pair of classes."""
  parts = []
  for entry in entries:
    width = max(len(pair['source_class']) for pair in entry['pairs'])
    lines = [
      f'  {pair["weight"]:+7.3f}  {pair["source_class"]:<{width}} -> {pair["target_class"]}'
      for pair in entry['pairs']
    ]
    parts.append('\n'.join([f'{entry["source"]} -> {entry["target"]}', *lines]))
  return '\n\n'.join(parts)


def main() -> None:
  """Reads, writes and prints."""
  check_integer('--top', 'value', _TOP.value, 1, 1_000_000)
  if not _CHECKPOINT.value:
    raise ConfigError('--checkpoint is missing: name the folder of a run.')
  params, meta = checkpoint.load_params(_CHECKPOINT.value, _STEP.value)
  names, step = meta['class_names'], meta['position']['step']
  found = relations(params, names)
  if not found:
    objective = meta['config']['objective']
    settings = ', '.join(f'{key} {value!r}' for key, value in objective.items() if key != 'name')
    raise CheckpointMismatchError(
      f'{_CHECKPOINT.value}, step {step:,}, has no projections: its objective was '
      f'{objective["name"]}{f" ({settings})" if settings else ""}. They are learned by '
      "projects.multitrain.objective:MultiTrain with `objective.projection` 'added' or 'separate'."
    )
  entries = as_json(found, names, _TOP.value)
  content = json.dumps({'step': step, 'relations': entries}, indent=2, ensure_ascii=False)
  written = _write(Path(_OUT.value), content, found, names) if _OUT.value else []
  print(content if _JSON.value else '\n\n'.join([as_text(entries), *written]))


def _write(folder: Path, content: str, found: Relations, names: ClassNames) -> list[str]:
  """Writes the files and says which."""
  files = [folder / 'relations.json', folder / 'relations.png']
  try:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(files[0], content + '\n')
    relations_chart.heat_maps_png(files[1], found, names)
  except OSError as error:
    raise ConfigError(f'--out={folder}: cannot be written: {error.strerror}.') from error
  return ['\n'.join(f'Written: {file}' for file in files)]


if __name__ == '__main__':
  run_command(main)
