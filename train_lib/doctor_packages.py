"""Gathers which packages are there, for `train_lib.doctor`; imports none of them before it has looked."""

import importlib
import importlib.metadata
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from train_lib import doctor, provenance
from train_lib.doctor import Finding

_ROOT = Path(__file__).parents[1]
_PACKAGES = (
  *('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'ml-collections', 'numpy', 'av'),
  'tensorflow-cpu' if sys.platform == 'linux' and os.uname().machine == 'x86_64' else 'tensorflow',
)
# Installed where the machine needs them.
_OPTIONAL = ('libtpu', 'jax-cuda12-plugin', 'jax-cuda13-plugin')
_MODULES = (
  *('numpy', 'jax', 'flax', 'optax', 'orbax.checkpoint', 'ml_collections', 'av', 'simplejpeg'),
  *('cv2', 'tensorflow'),
)


def diagnose() -> Iterator[Finding]:
  """Code, Python and packages; where one of these stops a run, nothing else can be looked at."""
  yield Finding('code', provenance.git_revision())
  yield doctor.check_python((sys.version_info.major, sys.version_info.minor))
  found = doctor.check_versions(versions(), pinned((_ROOT / 'requirements.lock').read_text()))
  yield found
  if not found.stops:
    yield doctor.check_imports({name: import_error(name) for name in _MODULES})


def versions() -> dict[str, str | None]:
  """Package -> version; of the optional ones those that are there."""
  found = {name: installed(name) for name in _PACKAGES}
  return found | {name: installed(name) for name in _OPTIONAL if installed(name)}


def installed(name: str) -> str | None:
  """A package's version, None where it is not installed."""
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return None


def pinned(lock: str) -> dict[str, str]:
  """Package -> version, of the lines `NAME==VERSION` of a lock file."""
  return dict(re.findall(r'^([A-Za-z0-9_.-]+)==([^ ;\n]+)', lock, re.M))


def import_error(module: str) -> str:
  """Why a module cannot be imported, '': it can."""
  try:
    importlib.import_module(module)
  except Exception as error:  # noqa: BLE001 - versions that do not fit each other raise anything.
    return str(error).split('\n')[0].rstrip('.') or type(error).__name__
  return ''
