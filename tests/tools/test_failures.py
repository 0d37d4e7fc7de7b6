"""A bad input does not stop the others, and is not forgotten."""

import pytest

from errors import ConfigError, DataError
from tools.failures import Failures


def test_the_rest_goes_on_and_the_end_tells():
  failures, done = Failures(3), []
  for name in ('a.mp4', 'b.mp4', 'c.mp4'):
    with failures.collect(name):
      if name == 'b.mp4':
        raise DataError('b.mp4: no such video file.')
      if name == 'c.mp4':
        raise DataError('it is empty.')
      done.append(name)
  assert done == ['a.mp4']
  with pytest.raises(DataError) as raised:
    failures.check()
  assert str(raised.value) == (
    '2 of 3 inputs could not be used:\n  b.mp4: no such video file.\n  c.mp4: it is empty.'
  )


def test_a_single_input_raises_its_own_error():
  with pytest.raises(DataError, match=r'^a\.mp4: broken'), Failures(1).collect('a.mp4'):
    raise DataError('a.mp4: broken')


def test_nothing_bad_and_other_errors():
  failures = Failures(2)
  with failures.collect('a.mp4'):
    pass
  failures.check()
  with pytest.raises(ConfigError), failures.collect('a.mp4'):
    raise ConfigError('not about the input')
