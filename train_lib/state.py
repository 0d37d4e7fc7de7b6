"""The training state and the random streams, both plain functions of (seed, name, step)."""

import zlib
from collections.abc import Mapping
from typing import Any

import flax
import jax

PyTree = Any

# Key of `params` under which the objective's own parameters are, if it has any.
OBJECTIVE = 'objective'
# Collection of what batch normalisation has averaged.
STATISTICS = 'batch_stats'


@flax.struct.dataclass
class TrainState:
  """What a checkpoint holds; neither an optimiser nor a random key.

  Attributes:
    step: Number of updates made, int32 scalar.
    params: The parameters of the model and, under `'objective'`, of the objective; float32.
    opt_state: The optimiser's state.
    model_state: Collections other than parameters, such as BatchNorm statistics.
    ema_params: Moving average of the parameters, or None when `ema_decay` is 0.
    skipped_steps: Number of updates left out because they were not finite, int32 scalar.
  """

  step: jax.Array
  params: PyTree
  opt_state: PyTree
  model_state: PyTree
  ema_params: PyTree
  skipped_steps: jax.Array

  @property
  def eval_variables(self) -> dict[str, PyTree]:
    """Variables to evaluate with: the averaged parameters when there are any."""
    params = self.params if self.ema_params is None else self.ema_params
    return {'params': model_params(params), **self.model_state}


def model_params(params: Mapping[str, Any]) -> dict[str, Any]:
  """The parameters without the objective's, which only training needs."""
  return {name: leaves for name, leaves in params.items() if name != OBJECTIVE}


def random_key(seed: int, stream: str, step: jax.Array | int = 0) -> jax.Array:
  """The key of one named random stream at one step."""
  key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(stream.encode()))
  return jax.random.fold_in(key, step)
