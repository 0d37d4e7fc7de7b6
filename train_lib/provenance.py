"""What made a run: the versions of its packages and the commit of its code."""

import importlib.metadata
import subprocess
from pathlib import Path

_VERSIONED = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')


def versions() -> dict[str, str]:
  """Versions of the packages that a run's numbers depend on."""
  return {name: importlib.metadata.version(name) for name in _VERSIONED}


def git_revision() -> str:
  """Commit of the code that runs, with `+changes` when the tree differs; `unknown` outside git."""
  root = Path(__file__).parent
  try:
    revision = _git(root, 'rev-parse', 'HEAD')
    return revision + ('+changes' if _git(root, 'status', '--porcelain', '-uno') else '')
  except (OSError, subprocess.CalledProcessError):
    return 'unknown'


def _git(root: Path, *arguments: str) -> str:
  command = ['git', '-C', str(root), *arguments]
  return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
