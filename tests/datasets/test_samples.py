"""The data behind the contact sheet: which frames, which labels, in what words."""

import numpy as np
import pytest

from datasets import samples
from datasets.batches import eval_batches
from datasets.clip_config import ClipConfig
from datasets.dataset import Contents
from datasets.geometry import Window
from datasets.manifest import TaskLabels
from datasets.sources import contents, open_dataset


@pytest.fixture
def tiny(tiny_dir):
  return open_dataset(tiny_dir, 'test', {'verb': 'verb', 'tags': 'tags'})


def test_contents(tiny_dir):
  found = contents(tiny_dir)
  assert found.split_sizes == {'train': 10, 'test': 7}
  assert {name: (g.offset, g.num_classes) for name, g in found.groups.items()} == {
    'verb': (0, 3),
    'tags': (3, 4),
  }


def test_contents_of_a_folder_of_videos(tmp_path):
  (tmp_path / 'train.csv').write_text('path,label\nb.mp4,b\nc.mp4,c\n')
  (tmp_path / 'test.csv').write_text('path,label\na.mp4,a\n')
  assert contents(tmp_path) == Contents(
    {'train': 2, 'test': 1}, {'label': TaskLabels(('a', 'b', 'c'), False, 0)}
  )


def test_plain_samples_are_whole_videos_in_a_seeds_order(tiny):
  shown = samples.plain_samples(tiny, 20, seed=3)
  order = np.random.default_rng(3).permutation(7)
  assert [s.key for s in shown] == [f'clip{row}' for row in order]
  assert [s.key for s in samples.plain_samples(tiny, 2, seed=3)] == [s.key for s in shown][:2]
  for sample, row in zip(shown, order, strict=True):
    count = min(5 + row, 8)
    assert sample.pixels.shape == (count, 24, 32, 3)
    assert sample.indices[[0, -1]].tolist() == [0, 4 + row]
    levels = [10 * row + 4 * i for i in sample.indices]
    np.testing.assert_allclose(sample.pixels.mean((1, 2, 3)), levels, atol=1.5)
  (sample,) = [s for s in shown if s.key == 'clip6']
  assert sample.labels == ('open', 'c, d')
  assert sample.lines == [
    'c, d',
    'clip6',
    'frames 0, 1, 3, 4, 6, 7, 9, 10 of 11',
    'whole frames of 32 x 24 px',
  ]
  assert sample.marks[-1] == '10  ·  0.40 s'


def test_large_frames_are_shown_smaller(tiny, monkeypatch):
  monkeypatch.setattr(samples, 'PLAIN_SIDE', 12)
  assert samples.plain_samples(tiny, 1, 0)[0].pixels.shape[1:] == (12, 16, 3)


def test_views_of_an_evaluation(tiny):
  clip = ClipConfig(frames=3, stride=2, resize=16, crop=16)
  shown = samples.evaluation_samples(tiny, clip, 8, temporal_views=2, spatial_views=3)
  batch = eval_batches(tiny, clip, batch_size=2, temporal_views=2, spatial_views=3).batch_at(0)
  np.testing.assert_array_equal([s.pixels for s in shown[:6]], batch['inputs'][0])
  np.testing.assert_array_equal([s.pixels for s in shown[6:]], batch['inputs'][1][:2])
  assert [s.key for s in shown] == ['clip0'] * 6 + ['clip1'] * 2
  assert [s.notes for s in shown[:3]] == [
    ('time 1 of 2, crop 1 of 3',),
    ('time 2 of 2, crop 1 of 3',),
    ('time 1 of 2, crop 2 of 3',),
  ]
  assert [s.indices.tolist() for s in shown[6:]] == [[0, 2, 4], [1, 3, 5]]


def test_unreadable_videos_are_passed_over(tiny_dir):
  path = tiny_dir / 'test-00000-of-00001.tfrecord'
  tiny = open_dataset(tiny_dir, 'test', {'verb': 'verb'})
  data = bytearray(path.read_bytes())
  data[data.index(b'\xff\xd8') + 30] ^= 1
  path.write_bytes(data)
  clip = ClipConfig(frames=5, stride=1, resize=16, crop=16)
  assert [s.key for s in samples.evaluation_samples(tiny, clip, 2)] == ['clip1', 'clip2']


def test_times_are_left_out_where_unknown(tiny):
  tiny.frame_rate = np.zeros(7)
  assert samples.plain_samples(tiny, 1, 0)[0].marks[0] == '0'


@pytest.mark.parametrize(
  ('indices', 'text'),
  [
    ([3, 5, 7, 9], 'frames 3, 5 .. 9 of 40'),
    ([0, 1, 0], 'frames 0, 1, 0 of 40'),
    (list(range(9)) + [20, 30], 'frames 0, 1, 2, 3, 4, 5, 6, 7 .. 30 of 40'),
  ],
)
def test_frame_numbers(indices, text):
  assert samples.frame_numbers(np.array(indices), 40) == text


@pytest.mark.parametrize(
  ('indices', 'text'),
  [
    ([0, 2, 4], ''),
    ([0, 3, 1], 'loops: the video has only 5 frames'),
    ([0, 2, 4, 4, 4], 'holds its last frame 3 times: the video has only 5 frames'),
    ([0, 0, 1, 1, 2, 2], 'shows 3 frames again'),
  ],
)
def test_repetition(indices, text):
  assert samples.repetition(np.array(indices), 5) == text


def test_window_note():
  window = Window(top=4, left=12, height=160, width=180, out_height=112, out_width=112)
  assert samples.window_note(window) == 'window 180 x 160 px at left 12, top 4'
  mirrored = Window(0, 0, 5, 5, 5, 5, flip=True)
  assert samples.window_note(mirrored) == 'window 5 x 5 px at left 0, top 0, mirrored'


def test_shares_of_mixed_labels(tiny):
  weights = {'verb': np.array([0.25, 0, 0.75]), 'tags': np.array([1, 0.25, 0.001, 0])}
  assert samples.label_names(tiny, weights) == ('75% cut', '+ 25% open', '100% a', '+ 25% b')
  assert samples.label_names(tiny, {'verb': np.int32(2)}) == ('cut',)
  assert samples.label_names(tiny, {'tags': np.zeros(4)}) == ('(no label)',)
