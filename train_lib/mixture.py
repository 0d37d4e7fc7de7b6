"""How training batches are drawn from the datasets of an experiment."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from datasets.mixture import Mixture
from errors import ConfigError


@dataclasses.dataclass(frozen=True)
class MixtureConfig:
  """Which dataset a batch comes from (Beyond Transfer Learning, arXiv:2207.03807, section 3.2).

  Attributes:
    sampling: `'weighted'`: a batch comes from one dataset, drawn with a probability proportional to
      its number of batches an epoch (the number of its examples, as in the paper, where all have one
      batch size) or to `weights`. `'alternating'`: the datasets take turns in the order of the
      config. `'uniform'`: all are as probable. `'mixed'`: each example of a batch is drawn on its
      own, with a probability proportional to the number of examples or to `weights`.
    weights: Dataset -> relative frequency, positive; empty: the sizes decide.
  """

  sampling: Literal['weighted', 'alternating', 'uniform', 'mixed'] = 'weighted'
  weights: Mapping[str, float] = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    if self.weights and self.sampling not in ('weighted', 'mixed'):
      raise ConfigError(
        f'`weights` are {dict(self.weights)}, but `sampling` {self.sampling!r} has no use for them: '
        "leave them out, or set 'weighted' or 'mixed'."
      )
    wrong = {name: weight for name, weight in self.weights.items() if not weight > 0}
    if wrong:
      raise ConfigError(f'`weights` must be positive, got {wrong}: leave such a dataset out.')


def shares(
  config: MixtureConfig, examples: Mapping[str, int], batch_sizes: Mapping[str, int]
) -> dict[str, float]:
  """Share of each dataset in the draws, adding up to 1.

  Args:
    config: how to draw.
    examples: dataset -> examples an epoch.
    batch_sizes: dataset -> examples a draw; 1 where batches are mixed.
  """
  if config.sampling in ('alternating', 'uniform'):
    weights: Mapping[str, float] = dict.fromkeys(examples, 1.0)
  else:
    weights = config.weights or {name: n / batch_sizes[name] for name, n in examples.items()}
  total = sum(weights[name] for name in examples)
  return {name: weights[name] / total for name in examples}


def make_mixture(
  config: MixtureConfig, seed: int, examples: Mapping[str, int], batch_sizes: Mapping[str, int]
) -> Mixture:
  """The draws of a run; datasets are numbered in the order of `examples`. Arguments as `shares`."""
  if config.sampling == 'alternating':
    return Mixture(None, len(examples), seed)
  return Mixture(list(shares(config, examples, batch_sizes).values()), len(examples), seed)
