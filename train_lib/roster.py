"""The processes of one run find each other before JAX starts, and hear when one of them stops.

JAX's own start-up says neither who is missing nor why another process ended. So process 0 keeps a
roster on the coordinator's port: every process (0 too) connects to it and stays connected. Messages
are JSON objects, one a line.
"""

import dataclasses
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import IO, Any, NamedTuple

from errors import ConfigError, PreemptedError, ProcessError

# JAX uses the port after it.
MAX_PORT = 65534
RETRY_SECONDS = 0.2
REPORT_SECONDS = 10.0
# How long a process may take to end by itself, with a message of its own, after another stopped.
GRACE_SECONDS = 10.0

Message = dict[str, Any]


class Stop(NamedTuple):
  """Why a process stops before its end, and what all of them exit with."""

  reason: str
  code: int


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a process stands among those of its run.

  Attributes:
    address: `HOST:PORT` of process 0.
    count: number of processes.
    index: this process, in [0, count).
  """

  address: str
  count: int
  index: int

  def __post_init__(self) -> None:
    """Raises ConfigError for an address or a number that cannot be."""
    host, _, port = self.address.rpartition(':')
    if not host or not port.isdigit() or not 1 <= int(port) <= MAX_PORT:
      raise ConfigError(
        f'--coordinator={self.address}: expected HOST:PORT, PORT at most {MAX_PORT}.'
      )
    if self.count < 1 or not 0 <= self.index < self.count:
      raise ConfigError(
        f'--process={self.index} of --processes={self.count}: processes are numbered from 0.'
      )

  @property
  def target(self) -> tuple[str, int]:
    """Host and port of `address`."""
    host, _, port = self.address.rpartition(':')
    return host.strip('[]'), int(port)


def join(place: Place, facts: Mapping[str, Any], wait_seconds: float) -> 'Member':
  """Enters this process on the roster; returns once every process is there.

  Args:
    place: of this process; process 0 keeps the roster.
    facts: field -> value that must be alike in all processes; values are JSON's.
    wait_seconds: how long to wait for the others.

  Raises:
    ProcessError: A process is missing, is there twice, or differs; or the port is taken.
  """
  if place.index == 0:
    _Keeper(place, wait_seconds).start()
  connection = _connect(place, wait_seconds)
  lines = connection.makefile('r', encoding='utf-8')
  whoami = {'host': socket.gethostname(), 'pid': os.getpid()}
  _send(connection, {'index': place.index, 'count': place.count, 'facts': dict(facts), **whoami})
  while True:
    message = _receive(lines) or {'error': f'Process 0 at {place.address} ended while it waited.'}
    if 'error' in message:
      raise ProcessError(message['error'])
    if 'go' in message:
      return Member(connection, lines)
    print(message['waiting'], file=sys.stderr, flush=True)


def _connect(place: Place, wait_seconds: float) -> socket.socket:
  begin = reported = time.monotonic()
  while True:
    try:
      connection = socket.create_connection(place.target, timeout=RETRY_SECONDS + 1)
      connection.settimeout(None)
      return connection
    except OSError as error:
      silence = f'process 0 does not answer at {place.address} ({error.strerror or error})'
    now = time.monotonic()
    if now - begin > wait_seconds:
      raise ProcessError(
        f'Process {place.index} ({socket.gethostname()}) waited {wait_seconds:.0f} s, but {silence}. '
        'Run the same command there with --process=0, and let the other hosts reach that port and '
        'the next one.'
      )
    if now - reported > REPORT_SECONDS:
      print(f'Waiting: {silence}.', file=sys.stderr, flush=True)
      reported = now
    time.sleep(RETRY_SECONDS)


class Member:
  """This process on the roster, until it leaves."""

  def __init__(self, connection: socket.socket, lines: IO[str]):
    self._connection = connection
    self._lines = lines
    self._stop: Stop | None = None
    self._heard = threading.Event()
    threading.Thread(target=self._watch, name='roster', daemon=True).start()

  def _watch(self) -> None:
    """Ends this process, blocked as it may be in a collective, when another one stopped."""
    message = _receive(self._lines) or {'stop': _gone('Process 0')}
    if 'closed' in message:
      return
    self._stop = Stop(*message['stop'])
    self._heard.set()
    time.sleep(GRACE_SECONDS)
    end(self._stop)

  def heard(self, wait_seconds: float) -> Stop | None:
    """Which process stopped and why, if that is heard within `wait_seconds`."""
    self._heard.wait(wait_seconds)
    return self._stop

  def leave(self, stop: Stop | None = None) -> None:
    """Tells the others that this process is done, or why it stops before its end."""
    _send(self._connection, {'left': stop})
    if stop:
      self.heard(RETRY_SECONDS * 10)  # Until the others have been told: process 0 tells them.


def end(stop: Stop) -> None:
  """Ends the process at once, without JAX's wait for the others at exit."""
  print(stop.reason, file=sys.stderr, flush=True)
  sys.stdout.flush()
  os._exit(stop.code)


class _Keeper:
  """Keeps the roster, in threads of process 0."""

  def __init__(self, place: Place, wait_seconds: float):
    self._place = place
    self._wait_seconds = wait_seconds
    self._here: dict[int, tuple[socket.socket, Message]] = {}
    self._changed = threading.Condition()
    self._complete = False
    self._error: str | None = None
    _, port = place.target
    try:
      self._listener = _listen(port)
    except OSError as error:
      raise ProcessError(
        f'Process 0 cannot listen on port {port} of {socket.gethostname()}: {error.strerror}. Does '
        'another run use it? Choose another port in --coordinator, the same for every process.'
      ) from error

  def start(self) -> None:
    for target in (self._accept, self._gather):
      threading.Thread(target=target, name='roster keeper', daemon=True).start()

  def _accept(self) -> None:
    while True:
      try:
        connection, _ = self._listener.accept()
      except OSError:  # Closed: everybody is here, or they are awaited no longer.
        return
      connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
      threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

  def _serve(self, connection: socket.socket) -> None:
    """Enters one process, and tells the others how it ends."""
    lines = connection.makefile('r', encoding='utf-8')
    hello = _receive(lines)
    if hello is None or not hello.keys() >= {'index', 'count', 'facts', 'host', 'pid'}:
      connection.close()  # Not one of ours: a port scanner, a health check.
      return
    index = hello['index']
    with self._changed:
      other = self._here.get(index)
      if hello['count'] != self._place.count:
        self._error = (
          f'{_name(hello)} was started with --processes={hello["count"]}, process 0 with '
          f'--processes={self._place.count}.'
        )
      elif other is not None:
        self._error = (
          f'Two processes are number {index}: on {other[1]["host"]} (pid {other[1]["pid"]}) and on '
          f'{hello["host"]} (pid {hello["pid"]}). Give each its own --process.'
        )
      if self._error:
        _send(connection, {'error': self._error})
        self._changed.notify_all()
        return
      self._here[index] = connection, hello
      self._changed.notify_all()
    last = _receive(lines)
    with self._changed:
      if not self._complete:
        self._here.pop(index, None)  # Nobody relies on it yet: it may come again.
      elif last is None:
        self._tell({'stop': _gone(_name(hello))})
      elif last['left']:
        reason, code = last['left']
        self._tell({'stop': Stop(f'{_name(hello)} stopped: {reason}', code)})
      elif index == 0:
        self._tell({'closed': True})  # The roster ends with process 0.

  def _gather(self) -> None:
    """Waits for every process, then tells all of them to go or what is wrong."""
    begin = reported = time.monotonic()
    with self._changed:
      while not self._error and len(self._here) < self._place.count:
        now = time.monotonic()
        if now - begin > self._wait_seconds:
          self._error = self._missing(f'Waited {self._wait_seconds:.0f} s')
        elif now - reported > REPORT_SECONDS:
          reported = now
          self._tell({'waiting': self._missing('Waiting')})
        self._changed.wait(RETRY_SECONDS)
      self._listener.close()
      error = self._error or self._difference()
      self._complete = error is None
      self._tell({'error': error} if error else {'go': True})

  def _missing(self, begin: str) -> str:
    missing = [i for i in range(self._place.count) if i not in self._here]
    here = ', '.join(f'{i} ({self._here[i][1]["host"]})' for i in sorted(self._here))
    numbers = ', '.join(map(str, missing))
    return (
      f'{begin} for {self._place.count} processes at {self._place.address}: here {here or "none"}; '
      f'missing {numbers}. Run the same command there'
      f' (with --process={missing[0]}, where nothing else gives it its number).'
    )

  def _difference(self) -> str | None:
    first = self._here[0][1]
    for _, hello in (self._here[i] for i in sorted(self._here)):
      for field in sorted(first['facts'].keys() | hello['facts'].keys()):
        mine, others = (h['facts'].get(field, 'absent') for h in (first, hello))
        if mine != others:
          return (
            f'{_name(hello)} differs from process 0 ({first["host"]}): {field} is {others!r} there, '
            f'{mine!r} here. Start every process with the same command and the same installation.'
          )
    return None

  def _tell(self, message: Message) -> None:
    for connection, _ in self._here.values():
      _send(connection, message)


def _listen(port: int) -> socket.socket:
  if socket.has_dualstack_ipv6():
    return socket.create_server(('', port), family=socket.AF_INET6, dualstack_ipv6=True)
  return socket.create_server(('', port))


def _gone(name: str) -> Stop:
  reason = f'{name} is gone: it was killed, or its host. Start all again to go on.'
  return Stop(reason, PreemptedError.exit_code)


def _name(hello: Message) -> str:
  return f'Process {hello["index"]} ({hello["host"]})'


def _send(connection: socket.socket, message: Message) -> None:
  """Sends to a process that may be gone: whoever reads its connection finds that out."""
  try:
    connection.sendall((json.dumps(message) + '\n').encode())
  except OSError:
    connection.close()


def _receive(lines: IO[str]) -> Message | None:
  """The next message, or None when the connection has ended or speaks something else."""
  try:
    message = json.loads(lines.readline())
  except (OSError, ValueError):
    return None
  return message if isinstance(message, dict) else None
