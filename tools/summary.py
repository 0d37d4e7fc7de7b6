"""Prints a config's parameters, tokens per stage and GFLOPs per view, without building the model.

  python -m tools.summary --config=configs/vivit/k400_base_fe.py
  python -m tools.summary --config=configs/vivit/k400_base_fe.py --json
  python -m tools.summary --config=configs/vivit/k400_large_spacetime.py:crop=320
  python -m tools.summary --config=configs/vivit/k400_base_fe.py --config.trunk.temporal_num_layers=8

A multiply-add counts as one FLOP, as in the ViViT paper's tables. Where the objective has parameters of
its own, numbers are given without it, as at inference, and with it, as in training. Class counts come
from the dataset's manifest when it is there, otherwise from the benchmark the config names.
"""

import json

from absl import flags
from ml_collections import ConfigDict, config_flags

from tools import command
from train_lib import cost, data, tables
from train_lib.experiment import Experiment, parse

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Config file; --config.KEY=VALUE overrides.', allow_override=True
)
flags.mark_flag_as_required('config')
_JSON = flags.DEFINE_bool(
  'json', False, 'Print one JSON object instead of a table.', allow_override=True
)


def summarise(config: ConfigDict) -> tuple[dict, str]:
  """A config's cost as plain values, and as a table for people."""
  experiment = parse(config)
  facts = data.facts_or_nominal(experiment)
  costs = {name: cost.cost_of(experiment, facts, name) for name in experiment.datasets}
  first = next(iter(costs.values()))
  values = {
    'name': experiment.name,
    'classes': {task: facts.num_classes(task) for task in facts.class_names},
    'classes_from': facts.source,
    'parameters': first.parameters,
    'training_parameters': first.training[0] if first.training else first.parameters,
    'trainable_parameters': first.trainable,
    'datasets': {name: _values(experiment, name, result) for name, result in costs.items()},
  }
  lines = [experiment.name, f'classes          {facts.describe()}']
  for name, result in costs.items():
    views = values['datasets'][name]['views']
    if len(costs) > 1:
      lines.append(f'\n{name}')
    lines += [
      tables.cost_table(result),
      f'evaluation       {views} views, {tables.gflops(views * result.flops)} GFLOPs a video',
    ]
  lines += filter(None, [tables.layer_table(experiment.optimizer, first.groups)])
  return values, '\n'.join(lines)


def _values(experiment: Experiment, name: str, result: cost.Cost) -> dict:
  dataset = experiment.datasets[name]
  training = result.training[1] if result.training else result.flops
  return {
    'input': list(result.input_shape),
    'gflops_per_view': round(result.flops / 1e9, 2),
    'training_gflops_per_view': round(training / 1e9, 2),
    'views': dataset.temporal_views * dataset.spatial_views,
    'stages': [
      {'stage': stage, 'sequences': sequences, 'tokens': tokens}
      for stage, sequences, tokens in result.stages
    ],
    'tokenisers': [
      {'name': name, 'tokens': tokens, 'parameters': parameters}
      for name, tokens, parameters in result.tokenisers
    ],
  }


def main() -> None:
  """Prints the summary."""
  values, table = summarise(_CONFIG.value)
  print(json.dumps(values, indent=2) if _JSON.value else table)


if __name__ == '__main__':
  command.run(main)
