"""Prints a config's parameters, tokens per stage and GFLOPs per view, without building the model.

  python -m tools.summary --config=configs/vivit/k400_base_fe.py
  python -m tools.summary --config=configs/vivit/k400_base_fe.py --json
  python -m tools.summary --config=configs/vivit/k400_large_spacetime.py:crop=320
  python -m tools.summary --config=configs/vivit/k400_base_fe.py --config.trunk.temporal_num_layers=8

A multiply-add counts as one FLOP, as in the ViViT paper's tables. Class counts come from the
dataset's manifest when it is there, otherwise from the benchmark the config names.
"""

import json

from absl import flags
from ml_collections import ConfigDict, config_flags

from tools import command
from train_lib import cost, data, tables
from train_lib.experiment import parse

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Config file; --config.KEY=VALUE overrides.'
)
flags.mark_flag_as_required('config')
_JSON = flags.DEFINE_bool(
  'json', False, 'Print one JSON object instead of a table.', allow_override=True
)


def summarise(config: ConfigDict) -> tuple[dict, str]:
  """A config's cost as plain values, and as a table for people."""
  experiment = parse(config)
  facts = data.facts_or_nominal(experiment)
  result = cost.cost_of(experiment, facts)
  dataset = experiment.dataset[1]
  views = dataset.temporal_views * dataset.spatial_views
  values = {
    'name': experiment.name,
    'input': list(result.input_shape),
    'classes': {task: facts.num_classes(task) for task in facts.class_names},
    'classes_from': facts.source,
    'parameters': result.parameters,
    'gflops_per_view': round(result.flops / 1e9, 2),
    'views': views,
    'stages': [
      {'stage': name, 'sequences': sequences, 'tokens': tokens}
      for name, sequences, tokens in result.stages
    ],
  }
  table = (
    f'{experiment.name}\n'
    f'classes          {facts.describe()}\n'
    f'{tables.cost_table(result)}\n'
    f'evaluation       {views} views, {tables.gflops(views * result.flops)} GFLOPs a video'
  )
  return values, table


def main() -> None:
  """Prints the summary."""
  values, table = summarise(_CONFIG.value)
  print(json.dumps(values, indent=2) if _JSON.value else table)


if __name__ == '__main__':
  command.run(main)
