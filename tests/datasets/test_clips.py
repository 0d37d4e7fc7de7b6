import dataclasses

import numpy as np
import pytest

from datasets import clips, geometry, sampling
from datasets.clip_config import ClipConfig
from datasets.dataset import VideoDataset
from datasets.manifest import TaskLabels
from errors import ConfigError, DataError

HEIGHT, WIDTH = 24, 32
CLIP = ClipConfig(frames=3, stride=2, resize=24, crop=16)


class Ramps(VideoDataset):
  """Videos whose pixels say the frame (red), the column (green) and the row (blue)."""

  def __init__(self, *num_frames, frame_rate=25.0):
    self.where, self.split, self.split_sizes = 'ramps', 'train', {'train': len(num_frames)}
    super().__init__({'g': TaskLabels(('a', 'b'), False, 0)}, {'t': 'g'})
    self.num_frames = np.array(num_frames)
    self.frame_rate = np.full(len(num_frames), frame_rate, np.float32)
    self.defects, self.fingerprint = (), 'f'
    self.read = []

  def key(self, row):
    return f'video {row}'

  def stored_labels(self, row):
    return np.array([row % 2], np.int32)

  def frames(self, row, indices):
    self.read.append(indices.tolist())
    frame = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    frame[..., 1] = np.arange(WIDTH)
    frame[..., 2] = np.arange(HEIGHT)[:, None]
    for number in indices:
      frame[..., 0] = number  # Overwrites the one before, as the class says it may.
      yield frame


def rngs(count=1, seed=0):
  return [np.random.default_rng((seed, i)) for i in range(count)]


def cut(dataset, config, row=0, count=1, seed=0):
  return clips.train_clips(dataset, config, row, rngs(count, seed))


def test_train_clip_holds_what_it_says():
  for seed in range(20):
    (clip,) = cut(Ramps(50), dataclasses.replace(CLIP, flip_prob=0.5), seed=seed)
    assert clip.pixels.shape == (3, 16, 16, 3)
    assert clip.pixels.dtype == np.uint8
    np.testing.assert_array_equal(
      clip.pixels[..., 0], clip.indices[:, None, None] * np.ones((16, 16))
    )
    columns = clip.window.left + np.arange(16)
    assert (
      clip.pixels[0, 0, :, 1].tolist() == (columns[::-1] if clip.window.flip else columns).tolist()
    )
    assert clip.pixels[0, :, 0, 2].tolist() == (clip.window.top + np.arange(16)).tolist()
    assert np.diff(clip.indices).tolist() == [2, 2]


def test_short_video_repeats_frames_that_are_decoded_once():
  dataset = Ramps(2)
  (clip,) = cut(dataset, ClipConfig(frames=5, stride=1, resize=24, crop=24))
  assert dataset.read == [[0, 1]]
  assert clip.pixels[:, 0, 0, 0].tolist() == clip.indices.tolist() == [0, 1, 0, 1, 0]


def test_repeated_clips_of_one_video_share_its_decoding():
  dataset = Ramps(9)
  config = ClipConfig(frames=4, stride=2, resize=24, crop=16)
  together = cut(dataset, config, count=3)
  assert dataset.read == [sorted({int(i) for clip in together for i in clip.indices})]
  for clip, rng in zip(together, rngs(3)):
    (alone,) = clips.train_clips(dataset, config, 0, [rng])
    np.testing.assert_array_equal(clip.pixels, alone.pixels)
    assert clip.window == alone.window
  assert len({(*clip.indices, clip.window) for clip in together}) > 1


def test_sampling_modes():
  dataset = Ramps(90)
  (uniform,) = cut(dataset, ClipConfig(frames=4, stride=1, resize=24, crop=16, sampling='uniform'))
  assert uniform.indices.tolist() == [0, 30, 59, 89]
  (segments,) = cut(
    dataset, ClipConfig(frames=3, stride=1, resize=24, crop=16, sampling='segments')
  )
  assert (segments.indices // 30).tolist() == [0, 1, 2]
  config = ClipConfig(frames=3, stride=1, resize=24, crop=16, sampling='segments')
  assert clips.view_indices(dataset, config, 0, 1).tolist() == [[15, 45, 75]]
  config = ClipConfig(frames=4, stride=1, resize=24, crop=16, sampling='uniform')
  assert clips.view_indices(dataset, config, 0, 1).tolist() == [[0, 30, 59, 89]]


def test_stride_counts_at_the_rate_asked_for():
  config = ClipConfig(frames=3, stride=2, resize=24, crop=16, fps=12.5)
  for rate, step in ((25.0, 4), (50.0, 8), (6.25, 1)):
    (clip,) = cut(Ramps(60, frame_rate=rate), config)
    assert np.diff(clip.indices).tolist() == [step, step]
    assert (
      np.diff(clips.view_indices(Ramps(60, frame_rate=rate), config, 0, 2)[0]).tolist()
      == [step] * 2
    )


def test_unknown_frame_rate():
  dataset = Ramps(60, frame_rate=0.0)
  config = ClipConfig(frames=3, stride=2, resize=24, crop=16, fps=12.5)
  with pytest.raises(DataError, match=r"frame rate of 'video 0' \(row 0\) is not stored"):
    cut(dataset, config)
  assert len(cut(dataset, CLIP)) == 1


def test_inception_crop_and_pad():
  (clip,) = cut(Ramps(9), dataclasses.replace(CLIP, random_crop='inception', crop_area=(0.5, 0.6)))
  assert 0.45 < clip.window.height * clip.window.width / (HEIGHT * WIDTH) < 0.65
  config = ClipConfig(frames=2, stride=1, resize=16, crop=16, fit='pad')
  (clip,) = cut(Ramps(9), config)
  assert clip.window == geometry.Window(0, 0, 24, 32, 12, 16)
  assert (clip.pixels[:, 12:] == 0).all()
  views = clips.view_clips(Ramps(9), config, 0, 1, 1)
  np.testing.assert_array_equal(views[0, 0, :, :, 1:], clip.pixels[0, :, :, 1:])


def test_views():
  dataset = Ramps(9)
  config = ClipConfig(frames=2, stride=2, resize=24, crop=24)
  views = clips.view_clips(dataset, config, 0, temporal_views=2, spatial_views=3)
  assert views.shape == (6, 2, 24, 24, 3)
  # Offsets 0 and 6, crops at x = 0, 4 and 8; each frame read once.
  assert dataset.read == [[0, 2, 6, 8]]
  assert views[:, :, 0, 0, 0].tolist() == [[0, 2], [6, 8]] * 3
  assert views[:, 0, 0, 0, 1].tolist() == [0, 0, 4, 4, 8, 8]


def test_views_resize_the_whole_frame_first():
  views = clips.view_clips(Ramps(3), ClipConfig(frames=1, stride=1, resize=18, crop=16), 0, 1, 1)
  frame = next(Ramps(3).frames(0, np.array([1])))
  window = geometry.spatial_crops(18, 24, 16, 1)[0]
  wanted = geometry.resize(frame, 18, 24)[window.top :, window.left :][:16, :16]
  np.testing.assert_array_equal(views[0, 0], wanted)


def test_reference_indices_are_those_of_sampling():
  (clip,) = cut(Ramps(50), CLIP, seed=3)
  wanted = sampling.dense_train_indices(rngs(1, 3)[0], 50, 3, 2)
  assert clip.indices.tolist() == wanted.tolist()


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'frames': 0}, r'clip\.frames: expected at least 1, got 0'),
    ({'crop': 25}, r'clip\.crop: expected <= resize \(24\), got 25'),
    ({'flip_prob': 1.5}, r'clip\.flip_prob: expected in \[0, 1\]'),
    ({'short_clip': 'pad'}, r"clip\.short_clip: expected one of .*got 'pad'"),
    ({'sampling': 'sparse'}, r"clip\.sampling: expected one of .*got 'sparse'"),
    ({'scale_jitter': (1.3, 0.9)}, r'clip\.scale_jitter: expected \(lo, hi\)'),
    ({'repeats': 0}, r'clip\.repeats: expected at least 1'),
    ({'fps': -1.0}, r'clip\.fps: expected in \[0, 1000\]'),
    ({'sampling': 'segments'}, r"clip\.stride: expected 1 with sampling='segments'.*got 2"),
    ({'sampling': 'uniform', 'stride': 1, 'fps': 8.0}, r'clip\.fps: expected 0 with sampling'),
    ({'fit': 'pad'}, r'clip\.resize: expected crop \(16\) to pad, got 24'),
    ({'resize_jitter': (12, 30)}, r'clip\.resize_jitter: expected at least crop \(16\), got 12'),
    (
      {'random_crop': 'inception', 'scale_jitter': (0.9, 1.1)},
      r"clip\.scale_jitter: expected None with random_crop='inception'",
    ),
    (
      {'random_crop': 'inception', 'crop_area': (0.5, 2.0)},
      r'clip\.crop_area: expected at most the whole frame',
    ),
  ],
)
def test_bad_clip_config(change, message):
  with pytest.raises(ConfigError, match=message):
    dataclasses.replace(CLIP, **change)
