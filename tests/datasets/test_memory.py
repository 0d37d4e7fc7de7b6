import numpy as np

from datasets.memory import Pool


def address(array):
  return array.__array_interface__['data'][0]


def test_memory_comes_back_when_the_last_view_is_gone():
  pool = Pool((2, 3))
  array = pool.empty()
  assert (array.shape, array.dtype) == ((2, 3), np.uint8)
  where = address(array)
  view = array.reshape(-1)[3:]
  del array
  other = pool.empty()
  assert address(other) != where
  view[...] = 7
  del view
  again = pool.empty()
  assert address(again) == where
  assert again[1].tolist() == [7, 7, 7]


def test_arrays_outlive_their_pool():
  pool = Pool((4,))
  array = pool.empty()
  array[...] = 5
  del pool
  np.empty(4, np.uint8)[...] = 1
  assert array.tolist() == [5] * 4
