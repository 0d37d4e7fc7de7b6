"""How sure a difference between two models is, against published and hand-computed numbers."""

import numpy as np
import pytest

from train_lib.paired import Means, Outcomes


def test_counts_and_accuracies():
  found = Outcomes.of([True, True, False, False, False], [True, False, True, True, False])
  assert found == Outcomes(both=1, only_a=1, only_b=2, neither=1)
  assert (found.n, found.a, found.b, found.difference) == (5, 0.4, 0.6, 0.2)


def test_interval_of_newcombe():
  """An example of his: 36 alike, 12 of the one kind, 2 of the other."""
  low, high = Outcomes(36, 2, 12, 0).interval
  assert (low, high) == pytest.approx((0.0569, 0.3404), abs=5e-5)
  assert Outcomes(36, 12, 2, 0).interval == pytest.approx((-high, -low))


def test_exact_test_of_mcnemar():
  assert Outcomes(50, 1, 5, 10).p_value == pytest.approx(2 * (1 + 6) / 2**6)
  assert Outcomes(50, 5, 1, 10).p_value == pytest.approx(2 * (1 + 6) / 2**6)
  assert Outcomes(50, 0, 0, 10).p_value == 1


@pytest.mark.parametrize('counts', [(9, 0, 0, 0), (0, 0, 0, 9), (5, 0, 0, 4)])
def test_agreement_on_few_examples_is_not_certainty(counts):
  low, high = Outcomes(*counts).interval
  assert low < 0 < high


def test_means_over_classes():
  a = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
  found = Means(a, a + [0.1, 0.2, 0.3, 0, -0.1])
  assert (found.a, found.b, found.difference) == pytest.approx((0.3, 0.4, 0.1))
  assert found.p_value == pytest.approx(2 * (1 + 4) / 2**4)
  low, high = found.interval
  assert -0.1 <= low < 0.1 < high <= 0.3
  assert Means(a, a + 0.25).interval == pytest.approx((0.25, 0.25))
  assert Means(a, a).p_value == 1
