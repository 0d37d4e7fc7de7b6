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
    batch_size: Global batch size in clips.
  """

  train_examples: int
  batch_size: int

  def steps(self, duration: str, path: str) -> int:
    """The whole number of steps nearest to `duration`, at least one for a positive duration.

    Raises:
      ConfigError: `duration` is not of the form `'N steps'` or `'N epochs'`.
    """
    match = _PATTERN.fullmatch(duration)
    if match is None:
      raise ConfigError(f"`{path}` must read like '500 steps' or '2.5 epochs', got {duration!r}.")
    amount = float(match.group(1))
    if match.group(2) == 'epoch':
      amount *= self.train_examples / self.batch_size
    return max(1, round(amount)) if amount > 0 else 0

  def interval(self, duration: str, path: str) -> int:
    """Like `steps`, for something that recurs; `'never'` is 0.

    Raises:
      ConfigError: As `steps`, or the interval is zero.
    """
    if duration == 'never':
      return 0
    steps = self.steps(duration, path)
    if steps == 0:
      raise ConfigError(f"`{path}` must be a positive duration or 'never', got {duration!r}.")
    return steps


def due(step: int, interval: int) -> bool:
  """Whether something that recurs every `interval` steps (0 is never) happens at `step`."""
  return interval > 0 and step > 0 and step % interval == 0
