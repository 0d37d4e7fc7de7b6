"""One trainer a workdir."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from errors import CheckpointError
from train_lib import workdir_lock

HOLDER = """
import fcntl, json, sys, time
file = open(sys.argv[1], 'a+')
fcntl.flock(file, fcntl.LOCK_EX)
file.write(json.dumps({'host': 'there', 'pid': 7, 'started': 'today'}))
file.flush()
print('held', flush=True)
time.sleep(600)
"""


@pytest.fixture
def other_trainer(tmp_path):
  """Another process that holds the lock of `tmp_path`."""
  command = [sys.executable, '-c', HOLDER, str(tmp_path / workdir_lock.FILE)]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
    assert process.stdout.readline() == 'held\n'
    yield process
    process.kill()


def test_the_second_trainer_refuses_and_names_the_first(other_trainer, tmp_path):
  message = rf'{tmp_path}: process 7 on there, started today\. Two would overwrite'
  with pytest.raises(CheckpointError, match=message), workdir_lock.only_trainer(tmp_path):
    pass


def test_the_lock_of_a_killed_trainer_is_taken_over_and_said(other_trainer, tmp_path, capsys):
  other_trainer.send_signal(signal.SIGKILL)
  other_trainer.wait()
  with workdir_lock.only_trainer(tmp_path):
    holder = json.loads((tmp_path / workdir_lock.FILE).read_text())
    assert (holder['host'], holder['pid']) == (socket.gethostname(), os.getpid())
  assert '(process 7 on there, started today) did not end by itself' in capsys.readouterr().out


def test_a_trainer_that_ends_by_itself_leaves_nothing_to_say(tmp_path, capsys):
  for _ in range(2):
    with pytest.raises(ZeroDivisionError), workdir_lock.only_trainer(tmp_path):
      raise ZeroDivisionError
  assert (tmp_path / workdir_lock.FILE).read_text() == ''
  assert capsys.readouterr().out == ''


def test_an_entry_that_was_cut_short_is_taken_over(tmp_path, capsys):
  (tmp_path / workdir_lock.FILE).write_text('{"host": "th')
  with workdir_lock.only_trainer(tmp_path):
    pass
  assert 'its entry cannot be read' in capsys.readouterr().out


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
  def unsupported(*_):
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(fcntl, 'flock', unsupported)
  with workdir_lock.only_trainer(tmp_path):
    pass
  assert 'this file system has no locks' in capsys.readouterr().out


def test_only_the_first_process_holds_it(other_trainer, tmp_path, monkeypatch):
  monkeypatch.setattr(workdir_lock.jax, 'process_index', lambda: 1)
  with workdir_lock.only_trainer(tmp_path):
    pass
