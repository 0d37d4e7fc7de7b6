"""Which of several datasets each draw comes from: a function of (seed, draw), the same on every host."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from datasets.clip_config import require

_Array = np.ndarray[Any, np.dtype[Any]]

_STREAM = 4  # First word of the random stream; `datasets.examples` has 1 to 3.
_BLOCK = 1 << 14


class Mixture:
  """A sequence of draws, each from one of N datasets; safe for threads.

  A draw is a minibatch, or an example where minibatches are mixed. The n-th draw of a dataset is the
  n-th batch or example of its own stream, so nothing else has to be stored to resume.
  """

  def __init__(self, shares: Sequence[float] | None, size: int, seed: int):
    """Sets the order.

    Args:
      shares: relative frequencies of the datasets, positive; None: they take turns.
      size: number of datasets, N.
      seed: non-negative.

    Raises:
      ConfigError: a share that is not positive, or not N of them.
    """
    self._arguments = (shares, size, seed)
    self._bounds: _Array | None = None
    if shares is not None:
      fine = len(shares) == size and all(np.isfinite(x) and x > 0 for x in shares)
      require(fine, 'mixture', f'{size} shares above 0', list(shares))
      self._bounds = np.cumsum(shares)[:-1] / np.sum(shares)
    self._size = size
    self._seed = seed
    self._lock = threading.Lock()
    self._before = [np.zeros(size, np.int64)]  # Draws of each dataset before each block.
    self._last: tuple[int, _Array] = (-1, np.empty(0, np.int64))

  def __reduce__(self) -> tuple[Any, ...]:
    return Mixture, self._arguments

  def draw(self, number: int) -> tuple[int, int]:
    """The dataset of a draw, in [0, N), and how many earlier draws came from it."""
    if self._bounds is None:
      earlier, dataset = divmod(number, self._size)
      return dataset, earlier
    block, place = divmod(number, _BLOCK)
    before, chosen = self._block(block)
    dataset = int(chosen[place])
    return dataset, int(before[dataset] + np.count_nonzero(chosen[:place] == dataset))

  def counts(self, draws: int) -> _Array:
    """How many of the first `draws` came from each dataset, int64 [N]."""
    if self._bounds is None:
      return (draws + self._size - 1 - np.arange(self._size)) // self._size
    block, place = divmod(draws, _BLOCK)
    before, chosen = self._block(block)
    counts: _Array = before + np.bincount(chosen[:place], minlength=self._size)
    return counts

  def _block(self, block: int) -> tuple[_Array, _Array]:
    """Draws of each dataset before a block, and the datasets of the block, int64 [_BLOCK]."""
    with self._lock:
      while len(self._before) <= block:
        chosen = self._choose(len(self._before) - 1)
        self._before.append(self._before[-1] + np.bincount(chosen, minlength=self._size))
      if self._last[0] != block:
        self._last = block, self._choose(block)
      return self._before[block], self._last[1]

  def _choose(self, block: int) -> _Array:
    words = np.random.SeedSequence((_STREAM, self._seed, block))
    uniform = np.random.Generator(np.random.Philox(words)).random(_BLOCK)
    return np.searchsorted(np.asarray(self._bounds), uniform, side='right')
