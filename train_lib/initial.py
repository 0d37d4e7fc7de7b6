"""The state a fresh run starts from: random, then filled from `init_from`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from train_lib import checkpoint, pretrained_vit
from train_lib.console import say
from train_lib.pretrained import load_pretrained
from train_lib.program import Program
from train_lib.state import TrainState

Weights = Mapping[str, Any]


def read_weights(program: Program) -> Weights | None:
  """Arrays of `init_from.path` (a weight file or another run's workdir), or None without one.

  They are fitted to the abstract model at once, so that what does not fit is known before anything
  is compiled or written.

  Raises:
    CheckpointMismatchError: The file is missing, unknown, or does not fit; lists the paths.
  """
  config = program.experiment.init_from
  if not config.path:
    return None
  if Path(config.path).is_dir():
    weights: Weights = checkpoint.load_params(config.path)
  else:
    weights = pretrained_vit.read_arrays(config.path)
  _fill(program, program.abstract_state.params, weights)
  return weights


def fresh_state(program: Program, weights: Weights | None) -> TrainState:
  """Initialises from the seed, then fills in `weights`; prints what was loaded from where."""
  state = program.init()
  if weights is None:
    say('Training starts from random parameters: `init_from.path` is empty.')
    return state
  params, report = _fill(program, state.params, weights)
  say(str(report))
  params = jax.device_put(params, jax.tree.map(lambda x: x.sharding, state.params))
  ema = None if state.ema_params is None else jax.tree.map(lambda x: x.copy(), params)
  filled: TrainState = state.replace(params=params, ema_params=ema)  # type: ignore[attr-defined]
  return filled


def _fill(program: Program, params: Any, weights: Weights) -> tuple[Any, Any]:
  grid = program.model.trunk.grid(program.input_shape)
  return load_pretrained(params, weights, grid=grid, options=program.experiment.init_from)
