"""The folder of `--out`."""

import os
from collections.abc import Iterable
from pathlib import Path

from errors import ConfigError


def nearest(folder: Path) -> Path:
  """The folder, or the closest one above it that is there.

  Raises:
    ConfigError: The name is too long, or the like.
  """
  try:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
  except OSError as error:
    raise ConfigError(f'--out={folder} cannot be made: {error.strerror}.') from error


def check_out(folder: Path) -> None:
  """Raises ConfigError unless files can be written to the folder, which need not exist."""
  there = nearest(folder)
  if not there.is_dir():
    reason = 'File exists' if there == folder else f'{there} is a file'
    raise ConfigError(f'--out={folder} cannot be made: {reason}.')
  if not os.access(there, os.W_OK | os.X_OK):
    raise ConfigError(f'--out={folder} cannot be made: {there} is not writable.')


def check_apart(folder: Path, inputs: Iterable[Path]) -> None:
  """Raises ConfigError if the folder is that of an input, or lies in one that is a folder itself.

  What is written there could replace an input of the same name, or be taken for one the next time.
  """
  out = folder.resolve()
  for path in inputs:
    folders = {path.resolve()} if path.is_dir() else {path.parent.resolve(), path.resolve().parent}
    if folders & {out, *(out.parents if path.is_dir() else ())}:
      raise ConfigError(
        f'--out={folder} is in the folder of {path}: what is written could replace it, or be taken '
        'for an input the next time. Name a folder elsewhere.'
      )
