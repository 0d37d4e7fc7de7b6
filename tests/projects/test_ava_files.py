"""Reading and writing of AVA's files: exact values, and mistakes named by file and line."""

import numpy as np
import pytest

from datasets import label_map
from errors import DataError
from projects.cofinetune import ava_csv
from projects.cofinetune.ava_csv import ClassGroup, KeyframeName


def write(tmp_path, text):
  path = tmp_path / 'file'
  path.write_text(text)
  return path


def test_rows(tmp_path):
  text = 'v,0902,0.1,0.2,0.3,0.4,12,0.75\n\nv,902.0,0,0,1,1,3\nw,902\n-x,1,0.5,0.5,1,1,80,1e-3\n'
  table = ava_csv.read_boxes(write(tmp_path, text))
  assert table.keyframes == (
    KeyframeName('v', '902.000000'),
    KeyframeName('w', '902.000000'),
    KeyframeName('-x', '1.000000'),
  )
  assert table.keyframe.tolist() == [0, 0, 2]
  assert table.boxes.tolist() == [[0.2, 0.1, 0.4, 0.3], [0, 0, 1, 1], [0.5, 0.5, 1, 1]]
  assert table.labels.tolist() == [12, 3, 80]
  assert table.scores.tolist() == [0.75, 1.0, 0.001]
  assert table.lines.tolist() == [1, 3, 5]
  assert (table.rows, table.rows_without_box) == (4, 1)


def test_the_eighth_column_of_ground_truth_is_no_score(tmp_path):
  path = write(tmp_path, 'v,902,0,0,1,1,3,person\n')
  assert ava_csv.read_boxes(path, with_scores=False).scores.tolist() == [1.0]


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    ('v,1,0,0,1,1', r'line 3: 6 columns, expected 2 or 7 or 8 \(video,seconds,x1,'),
    ('v,1,0,0,1,1,1,0.5,7', 'line 3: 9 columns'),
    ('v', 'line 3: 1 columns'),
    ('v,1,0,0,1,one,1,0.5', r"line 3: could not convert string to float: 'one'\. Expected video,"),
    ('v,1,0,0,1,1,1.5,0.5', r'line 3: invalid literal for int\(\)'),
    ('v,1,0,0,1,1,1,high', "line 3: could not convert string to float: 'high'"),
    ('v,1,0,nan,1,1,1,0.5', 'line 3: a number is not finite'),
    ('v,1,0,0,1,1,1,inf', 'line 3: a number is not finite'),
    ('v,9:02,0,0,1,1,1,0.5', "line 3: could not convert string to float: '9:02'"),
    ('v,nan', "line 3: could not convert string to a time: 'nan'"),
  ],
)
def test_malformed_rows(tmp_path, row, message):
  path = write(tmp_path, f'v,1,0,0,1,1,1,0.5\n\n{row}\nv,1,0,0,1,1,1,0.5\n')
  with pytest.raises(DataError, match=f'^{path}, {message}'):
    ava_csv.read_boxes(path)


def test_lines_are_counted_over_parts_of_the_file(tmp_path, monkeypatch):
  monkeypatch.setattr(ava_csv, '_ROWS_AT_ONCE', 2)
  path = write(tmp_path, 'v,1,0,0,1,1,1\n' * 4 + 'v,1,0,0,1,1,x\n')
  with pytest.raises(DataError, match='line 5: '):
    ava_csv.read_boxes(path)
  assert ava_csv.read_boxes(write(tmp_path, 'v,1,0,0,1,1,1\n' * 5)).lines.tolist() == [
    1,
    2,
    3,
    4,
    5,
  ]


def test_a_header_is_named(tmp_path):
  path = write(tmp_path, 'video_id,time,x1,y1,x2,y2,action\n')
  with pytest.raises(DataError, match=r"line 1: .*AVA's csv files have no header"):
    ava_csv.read_boxes(path)


def test_unreadable_files(tmp_path):
  with pytest.raises(DataError, match='nowhere: cannot be read: No such file'):
    ava_csv.read_boxes(tmp_path / 'nowhere')
  (tmp_path / 'binary').write_bytes(b'\xff\xfe\x00')
  with pytest.raises(DataError, match='binary: no csv file in UTF-8'):
    ava_csv.read_boxes(tmp_path / 'binary')


def test_excluded_keyframes(tmp_path):
  path = write(tmp_path, 'v,0902\nw,903.5\n')
  assert ava_csv.read_keyframes(path) == {
    KeyframeName('v', '902.000000'),
    KeyframeName('w', '903.500000'),
  }
  with pytest.raises(DataError, match='line 1: 3 columns, expected 2'):
    ava_csv.read_keyframes(write(tmp_path, 'v,902,1\n'))


def test_written_rows_are_read_back(tmp_path):
  text = 'v,0902,0.1,0.2,0.3,0.4,12,0.75\nw,1,0,0,1,1,3,0.000000001\nv,0902,0,0,1,1,7,0.5\nx,5\n'
  table = ava_csv.read_boxes(write(tmp_path, text))
  again = tmp_path / 'again.csv'
  keys = dict(zip(table.keyframes, ['v,0902', 'w,1', 'x,5'], strict=True))
  ava_csv.write_boxes(again, table, keys)
  assert again.read_text().splitlines() == [
    'v,0902,0.100000,0.200000,0.300000,0.400000,12,0.750000000',
    'w,1,0.000000,0.000000,1.000000,1.000000,3,0.000000001',
    'v,0902,0.000000,0.000000,1.000000,1.000000,7,0.500000000',
    'x,5',
  ]
  found = ava_csv.read_boxes(again)
  assert found.keyframes == table.keyframes
  for name in ('keyframe', 'boxes', 'labels', 'scores'):
    np.testing.assert_array_equal(getattr(found, name), getattr(table, name))
  assert list(tmp_path.glob('*.partial')) == []


def test_groups_of_ava():
  groups = ava_csv.read_class_groups(ava_csv.AVA_GROUPS)
  counts = [[entry.group for entry in groups.values()].count(g) for g in ava_csv.GROUPS]
  assert counts == [8, 23, 29]  # Sec. 4.2 of the paper.
  for entry in groups.values():
    expected = 'head' if entry.train_labels > 10_000 else 'mid'
    assert entry.group == ('tail' if entry.train_labels < 1000 else expected)
  assert groups['talk to (e.g., self, a person, a group)'] == ClassGroup('head', 110267)


def test_evaluated_classes_of_ava():
  classes = label_map.read(ava_csv.AVA_EVALUATED)
  left_out = {2, 16, 18, 19, 21, 23, 25, 31, 32, 33, 35, 39, 40, 42, 44, 50, 53, 55, 71, 75}
  assert set(classes) == set(range(1, 81)) - left_out
  assert set(classes.values()) == set(ava_csv.read_class_groups(ava_csv.AVA_GROUPS))
  assert (classes[12], classes[57], classes[80]) == (
    'stand', 'text on/look at a cellphone', 'watch (a person)'
  )  # fmt: skip


def test_groups_are_used_where_they_cover_the_classes(tmp_path):
  assert ava_csv.class_groups('', ['stand', 'swim'])['swim'] == ClassGroup('tail', 111)
  assert ava_csv.class_groups('', ['stand', 'juggle']) == {}
  with pytest.raises(DataError, match=r"1 classes have no group there, for example \['juggle'\]"):
    ava_csv.class_groups('ava', ['stand', 'juggle'])
  own = write(tmp_path, 'label,group,train_labels\njuggle,mid,5\n')
  assert ava_csv.class_groups(own, ['juggle']) == {'juggle': ClassGroup('mid', 5)}


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('name,group\n', 'line 1: the columns are'),
    ('label,group,train_labels\na,top,5\n', 'line 2: expected a class'),
    ('label,group,train_labels\na,mid,5\na,mid,5\n', 'line 3: expected a class that is not above'),
    ('label,group,train_labels\na,mid\n', 'line 2: 2 columns, expected 3'),
  ],
)
def test_broken_groups(tmp_path, text, message):
  with pytest.raises(DataError, match=message):
    ava_csv.read_class_groups(write(tmp_path, text))
