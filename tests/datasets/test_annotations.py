"""Own csv files and class folders, and everything people get wrong in them."""

import pytest

from datasets import annotations
from datasets.annotations import Annotations, LabelGroup, Rejected, Row
from errors import DataError


def csv(tmp_path, text, **kwargs):
  """Reads a csv file with this content; str is written as UTF-8."""
  path = tmp_path / 'clips.csv'
  path.write_bytes(text.encode() if isinstance(text, str) else text)
  return annotations.read_csv(path, **kwargs)


def failure(tmp_path, text, **kwargs):
  with pytest.raises(DataError) as caught:
    csv(tmp_path, text, **kwargs)
  message = str(caught.value)
  assert message.count('clips.csv') >= 1
  return message


def test_rows_labels_times_and_keys(tmp_path):
  got = csv(
    tmp_path,
    'path,label,start,end\n'
    'a b/ü.mp4,run,,\n'
    'a b/ü.mp4,run,2,4.5\n'
    'c.mp4,"jump, high",01:02.5,1:00:00\n'
    'd.mp4,run,7,\n',
  )
  assert got == Annotations(
    {'label': LabelGroup(('jump, high', 'run'))},
    (
      Row(2, 'a b/ü.mp4', {'label': ('run',)}, 'a b/ü.mp4'),
      Row(3, 'a b/ü.mp4', {'label': ('run',)}, 'a b/ü.mp4@2-4.5', 2.0, 4.5),
      Row(4, 'c.mp4', {'label': ('jump, high',)}, 'c.mp4@62.5-3600', 62.5, 3600.0),
      Row(5, 'd.mp4', {'label': ('run',)}, 'd.mp4@7-', 7.0, None),
    ),
  )


def test_label_groups_multi_label_key_and_split(tmp_path):
  got = csv(
    tmp_path,
    'split,key,path,label:verb,label:noun\n'
    'train,one,a.mp4,open,door | handle|door\n'
    'val,,b.mp4,shut,\n',
    multi_label=['noun'],
    classes={'verb': ['shut', 'open']},
  )
  assert got.groups == {
    'verb': LabelGroup(('shut', 'open')),
    'noun': LabelGroup(('door', 'handle'), True),
  }
  assert list(got.groups) == ['verb', 'noun']
  assert got.rows == (
    Row(2, 'a.mp4', {'verb': ('open',), 'noun': ('door', 'handle')}, 'one', split='train'),
    Row(3, 'b.mp4', {'verb': ('shut',), 'noun': ()}, 'b.mp4', split='val'),
  )


@pytest.mark.parametrize(
  'data',
  [
    b'\xef\xbb\xbfpath,label\r\na.mp4,x\r\n\r\n , \r\nb.mp4,y\r\n',
    b'path , label\n\na.mp4,x\n\n"b.mp4", "y"',
    b'path,label\ra.mp4,x\rb.mp4,y\r',
  ],
)
def test_byte_order_marks_line_ends_blank_lines_and_blanks(tmp_path, data):
  got = csv(tmp_path, data)
  assert [(row.path, row.labels['label']) for row in got.rows] == [
    ('a.mp4', ('x',)),
    ('b.mp4', ('y',)),
  ]
  assert got.rejected == ()


def test_line_numbers_count_blank_and_broken_lines(tmp_path):
  got = csv(tmp_path, 'path,label\n\n"a\nb.mp4",x\nc.mp4,x\n,x\n')
  assert [row.number for row in got.rows] == [3, 5]
  assert got.rejected == (Rejected(6, '', 'no path'),)


def test_mistakes_reject_their_row_and_no_other(tmp_path):
  got = csv(
    tmp_path,
    'path,label,start,end,key\n'
    'a.mp4,run,0,5,k1\n'
    ',run,,,\n'
    'b.mp4,run,two,,\n'
    'b.mp4,run,5,5,\n'
    'b.mp4,run,,0,\n'
    'b.mp4,rum,,,\n'
    'b.mp4,run|jump,,,\n'
    'b.mp4,,,,\n'
    './a.mp4,jump,,5,\n'
    'b.mp4,run,,,k1\n'
    'b.mp4,run\n'
    'b.mp4,run,-1,,\n'
    'b.mp4,run,nan,,\n'
    'b.mp4,run,00:75,,\n'
    'b.mp4,jump,,,\n',
    classes=['run', 'jump'],
  )
  assert [(row.number, row.path) for row in got.rows] == [(2, 'a.mp4'), (16, 'b.mp4')]
  assert [(r.number, r.path, r.reason) for r in got.rejected] == [
    (3, '', 'no path'),
    (4, 'b.mp4', "start is 'two', expected seconds or [HH:]MM:SS"),
    (5, 'b.mp4', 'end (5 s) is not after start (5 s)'),
    (6, 'b.mp4', 'end (0 s) is not after start (0 s)'),
    (7, 'b.mp4', "'rum' is not among the 2 classes of 'label'; nearest: 'run'"),
    (8, 'b.mp4', "several labels ['run', 'jump'] in the single-label group 'label'"),
    (9, 'b.mp4', "no label in the single-label group 'label'"),
    (10, './a.mp4', 'same path, start and end as row 2'),
    (11, 'b.mp4', "same key 'k1' as row 2"),
    (12, 'b.mp4', '2 cells, the header has 5 (quote names with commas)'),
    (13, 'b.mp4', "start is '-1', expected seconds or [HH:]MM:SS"),
    (14, 'b.mp4', "start is 'nan', expected seconds or [HH:]MM:SS"),
    (15, 'b.mp4', "start is '00:75', expected seconds or [HH:]MM:SS"),
  ]


def test_a_class_may_hold_the_separator(tmp_path):
  got = csv(tmp_path, 'path,label\na.mp4,x|y\n', classes=['x|y'])
  assert got.rows[0].labels == {'label': ('x|y',)}
  other = csv(tmp_path, 'path,label\na.mp4,x/y\n', multi_label=['label'], separator='/')
  assert other.rows[0].labels == {'label': ('x', 'y')}


@pytest.mark.parametrize(
  ('header', 'says'),
  [
    ('a.mp4,run', 'first line must be the header'),
    ('path;label', 'Separate cells by commas'),
    ('path', 'no label'),
    ('path,label,label:verb', 'mixes both ways'),
    ('path,label,fps', "Remove or rename ['fps']"),
    ('path,label,label', 'mixes both ways'),
    ('path,label,end,end', 'stands there twice'),
  ],
)
def test_another_header_is_one_error_with_found_and_wanted(tmp_path, header, says):
  message = failure(tmp_path, f'{header}\na.mp4,run,1\n')
  assert says in message
  assert f'found the columns {header.split(",")}' in message
  assert 'wanted path,label[,start,end][,key][,split]' in message


def test_files_that_hold_nothing(tmp_path):
  assert 'empty' in failure(tmp_path, '')
  assert 'no usable row, 0 rejected.' in failure(tmp_path, 'path,label\n')
  message = failure(tmp_path, 'path,label\n,x\n,y\n')
  assert 'no usable row, 2 rejected. The first: row 2: no path.' in message
  unlabelled = failure(tmp_path, 'path,label\na.mp4,\n', multi_label=['label'])
  assert "no row has a label in the groups ['label']" in unlabelled


def test_encodings_and_broken_quotes(tmp_path):
  latin = failure(tmp_path, 'path,label\na.mp4,x\nü.mp4,x\n'.encode('latin-1'))
  assert 'line 3: byte 0xfc is not UTF-8' in latin
  assert 'iconv -f WINDOWS-1252 -t UTF-8' in latin
  assert 'iconv -f UTF-16' in failure(tmp_path, 'path,label\n'.encode('utf-16'))
  broken = failure(tmp_path, 'path,label\na.mp4,x\nb.mp4,"never closed\nc.mp4,x\n')
  assert 'line 3: broken csv' in broken
  with pytest.raises(DataError, match='No such file'):
    annotations.read_csv(tmp_path / 'missing.csv')


def test_class_lists(tmp_path):
  path = tmp_path / 'classes.txt'
  path.write_text('\ufeffrun\n\n jump, high \n')
  assert annotations.read_classes(path) == ('run', 'jump, high')
  path.write_text('run\njump\nrun\n')
  with pytest.raises(DataError, match=r"repeat: \['run'\]"):
    annotations.read_classes(path)
  path.write_text('\n')
  with pytest.raises(DataError, match='no class names'):
    annotations.read_classes(path)


def test_groups_that_are_not_there(tmp_path):
  text = 'path,label:a,label:b\nx.mp4,p,q\n'
  assert "['c']" in failure(tmp_path, text, multi_label=['c'])
  assert "['label']" in failure(tmp_path, text, classes={'label': ['p']})
  assert 'for each by name' in failure(tmp_path, text, classes=['p'])
  with pytest.raises(DataError, match=r"classes of 'a': class names repeat: \['p'\]"):
    csv(tmp_path, text, classes={'a': ['p', 'p']})


def make(root, *names):
  for name in names:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_class_folders(tmp_path):
  make(tmp_path, 'run/b.MP4', 'run/a b.webm', 'jump/deep/ü.mkv', 'jump/notes.txt', 'top.mp4')
  make(tmp_path, '.cache/x.mp4', 'run/.hidden.mp4', 'empty/readme.md')
  (tmp_path / 'jump' / 'back').symlink_to(tmp_path, target_is_directory=True)
  got = annotations.read_folder(tmp_path)
  assert got.groups == {'label': LabelGroup(('jump', 'run'))}
  assert [(r.number, r.path, r.labels['label'], r.key) for r in got.rows] == [
    (1, 'jump/deep/ü.mkv', ('jump',), 'jump/deep/ü.mkv'),
    (2, 'run/a b.webm', ('run',), 'run/a b.webm'),
    (3, 'run/b.MP4', ('run',), 'run/b.MP4'),
  ]
  ordered = annotations.read_folder(tmp_path, classes=['run', 'walk'])
  assert ordered.groups['label'].classes == ('run', 'walk')
  assert [r.path for r in ordered.rejected] == ['jump/deep/ü.mkv']


def test_folders_without_classes(tmp_path):
  with pytest.raises(DataError, match='no such folder'):
    annotations.read_folder(tmp_path / 'missing')
  make(tmp_path, 'a.mp4')
  with pytest.raises(DataError, match='one sub-folder per class'):
    annotations.read_folder(tmp_path)
  make(tmp_path, 'train/run/a.mp4', 'val/run/a.mp4')
  with pytest.raises(DataError, match=r"\['train', 'val'\] are splits.*Name a split, such as"):
    annotations.read_folder(tmp_path)
