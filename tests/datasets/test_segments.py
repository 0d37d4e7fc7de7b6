"""Cutting annotated segments into clips of one length."""

import dataclasses

import pytest

from datasets import convert, segments
from datasets.annotations import LabelGroup, Rejected, Row, clip_key
from errors import ConfigError
from tests.datasets import videos

GROUPS = {'label': LabelGroup(('jump',))}


def row(number, start, end, path='v.mp4', key=''):
  key = key or clip_key(path, start, end)
  return Row(number, path, {'label': ('jump',)}, key, start, end, 'train')


def cut(*rows, seconds=10.0):
  """Clips and rejected of one split."""
  return segments.cut({'train': rows}, seconds)['train']


@pytest.mark.parametrize(
  ('start', 'end', 'clips', 'left'),
  [
    (0, 10, [(0, 10)], 0),
    (1.5, 31.5, [(1.5, 11.5), (11.5, 21.5), (21.5, 31.5)], 0),
    (0, 34.9, [(0, 10), (10, 20), (20, 30)], 4.9),
    (0, 35, [(0, 10), (10, 20), (20, 30), (30, 35)], 0),  # Half a clip is one.
    (2, 14.9, [(2, 12)], 2.9),
    (3, 3.4, [(3, 3.4)], 0),  # Short segments stay, however short.
    (0.1, 20.1, [(0.1, 10.1), (10.1, 20.1)], 0),
  ],
)
def test_clips_and_what_is_left(start, end, clips, left):
  assert segments.cut_times(start, end, 10) == (clips, left)


def test_decimals_divide_evenly():
  clips, left = segments.cut_times(0.3, 1.3, 0.1)
  assert (len(clips), left) == (10, 0)
  assert clips[3] == (0.6, 0.7)


def test_clips_keep_the_row_and_have_keys_of_their_own():
  clips, rejected = cut(
    row(1, 1.5, 22), row(1, 30, 42), row(2, 0, 5, 'w.mp4'), row(3, 0, 25, 'x.mp4', 'id3')
  )
  assert [(r.number, r.key, r.start, r.end) for r in clips] == [
    (1, 'v.mp4@1.5-11.5', 1.5, 11.5),
    (1, 'v.mp4@11.5-21.5', 11.5, 21.5),
    (1, 'v.mp4@30-40', 30, 40),
    (2, 'w.mp4@0-5', 0, 5),
    (3, 'id3@0-10', 0, 10),
    (3, 'id3@10-20', 10, 20),
    (3, 'id3@20-25', 20, 25),
  ]
  assert {(r.split, r.labels['label']) for r in clips} == {('train', ('jump',))}
  assert rejected == (
    Rejected(1, 'v.mp4', 'the last 0.5 s of v.mp4@1.5-22 are less than half a clip'),
    Rejected(1, 'v.mp4', 'the last 2 s of v.mp4@30-42 are less than half a clip'),
  )


def test_a_clip_of_two_segments_is_written_once():
  clips, rejected = cut(row(4, 0, 20), row(7, 10, 30))
  assert [r.key for r in clips] == ['v.mp4@0-10', 'v.mp4@10-20', 'v.mp4@20-30']
  assert rejected == (Rejected(7, 'v.mp4', 'its part v.mp4@10-20 is also one of row 4'),)


def test_splits_are_cut_apart():
  whole = dataclasses.replace(row(2, None, None, 'w.mp4'), key='w.mp4')
  got = segments.cut({'train': [row(1, 0, 12)], 'test': [row(3, 0, 21), whole]}, 10)
  assert {split: [r.key for r in clips] for split, (clips, _) in got.items()} == {
    'train': ['v.mp4@0-10'],
    'test': ['v.mp4@0-10', 'v.mp4@10-20', 'w.mp4'],
  }
  assert {split: [bad.number for bad in rejected] for split, (_, rejected) in got.items()} == {
    'train': [1],
    'test': [3],
  }


def test_rows_without_an_end_stay():
  whole = dataclasses.replace(row(2, None, None, 'w.mp4'), key='w.mp4')
  assert cut(row(1, 0, 20), whole)[0][-1] is whole
  with pytest.raises(ConfigError, match='no row has an end'):
    cut(whole)


def test_whole_videos_have_the_label_of_most_of_their_segments():
  def labelled(number, path, label, start, end):
    return dataclasses.replace(row(number, start, end, path), labels={'label': (label,)})

  rows = [
    labelled(1, 'a.mp4', 'jump', 0, 10),
    labelled(1, 'a.mp4', 'run', 5, 12),
    labelled(2, 'b.mp4', 'run', 1, 2),
    labelled(1, 'a.mp4', 'run', 20, 24),
    labelled(3, 'c.mp4', 'jump', 0, 3),
    labelled(3, 'c.mp4', 'run', 3, 6),
    labelled(4, 'd.mp4', 'run', 0, 3),
    labelled(4, 'd.mp4', 'jump', None, None),
  ]
  assert segments.whole_videos(rows) == tuple(
    Row(number, path, {'label': (label,)}, path, None, None, 'train')
    for number, path, label in [
      (1, 'a.mp4', 'run'), (2, 'b.mp4', 'run'), (3, 'c.mp4', 'jump'), (4, 'd.mp4', 'jump')
    ]
  )  # fmt: skip


@pytest.mark.parametrize('seconds', [0, -1, float('nan'), float('inf')])
def test_lengths_that_cannot_be(seconds):
  with pytest.raises(ConfigError, match='segment_seconds: expected more than 0 s'):
    cut(row(1, 0, 20), seconds=seconds)


def test_clips_beyond_the_video_are_rejected_and_one_may_be_cut_short(tmp_path):
  videos.write_video(tmp_path / 'v.mp4', 10, rate=5)  # 2 s
  clips, _ = cut(row(1, 0.4, 4.4), seconds=1.0)
  settings = convert.Settings(str(tmp_path), GROUPS, size=32)
  results = [convert.convert_row(clip, settings) for clip in clips]
  assert [r.frames for r in results[:2]] == [5, 3]
  assert results[2:] == [
    Rejected(1, 'v.mp4', 'starts at 2.4 s, when the video is over.'),
    Rejected(1, 'v.mp4', 'starts at 3.4 s, when the video is over.'),
  ]
