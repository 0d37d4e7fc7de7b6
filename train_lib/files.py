"""Files that are whole or not there."""

import os
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
  """Writes a text file so that a kill or a crash leaves the one before, or the new one."""
  partial = path.with_name(path.name + '.partial')
  with partial.open('w', encoding='utf-8') as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  os.replace(partial, path)
