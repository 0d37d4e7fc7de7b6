"""The folder of `--out`."""

import os
from pathlib import Path

from errors import ConfigError


def check_out(folder: Path) -> None:
  """Raises ConfigError unless files can be written to the folder, which need not exist."""
  there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
  if not there.is_dir():
    reason = 'File exists' if there == folder else f'{there} is a file'
    raise ConfigError(f'--out={folder} cannot be made: {reason}.')
  if not os.access(there, os.W_OK | os.X_OK):
    raise ConfigError(f'--out={folder} cannot be made: {there} is not writable.')
