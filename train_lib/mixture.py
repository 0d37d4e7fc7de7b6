"""How training batches are drawn from the datasets of an experiment."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from datasets.mixture import Mixture


@dataclasses.dataclass(frozen=True)
class MixtureConfig:
  """Which dataset a batch comes from (Beyond Transfer Learning, arXiv:2207.03807, section 3.2).

  Attributes:
    sampling: `'weighted'`: a batch comes from one dataset, drawn with a probability proportional to
      its number of batches an epoch (the number of its examples, as in the paper, where all have one
      batch size) or to the datasets' `weight`. `'alternating'`: the datasets take turns, in the
      order of their names. `'uniform'`: all are as probable. `'mixed'`: each example of a batch is
      drawn on its own, with a probability proportional to the number of examples or to `weight`.
      Datasets may differ in all but their clips' frames, crop and repeats.
    allow_overlap: train although videos of a training split are in an evaluation split too, whose
      scores then are too high.
  """

  sampling: Literal['weighted', 'alternating', 'uniform', 'mixed'] = 'weighted'
  allow_overlap: bool = False

  @property
  def mixed(self) -> bool:
    """Whether a batch has examples of all datasets."""
    return self.sampling == 'mixed'


def shares(
  config: MixtureConfig,
  examples: Mapping[str, int],
  batch_sizes: Mapping[str, int],
  weights: Mapping[str, float],
) -> dict[str, float]:
  """Share of each dataset in the draws, adding up to 1.

  Args:
    config: how to draw.
    examples: dataset -> examples an epoch.
    batch_sizes: dataset -> examples a draw; 1 where batches are mixed.
    weights: dataset -> relative frequency, positive; empty: the sizes decide.
  """
  if config.sampling in ('alternating', 'uniform'):
    weights = dict.fromkeys(examples, 1.0)
  weights = weights or {name: n / batch_sizes[name] for name, n in examples.items()}
  total = sum(weights[name] for name in examples)
  return {name: weights[name] / total for name in examples}


def make_mixture(
  config: MixtureConfig,
  seed: int,
  examples: Mapping[str, int],
  batch_sizes: Mapping[str, int],
  weights: Mapping[str, float],
) -> Mixture:
  """The draws of a run; datasets are numbered in the order of `examples`. Arguments as `shares`."""
  if config.sampling == 'alternating':
    return Mixture(None, len(examples), seed)
  drawn = shares(config, examples, batch_sizes, weights)
  return Mixture(list(drawn.values()), len(examples), seed)
