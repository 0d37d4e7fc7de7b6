"""Memory for batches that is used again as soon as nothing refers to it.

Fresh memory is dear: the kernel clears its pages when they are first touched, which takes longer than
copying a crop into them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

_Array = np.ndarray[Any, np.dtype[Any]]


class Pool:
  """Makes uint8 arrays of one shape. Safe for threads.

  An array's memory comes back when the array, all views of it and all device arrays that share it
  are gone. So the pool holds no more than was ever in use at once, until it goes itself.
  """

  def __init__(self, shape: Sequence[int]):
    """Makes nothing yet."""
    self._shape = tuple(shape)
    self._free: list[_Array] = []

  def empty(self) -> _Array:
    """An array with arbitrary content."""
    try:
      memory = self._free.pop()
    except IndexError:
      memory = np.empty(self._shape, np.uint8)
    return np.asarray(_Lease(memory, self._free))


class _Lease:
  """What an array and all its views have as their base: gives the memory back when they are gone."""

  def __init__(self, memory: _Array, free: list[_Array]):
    self.__array_interface__ = memory.__array_interface__
    self._memory = memory
    self._free = free

  def __del__(self) -> None:
    self._free.append(self._memory)
