import pickle

import numpy as np
import pytest

from datasets.mixture import _BLOCK, Mixture
from errors import ConfigError


def drawn(mixture, draws):
  return [mixture.draw(i) for i in draws]


def test_alternating_takes_turns_in_the_order_given():
  mixture = Mixture(None, 3, seed=0)
  assert drawn(mixture, range(7)) == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (0, 2)]
  for n in range(10):
    assert mixture.counts(n).tolist() == [
      len([i for i in range(n) if i % 3 == d]) for d in range(3)
    ]


def test_draws_are_as_frequent_as_their_shares():
  mixture = Mixture([1, 2, 7], 3, seed=0)
  n = 100_000
  deviation = np.sqrt(n * np.array([0.1 * 0.9, 0.2 * 0.8, 0.7 * 0.3]))
  assert np.all(np.abs(mixture.counts(n) - n * np.array([0.1, 0.2, 0.7])) < 4 * deviation)
  # Independent draws: a pair is as frequent as the product of its shares.
  chosen = np.array([d for d, _ in drawn(mixture, range(20_000))])
  pairs = np.mean((chosen[:-1] == 1) & (chosen[1:] == 2))
  assert abs(pairs - 0.14) < 4 * np.sqrt(0.14 * 0.86 / 20_000)


def test_draw_numbers_count_the_earlier_draws_across_blocks():
  mixture = Mixture([3, 1], 2, seed=5)
  draws = range(_BLOCK - 40, _BLOCK + 40)
  seen = mixture.counts(draws.start)
  for i in draws:
    dataset, number = mixture.draw(i)
    assert number == seen[dataset]
    seen[dataset] += 1
    assert mixture.counts(i + 1).tolist() == seen.tolist()


def test_any_draw_alone_is_that_of_the_sequence_and_survives_pickling():
  first = drawn(Mixture([3, 1, 1], 3, seed=1), range(3 * _BLOCK + 5))
  for i in (0, 17, _BLOCK, 3 * _BLOCK + 4):
    assert pickle.loads(pickle.dumps(Mixture([3, 1, 1], 3, seed=1))).draw(i) == first[i]


def test_seeds_differ():
  one, two = (Mixture([1, 1], 2, seed=s) for s in (0, 1))
  assert drawn(one, range(64)) != drawn(two, range(64))


def test_one_dataset_is_a_mixture_too():
  assert drawn(Mixture([5], 1, seed=0), (0, 1, 40_000)) == [(0, 0), (0, 1), (0, 40_000)]


@pytest.mark.parametrize('shares', [[1, 0], [1, -1], [1], [1, float('nan')]])
def test_shares_that_cannot_be(shares):
  with pytest.raises(ConfigError, match='mixture: expected 2 shares above 0'):
    Mixture(shares, 2, seed=0)
