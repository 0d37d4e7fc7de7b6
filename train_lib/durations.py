"""Durations in a config: `'500 steps'`, `'2.5 epochs'`, or `'never'`."""

import dataclasses
import re

from errors import ConfigError

_PATTERN = re.compile(r'\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*(step|epoch)s?\s*')


@dataclasses.dataclass(frozen=True)
class Clock:
  """Converts durations to steps.

  Attributes:
    train_examples: Examples in one epoch, from the manifest.
    batch_size: Clips a step, the mean where steps differ.
  """

  train_examples: int
  batch_size: float

  def steps(self, duration: str, path: str) -> int:
    """The whole number of steps nearest to `duration`, at least one for a positive duration.

    Raises:
      ConfigError: `duration` is not of the form `'N steps'` or `'N epochs'`.
    """
    amount = self._exact(duration, path)
    return max(1, round(amount)) if amount > 0 else 0

  def interval(self, duration: str, path: str) -> float:
    """Steps between events, exact for epochs of no whole number of steps; `'never'` is 0.

    Raises:
      ConfigError: As `steps`, or the interval is zero.
    """
    if duration == 'never':
      return 0.0
    steps = self._exact(duration, path)
    if steps == 0:
      raise ConfigError(f"`{path}` must be a positive duration or 'never', got {duration!r}.")
    return max(1.0, steps)

  def _exact(self, duration: str, path: str) -> float:
    match = _PATTERN.fullmatch(duration)
    if match is None:
      raise ConfigError(f"`{path}` must read like '500 steps' or '2.5 epochs', got {duration!r}.")
    amount = float(match.group(1))
    return amount * self.train_examples / self.batch_size if match.group(2) == 'epoch' else amount


def due(step: int, interval: float) -> bool:
  """Whether something that recurs every `interval` steps (0 is never) happens at `step`.

  Events fall on the steps nearest to multiples of the interval, so that every fifth epoch's end is
  also the end of five epochs.
  """
  if interval <= 0 or step <= 0:
    return False
  return round(round(step / interval) * interval) == step
