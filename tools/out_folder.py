"""The folder of `--out`."""

import os
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
