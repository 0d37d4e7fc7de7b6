"""A row and a video in, a record out: which frames, which pixels, which facts."""

import dataclasses
import pickle

import numpy as np
import pytest
import simplejpeg

from datasets import convert, keyframes, records
from datasets.annotations import KeyframeBoxes, LabelGroup, Rejected, Row
from datasets.region_records import Region
from errors import ConfigError
from tests.datasets import videos

GROUPS = {
  'verb': LabelGroup(('open', 'close', 'cut')),
  'tags': LabelGroup(('a', 'b', 'c', 'd'), multi_label=True),
}


def make_row(path, **kwargs):
  labels = {'verb': ('close',), 'tags': ('d', 'a')}
  return Row(**{'number': 7, 'path': path, 'labels': labels, 'key': 'the key', **kwargs})


@pytest.fixture(scope='session')
def video_root(tmp_path_factory):
  """Videos of 50 frames at 25 a second: constant, starting at 5 s, of variable rate, large."""
  root = tmp_path_factory.mktemp('videos')
  videos.write_video(root / 'a.mp4', 50)
  videos.write_video(root / 'offset.mp4', 50, times=[5 + k / 25 for k in range(50)])
  videos.write_video(
    root / 'vfr.mp4', 20, times=[*np.arange(10) * 0.02, *0.2 + np.arange(10) * 0.08]
  )
  videos.write_video(
    root / 'large.mp4', 4, pictures=lambda n: videos.picture(n, 121, 163), pix_fmt='yuv444p'
  )
  videos.write_video(root / 'ntsc.mkv', 50, times=[k * 1001 / 30000 for k in range(50)])
  return root


@pytest.fixture
def settings(video_root):
  return convert.Settings(str(video_root), GROUPS)


def parse(converted):
  """The context, and the numbers drawn into the frames."""
  parsed = records.parse_sequence_example(converted.example)
  frames = [converted.example[at : at + n] for at, n in parsed.frames]
  return parsed.context, [videos.number_in(simplejpeg.decode_jpeg(f)) for f in frames]


def convert_ok(row, settings):
  result = convert.convert_row(row, settings)
  assert isinstance(result, convert.Converted), result
  return result


def test_a_whole_video(settings):
  converted = convert_ok(make_row('a.mp4'), settings)
  context, numbers = parse(converted)
  assert numbers == list(range(50))
  assert context == {
    'clip/key': [b'the key'],
    'clip/label/index': [1, 6, 3],
    'clip/label/text': [b'close', b'd', b'a'],
    'clip/start/timestamp': [0],
    'clip/end/timestamp': [2_000_000],
    'image/format': [b'jpeg'],
    'image/height': [48],
    'image/width': [64],
    'image/frame_rate': [25.0],
  }
  assert (converted.frames, converted.frame_rate, converted.seconds) == (50, 25.0, 2.0)
  assert len(converted.psnr) == 2
  assert all(35 < value < 55 for value in converted.psnr)


def test_tensorflow_reads_the_record_with_mediasequence_names(settings):
  tf = records._tensorflow()
  converted = convert_ok(make_row('a.mp4', start=0.4, end=0.6), settings)
  context, lists = tf.io.parse_single_sequence_example(
    converted.example,
    {'clip/label/index': tf.io.VarLenFeature(tf.int64)},
    {
      'image/encoded': tf.io.FixedLenSequenceFeature([], tf.string),
      'image/timestamp': tf.io.FixedLenSequenceFeature([], tf.int64),
    },
  )
  assert context['clip/label/index'].values.numpy().tolist() == [1, 6, 3]
  assert lists['image/timestamp'].numpy().tolist() == [400_000 + 40_000 * k for k in range(5)]
  first = tf.io.decode_jpeg(lists['image/encoded'][0]).numpy()
  assert first.shape == (48, 64, 3)
  assert videos.number_in(first) == 10


@pytest.mark.parametrize(
  ('start', 'end', 'expected'),
  [
    (None, 0.2, [0, 1, 2, 3, 4]),
    (1.0, 1.2, [25, 26, 27, 28, 29]),
    (1.91, 5.0, [48, 49]),  # ends where the video ends
    (0.0, 0.001, [0]),  # never empty
    (0.99, 1.07, [25, 26]),  # the nearest frames
  ],
)
@pytest.mark.parametrize('name', ['a.mp4', 'offset.mp4'])
def test_times_count_from_the_beginning_of_the_video(settings, name, start, end, expected):
  _, numbers = parse(convert_ok(make_row(name, start=start, end=end), settings))
  assert numbers == expected


def test_time_stamps_rounded_to_milliseconds_neither_double_nor_drop_a_frame(settings):
  converted = convert_ok(make_row('ntsc.mkv'), settings)
  assert parse(converted)[1] == list(range(50))
  assert converted.frame_rate == pytest.approx(30000 / 1001, rel=1e-3)


def test_variable_rate_keeps_real_time(settings):
  converted = convert_ok(make_row('vfr.mp4'), settings)
  assert converted.seconds == pytest.approx(1.0, abs=0.05)  # a slot
  fast = dataclasses.replace(settings, fps=50.0)
  _, numbers = parse(convert_ok(make_row('vfr.mp4', end=0.48), fast))
  assert numbers == [*range(10), 10, 10, 10, 10, 11, 11, 11, 11, 12, 12, 12, 12, 13, 13]


def test_another_rate_takes_the_frame_in_the_middle_of_each_slot(settings):
  slow = dataclasses.replace(settings, fps=5.0)
  converted = convert_ok(make_row('a.mp4'), slow)
  assert parse(converted)[1] == list(range(2, 50, 5))
  assert (converted.frame_rate, converted.seconds) == (5.0, 2.0)


@pytest.mark.parametrize(
  ('size', 'expected'), [(256, (120, 162)), (60, (60, 80)), (48, (48, 64)), (2, (2, 2))]
)
def test_the_shorter_side_is_resized_and_never_enlarged(settings, size, expected):
  chosen = dataclasses.replace(settings, size=size)
  context, _ = parse(convert_ok(make_row('large.mp4'), chosen))
  assert (context['image/height'][0], context['image/width'][0]) == expected


def test_quality_costs_bytes_and_decibels(settings):
  results = [
    convert_ok(make_row('a.mp4'), dataclasses.replace(settings, quality=q)) for q in (2, 4, 31)
  ]
  sizes, psnr = ([f(r) for r in results] for f in (lambda r: len(r.example), lambda r: r.psnr[0]))
  assert sizes == sorted(sizes, reverse=True)
  assert psnr == sorted(psnr, reverse=True)
  assert psnr[0] > psnr[2] + 6


def test_the_same_row_gives_the_same_bytes(settings):
  row = make_row('a.mp4', start=0.5)
  again = convert.convert_row(pickle.loads(pickle.dumps(row)), pickle.loads(pickle.dumps(settings)))
  assert again == convert_ok(row, settings)


@pytest.mark.parametrize(
  ('changes', 'reason'),
  [
    ({'path': 'b/missing.mp4'}, 'no such video file.'),
    ({'path': 'text.mp4'}, 'cannot be read as a video'),
    ({'start': 2.0}, 'starts at 2 s, when the video is over.'),
    ({'start': 1.0, 'end': 1.0}, 'start is 1 s and end 1.0 s; expected 0 <= start < end.'),
    ({'start': -1.0}, 'start is -1 s and end None s'),
    ({'labels': {'verb': ('shut',)}}, "label 'shut' is not among the 3 of group 'verb'."),
    ({'labels': {'tags': ('a',)}}, "0 labels in the single-label group 'verb', expected one."),
  ],
)
def test_what_cannot_be_used_is_rejected_with_a_reason(settings, video_root, changes, reason):
  (video_root / 'text.mp4').write_text('no video')
  row = make_row(**{'path': 'a.mp4', **changes})
  result = convert.convert_row(row, settings)
  assert isinstance(result, Rejected)
  assert (result.number, result.path) == (7, row.path)
  assert result.reason.startswith(reason)


def test_a_clip_too_large_for_a_record_is_rejected(settings, monkeypatch):
  monkeypatch.setattr(convert, 'MAX_CLIP_BYTES', 10_000)
  result = convert.convert_row(make_row('a.mp4'), settings)
  assert isinstance(result, Rejected)
  assert 'cut it by start and end' in result.reason


@pytest.mark.parametrize(
  'changes', [{'size': 0}, {'size': 255}, {'quality': 1}, {'quality': 32}, {'fps': 0.0}]
)
def test_settings_are_checked(changes):
  with pytest.raises(ConfigError, match=next(iter(changes))):
    convert.Settings('.', GROUPS, **changes)


# --- Around a keyframe ---

REGIONS = (Region((0.25, 0.5, 0.75, 1.0), 2, 'c'), Region((0.25, 0.5, 0.75, 1.0), 0, 'a'))
OF_BOXES = {'action': LabelGroup(('a', 'b', 'c'), True, True)}


def convert_keyframe(video_root, path, seconds, **kwargs):
  """The record's keyframe and the numbers of its frames."""
  given = {'clip_seconds': 0.4, 'regions': REGIONS, **kwargs}
  row = make_row(path, labels={}, boxes=KeyframeBoxes(seconds, **given))
  result = convert.convert_row(row, convert.Settings(str(video_root), OF_BOXES))
  if isinstance(result, Rejected):
    return result
  return keyframes.read(records.parse_sequence_example(result.example)), parse(result)[1]


@pytest.mark.parametrize(
  ('seconds', 'numbers'),
  [
    (1.0, range(20, 30)),  # Frame 25 is shown at 1 s.
    (1.015, range(20, 30)),
    (1.025, range(21, 31)),  # Frame 26 begins nearer.
    (0.0, range(5)),
    (0.09, range(7)),  # Begins at 0.01 s, nearest to frame 0.
    (1.96, range(44, 50)),
  ],
)
def test_clips_around_keyframes(video_root, seconds, numbers):
  keyframe, found = convert_keyframe(video_root, 'a.mp4', seconds)
  assert found == list(numbers)
  assert keyframe.microseconds == round(1e6 * seconds)
  assert np.diff(keyframe.times).tolist() == [40_000] * (len(found) - 1)
  assert keyframe.microseconds in keyframe.times
  assert keyframe.boxes.tolist() == [[0.25, 0.5, 0.75, 1.0]]
  assert keyframe.labels == ((2, 0),)


def test_a_file_that_is_a_part_of_its_video(video_root):
  seen = (Region((0, 0, 1, 1), score=0.5),)
  keyframe, found = convert_keyframe(
    video_root, 'a.mp4', 901.0, file_start=900.0, regions=(), proposals=seen
  )
  assert found == list(range(20, 30))
  assert (keyframe.microseconds, keyframe.times[0]) == (901_000_000, 900_800_000)
  assert (keyframe.scores.tolist(), keyframe.annotated.tolist()) == ([0.5], [False])


def test_times_of_a_variable_rate_count(video_root):
  # 10 frames of 0.02 s, then 10 of 0.08 s: frame 13 is shown at 0.44 .. 0.52 s.
  keyframe, found = convert_keyframe(video_root, 'vfr.mp4', 0.46)
  place = keyframe.times.tolist().index(keyframe.microseconds)
  assert found[place] == 13


@pytest.mark.parametrize(('seconds', 'start'), [(2.01, 0.0), (9.0, 0.0), (902.5, 900.0)])
def test_a_keyframe_beyond_the_video(video_root, seconds, start):
  rejected = convert_keyframe(video_root, 'a.mp4', seconds, file_start=start)
  part = ', which begins at 900 s of the video' if start else ''
  assert rejected.reason == (
    f'the keyframe at {seconds:g} s is beyond the end of the file{part}. A file that holds a part of '
    'a video must be named ID_START_END, in seconds.'
  )
