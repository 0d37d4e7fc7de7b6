"""Compiled programs on disk, so that a restarted run need not compile again."""

import os
from pathlib import Path

import jax

FOLDER = 'compilation_cache'


def use(choice: str, workdir: Path) -> None:
  """Makes JAX keep what takes it over a second to compile.

  Args:
    choice: A folder; `'auto'`: `JAX_COMPILATION_CACHE_DIR` if that is set, otherwise
      `compilation_cache` in the workdir; empty: nothing is kept.
    workdir: Of the run; need not exist yet.
  """
  if choice == 'auto':
    choice = os.environ.get('JAX_COMPILATION_CACHE_DIR') or str(workdir / FOLDER)
  jax.config.update('jax_compilation_cache_dir', choice or None)
