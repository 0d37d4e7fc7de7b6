"""Average precision, by hand and against the definition."""

import numpy as np
import pytest

from train_lib.average_precision import average_precision, average_precisions


def test_by_hand():
  # Precision 1, 2/3 and 3/5 at the right ones, of four.
  ranked = [True, False, True, False, True]
  assert average_precision(ranked, 4) == pytest.approx((1 + 2 / 3 + 3 / 5) / 4, abs=1e-12)
  late = [False, True, True]
  assert average_precision(late, 2) == pytest.approx((1 / 2 + 2 / 3) / 2, abs=1e-12)
  # The envelope has 2/3 at both.
  assert average_precision(late, 2, interpolated=True) == pytest.approx(2 / 3, abs=1e-12)
  assert average_precision([], 3) == 0
  assert np.isnan(average_precision([False], 0))


def test_equal_scores_have_one_rank():
  scores = np.array([0.9, 0.5, 0.5, 0.5, 0.1])
  expected = (1 + 2 * 3 / 4) / 3  # One right of one, then three right of four, twice.
  for ranked in ([1, 1, 1, 0, 0], [1, 0, 1, 1, 0], [1, 1, 0, 1, 0]):
    assert average_precision(ranked, 3, scores) == pytest.approx(expected, abs=1e-12)
  assert average_precision([1, 0, 0, 0, 0], 1, np.zeros(5)) == 1 / 5


def brute_force(scores, labels):
  """Mean over the positives of the fraction of positives among what scores at least as high."""
  positives = np.flatnonzero(labels)
  if not len(positives):
    return float('nan')
  return np.mean([np.mean(labels[scores >= scores[i]]) for i in positives])


@pytest.mark.parametrize('levels', [3, 20, 10**6])
def test_random_scores_with_ties_against_the_definition(levels):
  rng = np.random.default_rng(levels)
  scores = rng.integers(0, levels, (60, 12)).astype(np.float32) / levels
  labels = rng.random((60, 12)) < rng.uniform(0.1, 0.3, 12)
  labels[:, [2, 7]] = False
  expected = [brute_force(s, y) for s, y in zip(scores.T, labels.T)]
  found = average_precisions(scores, labels)
  np.testing.assert_allclose(found, expected, rtol=1e-12)
  assert np.flatnonzero(np.isnan(found)).tolist() == [2, 7]
  order = rng.permutation(60)
  np.testing.assert_array_equal(average_precisions(scores[order], labels[order]), found)


def test_scores_that_are_not_numbers_rank_last():
  scores = np.array([[np.nan], [0.2], [0.1]])
  np.testing.assert_array_equal(average_precisions(scores, np.array([[1], [0], [0]])), [1 / 3])
  np.testing.assert_array_equal(average_precisions(scores, np.array([[0], [1], [0]])), [1.0])
