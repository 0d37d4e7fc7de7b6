"""Pixels as displayed: orientation, pixel aspect, colours, and the JPEG files made of them."""

import struct

import numpy as np
import pytest
import simplejpeg

from datasets import picture, video
from errors import DataError
from tests.datasets import videos

LOSSLESS = {'qp': '0', 'g': '12'}


def first_frame(path, render):
  with video.open_video(path) as source:
    return next(source.frames_at([0.0], render))[1]


def as_rgb(shot):
  return shot.rgb(shot.height, shot.width, smooth=True)


def as_jpeg(shot, quality=2):
  encoder = picture.JpegEncoder(shot.height, shot.width, quality)
  return simplejpeg.decode_jpeg(encoder.encode(shot))


def corners(number):
  """A dark picture, 48 x 64, with a red, green, blue and white 16 px corner, clockwise."""
  frame = np.full((48, 64, 3), 30, np.uint8)
  frame[:16, :16], frame[:16, -16:] = (230, 20, 20), (20, 230, 20)
  frame[-16:, -16:], frame[-16:, :16] = (20, 20, 230), (230, 230, 230)
  return frame


# What a player shows: degrees counterclockwise, and a mirror after it.
ORIENTATIONS = {
  (0, False): lambda f: f,
  (90, False): lambda f: np.rot90(f, 1),
  (180, False): lambda f: np.rot90(f, 2),
  (270, False): lambda f: np.rot90(f, 3),
  (0, True): lambda f: f[:, ::-1],
  (180, True): lambda f: f[::-1],
}


@pytest.mark.parametrize('orientation', ORIENTATIONS)
def test_rotation_and_mirror_of_the_container_are_applied(tmp_path, orientation):
  path = tmp_path / 'a.mp4'
  degrees, flip = orientation
  videos.write_video(path, 3, pictures=corners, rotation=degrees, flip=flip, options=LOSSLESS)
  wanted = ORIENTATIONS[orientation](corners(0)).astype(int)
  info = video.probe(path)
  assert (info.height, info.width) == wanted.shape[:2]
  for frame in (*video.read_frames(path, info, [0, 2]), first_frame(path, as_jpeg)):
    assert frame.shape == wanted.shape
    assert np.abs(frame - wanted).mean() < 4


def test_the_two_mirrored_turns_are_transpositions():
  layouts = [picture.Layout((2, 3), True, *flips) for flips in ((False, False), (True, True))]
  stored = np.arange(6).reshape(2, 3)
  np.testing.assert_array_equal(layouts[0].turn(stored), stored.T)
  np.testing.assert_array_equal(layouts[1].turn(stored), stored.T[::-1, ::-1])
  assert layouts[0].displayed == (3, 2)


@pytest.mark.parametrize(
  ('aspect', 'rotation', 'shape'),
  [('4/3', None, (48, 85)), ('3/4', None, (64, 64)), ('4/3', 90, (85, 48))],
)
def test_pixels_that_are_not_square_are_made_so(tmp_path, aspect, rotation, shape):
  path = tmp_path / 'a.mp4'
  videos.write_video(path, 3, pixel_aspect=aspect, rotation=rotation)
  info = video.probe(path)
  assert (info.height, info.width) == shape
  (frame,) = video.read_frames(path, info, [1])
  assert frame.shape == (*shape, 3)
  upright = frame if rotation is None else np.rot90(frame, -1)
  assert videos.number_in(upright) == 1


def test_a_pixel_aspect_beyond_reason_is_an_error(tmp_path):
  path = videos.write_video(tmp_path / 'a.mp4', 3, codec='mpeg4', pixel_aspect='4/1')
  data = path.read_bytes()
  at = data.index(b'pasp') + 4
  path.write_bytes(data[:at] + struct.pack('>2I', 1000, 1) + data[at + 8 :])
  with pytest.raises(DataError, match=r'a\.mp4: frames of 64000x48 px'):
    video.probe(path)


def patches(number):
  """Flat 16 px patches of 12 colours."""
  colours = np.random.default_rng(1).integers(30, 226, (3, 4, 3), dtype=np.uint8)
  return colours.repeat(16, 0).repeat(16, 1)


COLOURS = [('ITU709', 'MPEG'), ('ITU709', 'JPEG'), ('ITU601', 'MPEG'), ('ITU601', 'JPEG'), None]


@pytest.mark.parametrize('colour', COLOURS)
def test_colours_survive_whatever_the_videos_matrix_and_range(tmp_path, colour):
  path = tmp_path / 'a.mp4'
  videos.write_video(path, 3, pictures=patches, colour=colour, options=LOSSLESS)
  (fast,) = video.read_frames(path, video.probe(path), [1])
  for frame in (fast, first_frame(path, as_rgb), first_frame(path, as_jpeg)):
    inner = np.abs(frame.astype(int) - patches(0)).reshape(3, 16, 4, 16, 3)[:, 4:12, :, 4:12]
    assert inner.max() <= 8
    assert inner.mean() < 2


def test_high_definition_without_a_matrix_is_bt709(tmp_path):
  tall = lambda number: patches(number).repeat(15, 0).repeat(15, 1)  # noqa: E731
  path = tmp_path / 'a.mp4'
  videos.write_video(path, 2, pictures=tall, colour=('ITU709', 'MPEG'), options=LOSSLESS)
  tagged = first_frame(path, as_rgb)
  other = videos.write_video(
    tmp_path / 'b.mp4', 2, pictures=tall, encode_as=('ITU709', 'MPEG'), options=LOSSLESS
  )
  np.testing.assert_array_equal(first_frame(other, as_rgb), tagged)
  assert np.abs(tagged.astype(int) - tall(0)).mean() < 1.5


@pytest.mark.parametrize('pix_fmt', ['yuv444p', 'yuv422p', 'yuv420p10le', 'gray', 'yuvj420p'])
def test_pixel_formats(tmp_path, pix_fmt):
  path = videos.write_video(tmp_path / 'a.mp4', 3, pix_fmt=pix_fmt, options=LOSSLESS)
  frame = first_frame(path, as_jpeg)
  assert videos.number_in(frame) == 0
  if pix_fmt != 'gray':
    assert np.abs(frame.astype(int) - videos.picture(0)).mean() < 6


def test_rgb_video(tmp_path):
  path = tmp_path / 'a.mkv'
  videos.write_video(path, 3, codec='libx264rgb', pix_fmt='rgb24', options={'qp': '0'})
  info = video.probe(path)
  for frame in (*video.read_frames(path, info, [0]), first_frame(path, as_jpeg)):
    assert np.abs(frame.astype(int) - videos.picture(0)).mean() < 4


def noise(number):
  return np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def test_jpeg_quality_is_the_quantiser_scale(tmp_path):
  path = videos.write_video(tmp_path / 'a.mp4', 3, pictures=noise, options=LOSSLESS)
  files = {}
  for quality in (2, 4, 31):
    encode = lambda shot: picture.JpegEncoder(48, 64, quality).encode(shot)  # noqa: B023, E731
    files[quality] = first_frame(path, encode)
  assert len(files[2]) > 1.2 * len(files[4]) > 2 * len(files[31])
  # The luma table is libav's, MPEG-1's intra matrix times scale / 8: entry (0, 0) is 8 always,
  # entry (0, 1) is 16 * scale / 8.
  for quality, data in files.items():
    table = data[data.index(b'\xff\xdb') + 5 :]
    assert (table[0], table[1]) == (8, 2 * quality)
    assert data[:4] == b'\xff\xd8\xff\xe0'
    assert data[6:10] == b'JFIF'
    assert b'Lavc' not in data
    assert simplejpeg.decode_jpeg_header(data)[:4] == (48, 64, 'YCbCr', '420')
