"""A row and a video in, a record out: which frames, which pixels, which facts."""

import dataclasses
import pickle

import numpy as np
import pytest
import simplejpeg

from datasets import convert, records
from datasets.annotations import LabelGroup, Rejected, Row
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
