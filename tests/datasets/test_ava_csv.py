"""AVA's files as rows: what is read, what is rejected with its line, and that the totals add up."""

import pytest

from datasets import ava_csv
from datasets.annotations import LabelGroup, Rejected
from datasets.region_records import Region
from errors import DataError

LABELMAP = """
item { name: "stand" id: 12 }
item { name: "touch (an object)" id: 17 }
label { name: "talk" label_id: 79 }
"""
# In a clip's record a box is ymin, xmin, ymax, xmax.
ANNOTATIONS = """
a-b,0902,0.1,0.2,0.3,0.4,12,0
a-b,0902,0.1,0.2,0.3,0.4,79,0
a-b,902.0,0.5,0.25,1.0,0.75,12,1
a-b,903,0.1,0.2,0.3,0.4,17,0
a-b,904
c_d,904.5,0.1,0.2,0.3,0.4,17
"""
PROPOSALS = """
a-b,902,0.1,0.2,0.3,0.5,,0.75
a-b,0902,0.1,0.2,0.3,0.25,,0.875
a-b,904.0,0.1,0.2,0.3,0.5,0.5
"""


@pytest.fixture
def read(tmp_path):
  """Reads files of the given texts beside empty files of the given names."""

  def call(
    text=ANNOTATIONS, *, proposals=(), excluded=None, files=('a-b.mkv', 'c_d.mp4'), **kwargs
  ):
    root = tmp_path / 'videos'
    for name in files:
      (root / name).parent.mkdir(parents=True, exist_ok=True)
      (root / name).touch()
    texts = {'boxes.csv': text, 'map.pbtxt': LABELMAP}
    texts |= {f'seen{i}.csv': content for i, content in enumerate(proposals)}
    texts |= {'out.csv': excluded} if excluded else {}
    for name, content in texts.items():
      (tmp_path / name).write_text(content.lstrip('\n'))
    return ava_csv.read(
      tmp_path / 'boxes.csv',
      video_root=root,
      labelmap=tmp_path / 'map.pbtxt',
      excluded=tmp_path / 'out.csv' if excluded else None,
      proposals=[tmp_path / f'seen{i}.csv' for i in range(len(proposals))],
      **kwargs,
    )

  return call


def tallies(found):
  for tally in found.tallies:
    rest = (tally.used, tally.rejected, tally.excluded, tally.repeated, tally.elsewhere)
    assert tally.rows == sum(rest)
  return [
    (t.file, t.rows, t.used, t.rejected, t.excluded, t.repeated, t.elsewhere) for t in found.tallies
  ]


def test_keyframes_with_boxes_and_detections(read):
  found = read(proposals=[PROPOSALS], clip_seconds=2.0)
  names = ('stand', 'touch (an object)', 'talk')
  assert found.groups == {'label': LabelGroup(names, True, True, (12, 17, 79))}
  assert [(row.number, row.path, row.key) for row in found.rows] == [
    (1, 'a-b.mkv', 'a-b,0902'),
    (4, 'a-b.mkv', 'a-b,903'),
    (5, 'a-b.mkv', 'a-b,904'),
    (6, 'c_d.mp4', 'c_d,904.5'),
  ]
  assert [row.boxes.seconds for row in found.rows] == [902.0, 903.0, 904.0, 904.5]
  assert {(row.boxes.clip_seconds, row.boxes.file_start) for row in found.rows} == {(2.0, 0.0)}
  assert found.rows[0].boxes.regions == (
    Region((0.2, 0.1, 0.4, 0.3), 0, 'stand'),
    Region((0.2, 0.1, 0.4, 0.3), 2, 'talk'),
    Region((0.25, 0.5, 0.75, 1.0), 0, 'stand'),
  )
  assert found.rows[0].boxes.proposals == (
    Region((0.2, 0.1, 0.5, 0.3), score=0.75),
    Region((0.2, 0.1, 0.25, 0.3), score=0.875),
  )
  assert found.rows[2].boxes.regions == ()
  assert found.rows[2].boxes.proposals == (Region((0.2, 0.1, 0.5, 0.3), score=0.5),)
  assert [row.boxes.num_rows for row in found.rows] == [3, 1, 1, 1]
  assert found.rejected == ()
  assert tallies(found) == [('boxes.csv', 6, 6, 0, 0, 0, 0), ('seen0.csv', 3, 3, 0, 0, 0, 0)]


BOX = '0.1,0.2,0.3,0.4'


@pytest.mark.parametrize(
  ('row', 'reason'),
  [
    ('a-b,902,0.1,0.2,0.3', '5 columns, expected 2 or 7 or 8: video_id,timestamp[,x1,y1,x2,y2,'),
    (f'a-b,902,{BOX},12,1,1', '9 columns'),
    (f',902,{BOX},12', 'no video_id'),
    (f'a-b,15:02,{BOX},12', "timestamp is '15:02', expected seconds"),
    (f'a-b,nan,{BOX},12', "timestamp is 'nan'"),
    (f'a-b,-1,{BOX},12', "timestamp is '-1'"),
    ('a-b,902,0.5,0.2,0.4,0.4,12', 'x1 is 0.5 and x2 0.4, expected x1 < x2'),
    ('a-b,902,0.1,0.4,0.3,0.4,12', 'y1 is 0.4 and y2 0.4, expected y1 < y2'),
    ('a-b,902,0.1,0.4,0.3,1.25,12', 'y2 is 1.25, outside [0, 1]'),
    ('a-b,902,-0.1,0.2,0.3,0.4,12', 'x1 is -0.1, outside [0, 1]'),
    ('a-b,902,0.1,0.2,nan,0.4,12', 'x2 is nan, outside [0, 1]'),
    ('a-b,902,0.1,wide,0.3,0.4,12', "y1 is 'wide', expected a number"),
    (f'a-b,902,{BOX},13', "class '13' is not in the label map of 3 classes, 12 to 79"),
    (f'a-b,902,{BOX},stand', "class 'stand' is not in the label map"),
    (f'a-b,902.0,{BOX},12', 'same box and class as line 1'),
    ('a-b,902', 'line 1 has a box in it'),
    (f'a-b,950.0,{BOX},12', 'line 2 says that the keyframe has no boxes'),
    ('a-b,950.0', 'line 2 says that the keyframe has no boxes'),
  ],
)
def test_a_row_that_cannot_be_used_is_rejected_with_its_line(read, row, reason):
  text = f'a-b,902,{BOX},12\na-b,950\n{row}\na-b,903,{BOX},17\n'
  found = read(text, proposals=[f'a-b,902,{BOX},1.0\na-b,950,{BOX},1.0\n'])
  (rejected,) = found.rejected
  assert (rejected.number, rejected.path) == (3, 'boxes.csv')
  assert rejected.reason.startswith(reason)
  assert rejected.reason.endswith('.')
  assert [row.key for row in found.rows] == ['a-b,902', 'a-b,950', 'a-b,903']
  assert tallies(found)[0] == ('boxes.csv', 4, 3, 1, 0, 0, 0)


def test_a_keyframe_without_any_box_and_one_without_a_video(read):
  found = read(files=['a-b.mkv'])
  assert found.rejected == (
    Rejected(
      5, 'boxes.csv', "a keyframe without any box, annotated or detected ('a-b,904', rows: 1)."
    ),
    found.rejected[1],
  )
  assert found.rejected[1].number == 6
  assert found.rejected[1].reason.startswith("no video named 'c_d' or c_d_START_END under ")
  assert [row.key for row in found.rows] == ['a-b,0902', 'a-b,903']
  assert tallies(found) == [('boxes.csv', 6, 4, 2, 0, 0, 0)]


def test_all_rows_of_a_keyframe_without_a_video_count(read):
  found = read(files=['c_d.mkv'], proposals=[PROPOSALS + 'c_d,904.5,0.1,0.2,0.3,0.5,0.5\n'])
  assert [row.key for row in found.rows] == ['c_d,904.5']
  assert len(found.rejected) == 3
  assert tallies(found) == [('boxes.csv', 6, 1, 5, 0, 0, 0), ('seen0.csv', 4, 1, 0, 0, 0, 3)]


def test_excluded_keyframes_are_left_out_and_counted(read):
  found = read(proposals=[PROPOSALS], excluded='a-b,902.00\nnever,0902\na-b\n')
  assert [row.key for row in found.rows] == ['a-b,903', 'a-b,904', 'c_d,904.5']
  assert found.rejected == (Rejected(3, 'out.csv', '1 columns, expected 2: video_id,timestamp.'),)
  assert tallies(found) == [
    ('boxes.csv', 6, 3, 0, 3, 0, 0),
    ('seen0.csv', 3, 1, 0, 2, 0, 0),
    ('out.csv', 3, 2, 1, 0, 0, 0),
  ]


def test_detections_that_repeat_are_elsewhere_or_wrong(read):
  more = """
a-b,902,0.1,0.2,0.3,0.5,12,0.9375
a-b,902,0.1,0.2,0.3,0.5,17,0.25
a-b,905,0.1,0.2,0.3,0.5,12,0.25
a-b,902,0.1,0.2,0.3,0.5,12
a-b,902,0.1,0.2,0.3,0.5
a-b,902,0.2,0.2,0.2,0.5,0.5
"""
  found = read(proposals=[PROPOSALS, more])
  assert found.rows[0].boxes.proposals == (
    Region((0.2, 0.1, 0.5, 0.3), score=0.9375),
    Region((0.2, 0.1, 0.25, 0.3), score=0.875),
  )
  assert [(r.number, r.path, r.reason) for r in found.rejected] == [
    (4, 'seen1.csv', 'score is 12, outside [0, 1].'),
    (5, 'seen1.csv',
     '6 columns, expected 7 or 8: video_id,timestamp,x1,y1,x2,y2[,action_id],score.'),
    (6, 'seen1.csv', 'x1 is 0.2 and x2 0.2, expected x1 < x2.'),
  ]  # fmt: skip
  assert tallies(found)[1:] == [('seen0.csv', 3, 3, 0, 0, 0, 0), ('seen1.csv', 6, 0, 3, 0, 2, 1)]


def test_detections_of_other_videos_are_an_error_that_shows_both_sides(read):
  other = ''.join(f'-z{i},{900 + i},0.1,0.2,0.3,0.5,,0.75\n' for i in range(5)) + 'broken\n'
  with pytest.raises(DataError) as caught:
    read(proposals=[PROPOSALS, other])
  message = str(caught.value)
  assert 'seen1.csv: none of its 6 rows is of a keyframe of ' in message
  assert "boxes.csv: there are ['a-b,0902', 'a-b,903', 'a-b,904']" in message
  assert "here ['-z0,900', '-z1,901', '-z2,902']. 1 rows are rejected, the first, 6: 1 columns" in (
    message
  )


def test_parts_of_videos_begin_at_the_second_in_their_name(read):
  text = f'c_d,12,{BOX},12\nc_d,25.5,{BOX},12\nc_d,40,{BOX},12\na-b,902,{BOX},12\n'
  files = ['x/c_d_000010_000020.mp4', 'c_d_20.5_30.5.avi', 'a-b_900_1800.mkv', 'a-b.webm']
  found = read(text, files=files)
  assert [(row.path, row.boxes.seconds, row.boxes.file_start) for row in found.rows] == [
    ('x/c_d_000010_000020.mp4', 12.0, 10.0),
    ('c_d_20.5_30.5.avi', 25.5, 20.5),
    ('a-b.webm', 902.0, 0.0),
  ]
  (rejected,) = found.rejected
  assert rejected.number == 3
  assert rejected.reason.startswith('the keyframe at 40 s is beyond [')


def test_nothing_usable_and_settings_that_cannot_be(read):
  with pytest.raises(DataError, match=r'no usable keyframe, 2 rejected\. The first: row 1: 1 col'):
    read('a\nb\n')
  with pytest.raises(DataError, match='clip_seconds: expected more than 0 and at most 60, got 0'):
    read(clip_seconds=0)
