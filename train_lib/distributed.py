"""Starting one run on several hosts: every process runs the same command and becomes a part of it."""

import json
import socket
import traceback
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Self

import jax
from jax._src import clusters

from errors import ConfigError, PreemptedError, TubeletError
from train_lib import config_changes, provenance, roster
from train_lib.roster import Place, Stop

# After so long without a sign of a process JAX ends the others (SIGABRT, exit code 134). Only where
# a host vanishes without closing its connections; otherwise the roster ends them before.
HEARTBEAT_SECONDS = 60
# A process that fails because another is gone first waits so long to hear which one.
HEARSAY_SECONDS = 3.0


def find_place(
  coordinator: str | None, processes: int | None, process: int | None
) -> tuple[Place | None, Sequence[int] | None]:
  """Where this process stands, from flags or from the cluster JAX detects (TPU pods, Slurm, ...).

  Args:
    coordinator: `HOST:PORT` of process 0; JAX itself uses PORT + 1.
    processes: how many there are; 1 runs alone, whatever the cluster says.
    process: number of this one.

  Returns:
    Its place, or None for a process that runs alone; and the local devices that are its own, where
    the cluster runs several processes on a host.

  Raises:
    ConfigError: Some of the three are given, but not all, or they cannot be.
  """
  given = {'--coordinator': coordinator, '--processes': processes, '--process': process}
  if processes == 1:
    return None, None
  if any(value is not None for value in given.values()):
    missing = [flag for flag, value in given.items() if value is None]
    if missing:
      raise ConfigError(f'{", ".join(missing)} is missing: give {", ".join(given)}, or none.')
    return Place(str(coordinator), int(processes or 0), int(process or 0)), None
  # Not public, and the only way to know the cluster's answer before JAX waits on it. JAX knows more
  # launchers than we could keep up with.
  address, count, index, devices = clusters.ClusterEnv.auto_detect_unset_distributed_params(
    None, None, None, None, None, 60
  )
  if address is None or count is None or index is None or count == 1:
    return None, None
  host, _, port = address.rpartition(':')
  return Place(f'{host}:{min(int(port), roster.MAX_PORT)}', count, index), devices


def facts(mode: str, workdir: str, config_json: str) -> dict[str, Any]:
  """What must be alike in every process of a run: field -> value."""
  config = {f'config.{k}': v for k, v in config_changes.flat(json.loads(config_json)).items()}
  versions = {f'version of {k}': v for k, v in provenance.versions().items()}
  revision = provenance.git_revision()
  return {'--mode': mode, '--workdir': workdir, 'code revision': revision, **versions, **config}


def joined(
  place: Place | None,
  facts: Mapping[str, Any],
  wait_seconds: float,
  local_device_ids: Sequence[int] | None = None,
) -> AbstractContextManager[Any]:
  """`Joined`, or nothing for a process that runs alone."""
  if place is None:
    return nullcontext()
  return Joined(place, facts, wait_seconds, local_device_ids)


class Joined:
  """A context in which this process is one of several; it comes before any device is used.

  Whatever ends one process ends the others within `roster.GRACE_SECONDS`, each saying which and why,
  with the exit code of its error, or 75 when it was killed. `PreemptedError`, which all of them raise
  at one step, and `SystemExit` count as an orderly end.

  Args:
    place: of this process.
    facts: what must be alike in all.
    wait_seconds: how long to wait for the others.
    local_device_ids: devices of this host that are this process's, or None for all.

  Raises:
    ProcessError: A process is missing, is there twice, or differs.
  """

  def __init__(
    self,
    place: Place,
    facts: Mapping[str, Any],
    wait_seconds: float,
    local_device_ids: Sequence[int] | None = None,
  ):
    self._me = f'Process {place.index} ({socket.gethostname()})'
    self._member = roster.join(place, facts, wait_seconds)
    host, port = place.address.rpartition(':')[0], place.target[1]
    jax.distributed.initialize(
      f'{host}:{port + 1}',
      place.count,
      place.index,
      local_device_ids,
      cluster_detection_method='deactivate',
      initialization_timeout=max(round(wait_seconds), 30),
      heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
    )

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    if error is None or isinstance(error, SystemExit | PreemptedError):
      self._member.leave()  # All of them end here.
      return
    stop = Stop(f'{type(error).__name__}: {error}', getattr(error, 'exit_code', 1))
    if not isinstance(error, TubeletError | KeyboardInterrupt):
      others = self._member.heard(HEARSAY_SECONDS)
      if others:  # Why a collective failed here is told there.
        roster.end(others)
      traceback.print_exception(error)
    self._member.leave(stop)
    roster.end(stop._replace(reason=f'{self._me} stopped: {stop.reason}'))
