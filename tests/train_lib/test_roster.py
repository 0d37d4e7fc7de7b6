"""Processes that look for each other, as threads of this one."""

import concurrent.futures
import json
import socket
import threading

import pytest

from errors import ConfigError, ProcessError
from train_lib import roster
from train_lib.roster import Place, Stop

HOST = socket.gethostname()


@pytest.fixture
def address():
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return f'127.0.0.1:{probe.getsockname()[1]}'


@pytest.fixture
def ended(monkeypatch):
  """Messages of the processes that were ended; waits for all that are about to be."""
  messages, one = [], threading.Event()

  def end(stop):
    messages.append(stop)
    one.set()

  monkeypatch.setattr(roster, 'end', end)
  monkeypatch.setattr(roster, 'GRACE_SECONDS', 0.0)
  yield messages, one
  # One that ends later would end with the real `end`, and this process with it.
  for thread in threading.enumerate():
    if thread.name == 'roster':
      thread.join(30)
      assert not thread.is_alive()


def together(*calls):
  """Runs `roster.join` with each (place, facts, seconds) at once; results or errors, in order."""
  with concurrent.futures.ThreadPoolExecutor(len(calls)) as threads:
    running = [threads.submit(roster.join, *call) for call in calls]
    return [f.exception(timeout=60) or f.result() for f in running]


def test_processes_that_are_alike_go_together(address, ended):
  members = together(*[(Place(address, 3, i), {'config.batch_size': 8}, 30) for i in range(3)])
  assert [type(m) for m in members] == [roster.Member] * 3
  for member in reversed(members):
    member.leave()
  assert members[1].heard(0.2) is None
  assert ended[0] == []


def test_a_missing_process_is_named_to_all_that_are_there(address):
  errors = together((Place(address, 3, 0), {}, 1), (Place(address, 3, 2), {}, 1))
  assert [str(e) for e in errors] == [
    f'Waited 1 s for 3 processes at {address}: here 0 ({HOST}), 2 ({HOST}); missing 1. Run the same '
    'command there (with --process=1, where nothing else gives it its number).'
  ] * 2


def test_who_is_awaited_is_said_while_waiting(address, monkeypatch, capsys):
  monkeypatch.setattr(roster, 'REPORT_SECONDS', 0.1)
  together((Place(address, 2, 0), {}, 1))
  assert (
    f'Waiting for 2 processes at {address}: here 0 ({HOST}); missing 1.' in capsys.readouterr().err
  )


def test_process_0_that_does_not_answer_is_named(address):
  (error,) = together((Place(address, 2, 1), {}, 0.5))
  assert f'process 0 does not answer at {address} (Connection refused)' in str(error)


def test_two_processes_with_one_number_are_named(address):
  calls = [(Place(address, 3, i), {}, 30) for i in (0, 1, 1)]
  for error in together(*calls):
    assert isinstance(error, ProcessError)
    assert str(error).startswith(f'Two processes are number 1: on {HOST} (pid ')


def test_processes_that_count_differently_are_named(address):
  errors = together((Place(address, 2, 0), {}, 30), (Place(address, 3, 1), {}, 30))
  expected = f'Process 1 ({HOST}) was started with --processes=3, process 0 with --processes=2.'
  assert [str(e) for e in errors] == [expected] * 2


def test_the_process_and_the_field_that_differ_are_named(address):
  values = [{'config.seed': 0, 'version of jax': '1'}, {'config.seed': 0, 'version of jax': '2'}]
  errors = together(*[(Place(address, 2, i), v, 30) for i, v in enumerate(values)])
  expected = (
    f"Process 1 ({HOST}) differs from process 0 ({HOST}): version of jax is '2' there, '1' here."
  )
  assert [str(e).split(' Start')[0] for e in errors] == [expected] * 2


def test_what_stops_one_process_is_heard_by_the_others(address, ended):
  members = together(*[(Place(address, 3, i), {}, 30) for i in range(3)])
  members[2].leave(Stop('DataError: 3 records cannot be read', 1))
  expected = Stop(f'Process 2 ({HOST}) stopped: DataError: 3 records cannot be read', 1)
  assert [m.heard(30) for m in members] == [expected] * 3
  assert ended[1].wait(30)
  assert set(ended[0]) == {expected}


def test_a_process_that_vanishes_is_named(address, ended):
  with concurrent.futures.ThreadPoolExecutor() as threads:
    first = threads.submit(roster.join, Place(address, 2, 0), {}, 30)
    with connected(address) as other:
      hello = {'index': 1, 'count': 2, 'facts': {}, 'host': 'far', 'pid': 1}
      other.sendall((json.dumps(hello) + '\n').encode())
      member = first.result(timeout=60)
  reason = 'Process 1 (far) is gone: it was killed, or its host. Start all again to go on.'
  assert member.heard(30) == (reason, 75)


def connected(address):
  """A connection to the roster, once there is one."""
  return roster._connect(Place(address, 2, 1), 30)


def test_strangers_on_the_port_change_nothing(address, ended):
  with concurrent.futures.ThreadPoolExecutor() as threads:
    first = threads.submit(roster.join, Place(address, 2, 0), {}, 30)
    for noise in (b'GET / HTTP/1.0\r\n\r\n', b'[]\n', b'{"index": 0'):
      with connected(address) as stranger:
        stranger.sendall(noise)
    second = threads.submit(roster.join, Place(address, 2, 1), {}, 30)
    members = [m.result(timeout=60) for m in (first, second)]
  for member in reversed(members):
    member.leave()


def test_a_port_in_use_is_named():
  with socket.create_server(('', 0)) as taken:
    port = taken.getsockname()[1]
    with pytest.raises(ProcessError, match=f'cannot listen on port {port} .*in use'):
      roster.join(Place(f'localhost:{port}', 2, 0), {}, 1)


@pytest.mark.parametrize(
  ('place', 'message'),
  [
    (('host0', 2, 0), 'expected HOST:PORT'),
    (('host0:x', 2, 0), 'expected HOST:PORT'),
    (('host0:65535', 2, 0), 'PORT at most 65534'),
    (('host0:1', 2, 2), '--process=2 of --processes=2: processes are numbered from 0'),
    (('host0:1', 0, 0), '--process=0 of --processes=0'),
  ],
)
def test_places_that_cannot_be(place, message):
  with pytest.raises(ConfigError, match=message):
    Place(*place)
