"""What the projections of a run relate: weights by ordered pair of datasets."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from errors import CheckpointMismatchError
from train_lib.state import OBJECTIVE

Relations = dict[tuple[str, str], np.ndarray]
ClassNames = Mapping[str, Sequence[str]]


def relations(params: Mapping[str, Any], class_names: ClassNames) -> Relations:
  """The projections' weights by ordered pair of tasks.

  Args:
    params: With the objective's own under `'objective'`, as a `TrainState` or `checkpoint.load_params`
      has them.
    class_names: Task -> names of its classes, as a checkpoint's `meta` has them.

  Returns:
    (source, target) -> float32 [C_source, C_target], in the order of `class_names`. Empty where the
    objective has no projections.

  Raises:
    CheckpointMismatchError: A weight is not finite.
  """
  own = params.get(OBJECTIVE, {})
  found = {
    (source, target): np.asarray(own[f'from_{source}'][f'to_{target}'])
    for source in class_names
    for target in class_names
    if f'to_{target}' in own.get(f'from_{source}', {})
  }
  for (source, target), weights in found.items():
    if not np.isfinite(weights).all():
      raise CheckpointMismatchError(
        f'objective/from_{source}/to_{target} has {np.sum(~np.isfinite(weights)):,} weights that are not '
        'finite: the run has diverged. Take an earlier checkpoint.'
      )
  return found


def strongest(weights: np.ndarray, count: int) -> list[tuple[int, int]]:
  """(row, column) of the `count` largest entries of a matrix, in order; the first of equal ones first."""
  places = np.argsort(-weights, axis=None, kind='stable')[:count]
  return [(int(row), int(column)) for row, column in zip(*np.unravel_index(places, weights.shape))]
