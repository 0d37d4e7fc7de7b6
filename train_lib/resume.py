"""Going on with a run: what may have changed since its checkpoint, and what is said about it."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from errors import ConfigError
from train_lib import experiment as experiment_lib
from train_lib.config_changes import config_changes, describe
from train_lib.console import say
from train_lib.experiment import Experiment
from train_lib.optimizer import learning_rate_schedule
from train_lib.program import Program


def check_same_start(meta: Mapping[str, Any], experiment: Experiment, where: Path) -> None:
  """Refuses to resume where the config asks for other starting weights than the run's own.

  Args:
    meta: The checkpoint's `meta`.
    experiment: What is to go on from it.
    where: The checkpoint, for the message.

  Raises:
    ConfigError: `init_from.path` is set and is not what the run was started from.
  """
  asked, started = experiment.init_from.path, meta['config']['init_from']['path']
  if asked and asked != started:
    origin = f'from {started}' if started else 'from scratch'
    raise ConfigError(
      f'`init_from.path` is {asked}, but {where} is a checkpoint of a run that was started {origin}: '
      '`init_from` is only for a fresh workdir. To start from it, choose another --workdir; to '
      f'resume this run, set `init_from.path` to {started!r}.'
    )


def say_changes(
  meta: Mapping[str, Any], config: Mapping[str, Any], program: Program, step: int
) -> None:
  """Prints how the resolved config differs from the checkpoint's, and what that does to the rate.

  Args:
    meta: The checkpoint's `meta`.
    config: The resolved config of now.
    program: Its program.
    step: Of the checkpoint.
  """
  changes = config_changes(meta['config'], config)
  if not changes:
    return
  lines = [f'The config has changed since step {step:,}:', *describe(changes)]
  # An earlier version's config may have keys that are gone: then only the keys are compared.
  with contextlib.suppress(ConfigError):
    then = experiment_lib.parse(meta['config'])
    old, new = (_learning_rate(e, program, step) for e in (then, program.experiment))
    if old != new:
      lines.append(f'learning rate at this step: {old:.4g} -> {new:.4g}')
  say('\n  '.join(lines))


def _learning_rate(experiment: Experiment, program: Program, step: int) -> float:
  lengths = experiment_lib.lengths(experiment, program.facts.train_examples)
  return float(learning_rate_schedule(experiment.optimizer, lengths)(step))
