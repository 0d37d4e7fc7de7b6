"""Boxes from a file belong to the video of their name, at their time."""

import numpy as np
import pytest

from datasets import ava_csv, video
from datasets.boxed_video import BoxedVideo, boxes_of
from datasets.manifest import TaskLabels
from errors import DataError
from tests.datasets.videos import write_video

TASKS = {'actors': TaskLabels(('stand', 'sit'), True, 0, True)}


def write(tmp_path, text):
  (tmp_path / 'boxes.csv').write_text(text)
  return tmp_path / 'boxes.csv'


def test_a_detectors_file(tmp_path):
  text = (
    'a,1.5,0.1,0.2,0.5,0.6,0.9\na,01.50,0.3,0.2,0.5,0.6,80,0.95\nb.mp4,2,0,0,1,1\na,0,0,0,1,1,1\n'
  )
  found = ava_csv.read_boxes(write(tmp_path, text + 'a,0,0,0,1,1,0.5\n'))
  assert found == {
    'a': [
      (0.0, ((0.0, 0.0, 1.0, 1.0),), (1.0,)),
      (1.5, ((0.2, 0.1, 0.6, 0.5), (0.2, 0.3, 0.6, 0.5)), (0.9, 0.95)),
    ],
    'b.mp4': [(2.0, ((0.0, 0.0, 1.0, 1.0),), (1.0,))],
  }
  assert boxes_of('x/b.mp4', found, 'f') == boxes_of('b.mp4', found, 'f') == found['b.mp4']
  with pytest.raises(DataError, match=r"c\.mp4: f has no boxes of it: expected the video_id 'c'"):
    boxes_of('c.mp4', found, 'f')


def test_annotations(tmp_path):
  text = 'a,902,0.1,0.2,0.5,0.6,80,0\na,902,0.1,0.2,0.5,0.6,12,0\n'
  found = ava_csv.read_boxes(write(tmp_path, text))
  assert found == {'a': [(902.0, ((0.2, 0.1, 0.6, 0.5),), (1.0,))]}


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', 'no rows. Expected video_id,timestamp'),
    ('video,time,x1,y1,x2,y2\n', "line 1: timestamp is 'time', expected seconds"),
    ('a,1,0.1,0.2,0.5\n', 'line 1: 5 columns, expected 6 or 7 or 8'),
    ('a,1,10,20,50,60,0.5\n', r'line 1: x1 is 10, outside \[0, 1\]'),
    ('a,1,0.5,0.2,0.1,0.6\n', 'line 1: x1 is 0.5 and x2 0.1, expected x1 < x2'),
    ('a,1,0.1,0.2,0.5,0.6,1.5\n', r'line 1: score is 1.5, outside \[0, 1\]'),
  ],
)
def test_mistakes_are_named(tmp_path, text, message):
  with pytest.raises(DataError, match=message):
    ava_csv.read_boxes(write(tmp_path, text))


def test_keyframes_are_rows(tmp_path):
  path = write_video(tmp_path / 'a.mp4', 25)
  found = ava_csv.read_boxes(
    write(tmp_path, 'a,0.2,0,0,1,1,0.5\na,0.2,0,0,.5,.5,.9\na,0.8,0,0,1,1,.7\n')
  )
  dataset = BoxedVideo(path, video.probe(path), found['a'], TASKS)
  assert len(dataset) == 2
  regions = dataset.regions(0, 'actors')
  assert regions.scores.tolist() == np.float32([0.9, 0.5]).tolist()
  assert regions.boxes.tolist() == [[0, 0, 0.5, 0.5], [0, 0, 1, 1]]
  assert not regions.annotated.any() and not regions.labels.any()
  assert dataset.keyframe_seconds(1) == 0.8
  assert dataset.keyframe(1).times[:3].tolist() == [0, 40000, 80000]
  assert dataset.box_table().rows.tolist() == [0, 0, 1]
  late = ava_csv.read_boxes(write(tmp_path, 'a,902,0,0,1,1\n'))['a']
  with pytest.raises(DataError, match=r'boxes are given at 902 s, but the video ends at 1\.00 s'):
    BoxedVideo(path, video.probe(path), late, TASKS)
