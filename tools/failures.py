"""Inputs of a command of which some may be bad: the rest goes on, and the end tells of them."""

import contextlib
import os
from collections.abc import Iterator

from errors import DataError


class Failures:
  """Collects what is wrong with inputs.

  Attributes:
    found: (path, message) of each bad input, in order.
  """

  def __init__(self, inputs: int):
    """Expects so many inputs; the error of a single one is raised at once."""
    self.found: list[tuple[str, str]] = []
    self._inputs = inputs

  @contextlib.contextmanager
  def collect(self, path: str | os.PathLike[str]) -> Iterator[None]:
    """Notes a DataError of the `with` body as one of `path`, and goes on after the body.

    Raises:
      DataError: It is the only input.
    """
    try:
      yield
    except DataError as error:
      named = os.fspath(path)
      if self._inputs > 1:
        self.found.append((named, str(error)))
      elif named in str(error):
        raise
      else:
        raise DataError(f'{named}: {error}') from error

  def check(self) -> None:
    """To be called at the end.

    Raises:
      DataError: Inputs were bad; the message lists them.
    """
    if not self.found:
      return
    lines = [text if path in text else f'{path}: {text}' for path, text in self.found]
    raise DataError(
      f'{len(self.found)} of {self._inputs} inputs could not be used:\n  ' + '\n  '.join(lines)
    )
