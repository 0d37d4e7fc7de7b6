"""The state a fresh run starts from: random, then filled from `init_from`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from errors import CheckpointMismatchError
from train_lib import checkpoint, label_map, params_file, preprocessing, weight_files
from train_lib.config_changes import config_changes, describe
from train_lib.console import say
from train_lib.experiment import Experiment
from train_lib.frozen import matcher
from train_lib.pretrained import load_pretrained, matches
from train_lib.pretrained_report import LoadReport
from train_lib.program import Program
from train_lib.state import TrainState

Weights = Mapping[str, Any]


def read_weights(program: Program, whole: bool = False) -> Weights | None:
  """Arrays of `init_from.path` (a weight file or another run's workdir), or None without one.

  They are fitted to the abstract model at once, so that what does not fit is known before anything
  is compiled or written.

  Args:
    program: The experiment's program.
    whole: Whether a head that stays random is an error, as it is when nothing will train it.

  Raises:
    CheckpointMismatchError: The file is missing, unknown, or does not fit; lists the paths. Or the
      heads are loaded and a class has no row by its name, or the run normalised pixels otherwise.
  """
  config = program.experiment.init_from
  if not config.path:
    return None
  weights: Weights
  meta: dict[str, Any] | None
  if Path(config.path).is_dir():
    weights, meta = checkpoint.load_params(config.path)
  else:
    weights = weight_files.read_arrays(config.path)
    meta = params_file.read_meta(config.path)
  rows: list[label_map.Rows] = []
  if meta is not None and config.load_head:
    weights, rows = _heads_by_name(program, weights, meta['class_names'])
  if meta is not None and 'preprocessing' in meta:  # Imported weights come without.
    preprocessing.say_changes(meta, program.experiment, Path(config.path))
  report = _fit(program, weights, meta or {})
  random = [r.target for r in report.rows if r.status == 'new' and r.target.startswith('heads_')]
  random += [f'heads_{found.task} in part' for found in rows if found.new]
  if whole and random:
    raise CheckpointMismatchError(
      f'{config.path} would leave {random} random, so that an evaluation means nothing. Set '
      '`init_from.load_head`, with a checkpoint that has these heads.'
    )
  for found in rows:
    say(str(found))
  if meta is None and any(
    row.target.startswith('heads_') and row.status != 'new' for row in report.rows
  ):
    say(label_map.unnamed(config.path))
  return weights


def _fit(program: Program, weights: Weights, meta: Mapping[str, Any]) -> LoadReport:
  """Fits weights to the abstract model; says how the trunks' settings differ, of which no array tells.

  Raises:
    CheckpointMismatchError: They do not fit; with these settings.
  """
  experiment, path = program.experiment, program.experiment.init_from.path
  changes = _trunk_changes(meta['config']['trunk'], experiment) if 'config' in meta else []
  try:
    _, report = _fill(program, program.abstract_state, weights)
  except CheckpointMismatchError as error:
    if not changes:
      raise
    raise CheckpointMismatchError(
      '\n  '.join([f'{error}\nThe trunk differs from that of {path}:', *changes])
      + '\nSet these keys to what stands first, or take all of them over: '
      f'--config=configs/finetune.py:from={path}'
    ) from error
  if changes:
    say('\n  '.join([f'The trunk differs from that of {path}:', *changes]))
  return report


def _trunk_changes(stored: Mapping[str, Any], experiment: Experiment) -> list[str]:
  """Which settings of the trunk are not the other run's."""
  trunk = experiment.trunk
  now = json.loads(json.dumps({'name': trunk.name, **trunk.arguments}))  # Tuples are lists there.
  return describe(config_changes({'trunk': stored}, {'trunk': now}))


def _heads_by_name(
  program: Program, weights: Weights, names: Mapping[str, Sequence[str]]
) -> tuple[Weights, list[label_map.Rows]]:
  """The weights with the heads that the data's classes ask for, given those of the checkpoint."""
  config, wanted = program.experiment.init_from, program.facts.class_names
  return label_map.map_heads(
    weight_files.flatten(weights),
    names,
    wanted,
    label_map.read_synonyms(config.class_synonyms),
    config.path,
    optional=[
      task for task in wanted if matches(f'heads_{task}/output_projection/kernel', config.allow_new)
    ],
    unmatched=config.unmatched_classes,
  )


def fresh_state(program: Program, weights: Weights | None) -> TrainState:
  """Initialises from the seed, then fills in `weights`; prints what was loaded."""
  state = program.init()
  if weights is None:
    say('Parameters are random: `init_from.path` is empty.')
    return state
  leaves, report = _fill(program, state, weights)
  say(str(report))
  _say_frozen_and_new(program, report)
  leaves = jax.device_put(leaves, jax.tree.map(lambda x: x.sharding, _leaves(state)))
  model_state = {name: leaves.pop(name) for name in state.model_state}
  ema = None if state.ema_params is None else jax.tree.map(lambda x: x.copy(), leaves)
  filled: TrainState = state.replace(  # type: ignore[attr-defined]
    params=leaves, model_state=model_state, ema_params=ema
  )
  return filled


def _say_frozen_and_new(program: Program, report: LoadReport) -> None:
  """Warns of parameters that nothing fills and nothing trains."""
  frozen = matcher(program.experiment.optimizer.frozen, 'optimizer.frozen')
  paths = [row.target for row in report.rows if row.status == 'new' and frozen(row.target)]
  if paths:
    say(
      f'FROZEN PARAMETERS ARE RANDOM, and stay so: {len(paths)}, such as {paths[0]}. Let '
      '`optimizer.frozen` leave them out, or start from weights that have them.'
    )


def _fill(program: Program, state: TrainState, weights: Weights) -> tuple[Any, Any]:
  config = program.experiment.init_from
  return load_pretrained(
    _leaves(state), weights, grid=program.position_grid, options=config, name=config.path
  )


def _leaves(state: TrainState) -> dict[str, Any]:
  """The parameters and, beside them, the other collections."""
  return {**state.params, **state.model_state}
