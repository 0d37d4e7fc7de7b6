"""The command prints and writes what the comparison says."""

import json

import pytest
from absl import flags
from absl.testing import flagsaver

from errors import ConfigError
from tests.train_lib.test_compare import A, B, write
from tools import compare


@pytest.fixture
def runs(tmp_path):
  """Folders of two runs with an evaluation each."""
  for name, lines in (('a', A), ('b', B)):
    write(tmp_path / name / 'eval' / 'k400' / 'test' / '00000010', lines)
  flags.FLAGS.mark_as_parsed()
  # Of the flags' defaults, those of the command that was imported last hold.
  unset = {'task': '', 'dataset': '', 'split': '', 'step': None, 'out': ''}
  with flagsaver.flagsaver(**unset, intersect=False, json=False):
    yield str(tmp_path / 'a'), str(tmp_path / 'b')


def test_text_and_files(runs, tmp_path, capsys):
  with flagsaver.flagsaver(out=str(tmp_path / 'out')):
    compare.main(*runs)
  printed = capsys.readouterr().out
  assert printed.startswith(f'A  {tmp_path}/a/eval/k400/test/00000010: 5 videos\n')
  names = ['compare.json', 'compare.csv', 'changed.csv', 'compare.png']
  assert printed.split()[-4:] == [str(tmp_path / 'out' / name) for name in names]
  assert {path.name for path in (tmp_path / 'out').iterdir()} == set(names)


def test_json(runs, capsys):
  with flagsaver.flagsaver(json=True):
    compare.main(*runs)
  assert json.loads(capsys.readouterr().out)['common'] == 5


def test_a_folder_that_cannot_be_made(runs, tmp_path):
  (tmp_path / 'file').write_text('')
  with (
    flagsaver.flagsaver(out=str(tmp_path / 'file' / 'out')),
    pytest.raises(ConfigError, match=r'--out=.* cannot be written to: Not a directory'),
  ):
    compare.main(*runs)
