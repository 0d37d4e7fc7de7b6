"""How commands end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools import command

ROOT = Path(__file__).parents[2]
PRINTS = """
from tools import command

def main():
  for number in range(LINES):
    print(number, flush=FLUSH)

command.run(main)
"""


def run_with_a_reader_that_leaves(*command: str) -> subprocess.CompletedProcess:
  """Runs a command whose standard output nobody reads any more."""
  read, write = os.pipe()
  os.close(read)
  try:
    return subprocess.run(
      [sys.executable, *command],
      cwd=ROOT,
      check=False,
      stdout=write,
      stderr=subprocess.PIPE,
      text=True,
    )
  finally:
    os.close(write)


@pytest.mark.parametrize('unbuffered', ['', '1'])
@pytest.mark.parametrize(('lines', 'flush'), [(1, False), (9, True), (100_000, False)])
def test_output_that_is_cut_is_no_error(lines, flush, unbuffered, monkeypatch):
  monkeypatch.setenv('PYTHONUNBUFFERED', unbuffered)
  code = PRINTS.replace('LINES', str(lines)).replace('FLUSH', str(flush))
  done = run_with_a_reader_that_leaves('-c', code)
  assert (done.returncode, done.stderr) == (1, '')


def test_help_that_is_cut_is_no_error():
  done = run_with_a_reader_that_leaves('-m', 'tools.make_demo_data', '--help')
  assert (done.returncode, done.stderr) == (1, '')


def test_commands_may_be_imported_together():
  """As tests do, and notebooks: a flag of several commands needs `allow_override`."""
  folders = ('tools', 'benchmarks', 'projects')
  files = [path for folder in folders for path in sorted((ROOT / folder).rglob('*.py'))]
  names = [str(path.relative_to(ROOT).with_suffix('')).replace('/', '.') for path in files]
  code = f'import importlib\nfor name in {names}: importlib.import_module(name)'
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr


def test_another_broken_pipe_is_an_error():
  code = 'from tools import command\ndef main(): raise BrokenPipeError("a worker")\n'
  done = subprocess.run(
    [sys.executable, '-c', f'{code}\ncommand.run(main)'],
    cwd=ROOT,
    check=False,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1
  assert 'BrokenPipeError: a worker' in done.stderr


def test_arguments_that_may_be_missing():
  """One has to be there, one may be; a third is a mistake."""
  ended = []
  for arguments in (['x'], ['x', 'y'], [], ['x', 'y', 'z']):
    try:
      command._checked(lambda *given: ended.append(given), ('A',), ('B',), arguments)
    except SystemExit as error:
      ended.append(error.code)
  assert ended == [
    ('x',),
    ('x', 'y'),
    'The argument A is missing. See --help.',
    "Unexpected argument 'z': every option is --name=value. See --help.",
  ]


@pytest.mark.parametrize(
  ('settings', 'message'),
  [('', 'Interrupted.'), ("interrupted='It ends.'", 'Interrupted. It ends.')],
)
def test_an_interrupted_command_says_what_becomes_of_its_work(settings, message):
  script = f'from tools import command\ndef main():\n  raise KeyboardInterrupt\ncommand.run(main, {settings})'
  done = subprocess.run(
    [sys.executable, '-c', script], cwd=ROOT, check=False, capture_output=True, text=True
  )
  assert (done.returncode, done.stderr) == (130, f'\n{message}\n')
