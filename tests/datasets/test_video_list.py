"""Which videos a list of files and folders is."""

import pytest

from datasets.video_list import expand
from errors import DataError


@pytest.fixture
def folder(tmp_path):
  for name in ('b.mp4', 'a.MKV', 'deep/c.webm', 'notes.txt', '.hidden.mp4'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  (tmp_path / 'none').mkdir()
  return tmp_path


def test_files_in_their_order_and_folders_sorted(folder):
  named = [folder / 'notes.txt', folder]
  expected = ['notes.txt', 'a.MKV', 'b.mp4', 'deep/c.webm']
  assert [str(path.relative_to(folder)) for path in expand(named)] == expected
  assert expand([str(folder / 'b.mp4'), folder, folder])[0] == folder / 'b.mp4'
  assert len(expand([folder / 'b.mp4', folder, folder])) == 3


def test_what_is_not_there_is_named(folder):
  with pytest.raises(DataError, match=r'no\.mp4: no such video file, and no such folder'):
    expand([folder / 'b.mp4', folder / 'no.mp4'])
  with pytest.raises(DataError, match=r'none: a folder without videos\. Looked for .*\.mp4'):
    expand([folder / 'none'])
