"""One trainer a workdir: a second one refuses instead of writing over the first one's files."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import jax

from errors import CheckpointError
from train_lib.console import say

FILE = 'trainer.lock'
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def only_trainer(workdir: Path) -> Iterator[None]:
  """Holds the workdir while a run trains in it; of several processes, the first one holds it.

  The lock is the kernel's (`flock`) on `trainer.lock`, which names the holder: it ends with the
  process, however that ends, so nothing stale can block a restart. Across hosts it holds where the
  file system carries locks (NFSv4, Lustre with `-o flock`; an NFS server releases those of a dead
  host when its lease ends, after about 90 seconds). A file system without locks is said and not an
  error.

  Raises:
    CheckpointError: Another trainer holds it; names its host, process and start.
  """
  if jax.process_index() > 0:
    yield
    return
  with (workdir / FILE).open('a+', encoding='utf-8') as file:
    before = _acquire(file)
    if before:
      say(
        f'The last trainer of {workdir} ({before}) did not end by itself; its lock is taken over.'
      )
    holder = {'host': socket.gethostname(), 'pid': os.getpid(), 'started': _now()}
    _write(file, json.dumps(holder))
    try:
      yield
    finally:
      _write(file, '')


def holder(workdir: Path) -> str:
  """Who trains in a workdir at this moment, for people; '': nobody, or nobody can tell."""
  path = workdir / FILE
  if not path.is_file():
    return ''
  with path.open(encoding='utf-8') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
      return _holder(file) or 'a trainer that is starting'
    except OSError as error:
      if error.errno not in _UNSUPPORTED:
        raise
  return ''


def _acquire(file: IO[str]) -> str:
  """Locks the file and returns who held it to the end of a process that was killed, or ''."""
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    raise CheckpointError(
      f'Another trainer is at work in {Path(file.name).parent}: {_holder(file)}. Two would overwrite '
      "each other's checkpoints. Wait for it, stop it, or choose another --workdir."
    ) from error
  except OSError as error:
    if error.errno not in _UNSUPPORTED:
      raise
    say(f'{file.name}: this file system has no locks, so a second trainer would go unnoticed.')
    return ''
  return _holder(file)


def _holder(file: IO[str]) -> str:
  file.seek(0)
  text = file.read()
  try:
    holder = json.loads(text)
    return f'process {holder["pid"]} on {holder["host"]}, started {holder["started"]}'
  except (ValueError, KeyError, TypeError):  # Empty after a proper end, or cut short.
    return text and 'its entry cannot be read'


def _write(file: IO[str], text: str) -> None:
  file.seek(0)
  file.truncate()
  file.write(text)
  file.flush()


def _now() -> str:
  return time.strftime('%Y-%m-%d %H:%M:%S %Z')
