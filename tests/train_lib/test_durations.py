import pytest

from errors import ConfigError
from train_lib.durations import Clock, due

CLOCK = Clock(train_examples=1000, batch_size=64)


@pytest.mark.parametrize(
  ('text', 'steps'),
  [
    ('500 steps', 500),
    ('1 step', 1),
    ('10_000 steps', 10_000),
    ('1 epoch', 16),  # 15.625
    ('2.5 epochs', 39),  # 39.06
    ('30 epochs', 469),  # 468.75
    ('0.001 epochs', 1),
    ('0 steps', 0),
  ],
)
def test_steps(text, steps):
  assert CLOCK.steps(text, 'duration') == steps


@pytest.mark.parametrize('text', ['500', 'steps', '-3 steps', '3 days', 'never', '1e3 steps'])
def test_unreadable(text):
  with pytest.raises(ConfigError, match=r"`duration` must read like '500 steps'"):
    CLOCK.steps(text, 'duration')


def test_interval():
  assert CLOCK.interval('never', 'x') == 0
  assert CLOCK.interval('1 epoch', 'x') == 15.625
  assert CLOCK.interval('1 step', 'x') == 1
  with pytest.raises(ConfigError, match='positive'):
    CLOCK.interval('0 steps', 'x')


def test_due():
  assert [s for s in range(10) if due(s, 3)] == [3, 6, 9]
  assert not any(due(s, 0) for s in range(10))


def test_epochs_that_are_no_whole_number_of_steps_stay_aligned():
  epoch, five = CLOCK.interval('1 epoch', 'x'), CLOCK.interval('5 epochs', 'x')
  ends = [s for s in range(1, 470) if due(s, epoch)]
  assert len(ends) == 30
  assert ends[:3] == [16, 31, 47]  # 15.625, 31.25, 46.875
  assert [s for s in range(1, 470) if due(s, five)] == ends[4::5]
  assert ends[-1] == CLOCK.steps('30 epochs', 'duration')
