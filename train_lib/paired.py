"""Two models on the same examples: how sure a difference between them is."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

_Array = np.ndarray[Any, np.dtype[Any]]
_RESAMPLES = 10_000


@dataclasses.dataclass(frozen=True)
class Outcomes:
  """How often A and B were right on the same n examples.

  Attributes:
    both: Both were.
    only_a: A alone was.
    only_b: B alone was.
    neither: None was.
  """

  both: int
  only_a: int
  only_b: int
  neither: int

  @classmethod
  def of(cls, a: Sequence[bool] | _Array, b: Sequence[bool] | _Array) -> 'Outcomes':
    """Counts bool [n] and [n]."""
    x, y = np.asarray(a, bool), np.asarray(b, bool)
    return cls(*(int(np.sum(z)) for z in (x & y, x & ~y, ~x & y, ~x & ~y)))

  @property
  def n(self) -> int:
    """Number of examples."""
    return self.both + self.only_a + self.only_b + self.neither

  @property
  def a(self) -> float:
    """A's accuracy, in [0, 1]."""
    return (self.both + self.only_a) / self.n

  @property
  def b(self) -> float:
    """B's accuracy, in [0, 1]."""
    return (self.both + self.only_b) / self.n

  @property
  def difference(self) -> float:
    """B's accuracy less A's."""
    return (self.only_b - self.only_a) / self.n

  @property
  def p_value(self) -> float:
    """McNemar's exact test, two-sided: the examples that one alone got right are a coin's throws."""
    return _sign_test(self.only_a, self.only_b)

  @property
  def interval(self) -> tuple[float, float]:
    """95 % interval of `difference`.

    Wilson's intervals of both accuracies, put together with their correlation: method 10 of Newcombe,
    Statistics in Medicine 17 (1998). Unlike a bootstrap it is no single point where A and B agree.
    """
    low_a, high_a = _wilson(self.both + self.only_a, self.n)
    low_b, high_b = _wilson(self.both + self.only_b, self.n)
    r = self._correlation()
    down, up = (self.b - low_b, high_a - self.a), (high_b - self.b, self.a - low_a)
    below, above = (math.sqrt(max(x * x - 2 * r * x * y + y * y, 0.0)) for x, y in (down, up))
    return self.difference - below, self.difference + above

  def _correlation(self) -> float:
    right_a, right_b = self.both + self.only_a, self.both + self.only_b
    product = right_a * (self.n - right_a) * right_b * (self.n - right_b)
    if not product:
      return 0.0
    excess = self.both * self.neither - self.only_a * self.only_b
    corrected = max(excess - self.n / 2, 0.0) if excess > 0 else float(excess)
    return corrected / math.sqrt(product)


@dataclasses.dataclass(frozen=True, eq=False)
class Means:
  """Means over the same classes, such as of average precision.

  Attributes:
    values_a: A's of each class, float64 [K].
    values_b: B's, likewise.
  """

  values_a: _Array
  values_b: _Array

  @property
  def n(self) -> int:
    """Number of classes."""
    return len(self.values_a)

  @property
  def a(self) -> float:
    """A's mean."""
    return float(self.values_a.mean())

  @property
  def b(self) -> float:
    """B's mean."""
    return float(self.values_b.mean())

  @property
  def difference(self) -> float:
    """B's mean less A's."""
    return self.b - self.a

  @property
  def better_a(self) -> int:
    """Number of classes that A is better in."""
    return int(np.sum(self.values_a > self.values_b))

  @property
  def better_b(self) -> int:
    """Number of classes that B is better in."""
    return int(np.sum(self.values_b > self.values_a))

  @property
  def p_value(self) -> float:
    """The sign test over classes: of those that changed, better and worse are a coin's throws."""
    return _sign_test(self.better_a, self.better_b)

  @functools.cached_property
  def interval(self) -> tuple[float, float]:
    """95 % bootstrap interval of `difference` over classes; the same numbers every time."""
    change = self.values_b - self.values_a
    rng = np.random.default_rng(0)
    means = [change[rng.integers(self.n, size=self.n)].mean() for _ in range(_RESAMPLES)]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def _wilson(right: int, n: int) -> tuple[float, float]:
  interval = stats.binomtest(right, n).proportion_ci(0.95, 'wilson')
  return float(interval.low), float(interval.high)


def _sign_test(one: int, other: int) -> float:
  return float(stats.binomtest(one, one + other).pvalue) if one + other else 1.0
