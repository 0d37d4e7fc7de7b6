"""Small videos for tests, written with PyAV: every frame says which one it is."""

from fractions import Fraction

import av
import numpy as np

HEIGHT, WIDTH = 48, 64


def picture(number, height=HEIGHT, width=WIDTH):
  """Frame `number` of a test video, uint8 [H, W, 3]: a gradient and the number in 8 grey blocks."""
  y, x = np.mgrid[0:height, 0:width]
  frame = np.stack([x * 200 // width, y * 200 // height, np.full_like(x, 40)], -1)
  step = width // 8
  for bit in range(8):
    frame[: height // 3, bit * step : (bit + 1) * step] = 230 if number >> bit & 1 else 20
  return frame.astype(np.uint8)


def number_in(frame):
  """The number that `picture` drew into a frame of any size."""
  height, width = frame.shape[:2]
  columns = (np.arange(8) * 2 + 1) * width // 16
  return int(sum((frame[height // 6, columns].mean(-1) > 125) << np.arange(8)))


def write_video(
  path,
  num_frames=50,
  *,
  rate=25,
  times=None,
  pictures=picture,
  codec='libx264',
  pix_fmt='yuv420p',
  options=None,
  rotation=None,
  flip=False,
  pixel_aspect=None,
  colour=None,
  encode_as=None,
  audio=False,
  container_options=None,
):
  """Writes `num_frames` of `pictures(number)`; `times` in seconds, default number / rate.

  `rotation` is what a player turns the picture by, counterclockwise, in degrees; `colour` is
  (matrix, range) as in `av.video.reformatter`: the frames are converted to and tagged with it;
  `encode_as` converts without a tag.
  """
  if options is None:
    options = {'g': '12', 'bf': '2', 'crf': '18'} if codec == 'libx264' else {}
  first = pictures(0)
  with av.open(str(path), 'w', options=container_options or {}) as container:
    stream = container.add_stream(codec, rate=rate, options=options)
    stream.height, stream.width = first.shape[:2]
    stream.pix_fmt = pix_fmt
    stream.codec_context.thread_count = 1
    unit = Fraction(1, rate if times is None else 90000)
    stream.codec_context.time_base = unit
    if pixel_aspect:
      stream.codec_context.sample_aspect_ratio = Fraction(pixel_aspect)
    if rotation is not None:
      stream.set_display_rotation(rotation, hflip=flip)
    sound = container.add_stream('aac', rate=8000) if audio else None
    _tag_colour(stream.codec_context, colour)
    for number in range(num_frames):
      frame = _frame(pictures(number), pix_fmt, colour or encode_as)
      seconds = number / rate if times is None else times[number]
      frame.pts, frame.time_base = round(seconds / unit), unit
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
    if sound is not None:
      write_silence(container, sound, num_frames / rate)
  return path


def _tag_colour(context, colour):
  if colour:
    context.colorspace = {'ITU709': 1, 'ITU601': 6}[colour[0]]
    context.color_range = {'MPEG': 1, 'JPEG': 2}[colour[1]]


def _frame(pixels, pix_fmt, colour):
  frame = av.VideoFrame.from_ndarray(pixels, 'rgb24')
  matrix, colour_range = colour or ('ITU601', 'MPEG')
  return frame.reformat(
    format=pix_fmt, dst_colorspace=matrix, src_color_range='JPEG', dst_color_range=colour_range
  )


def write_silence(container, stream, seconds):
  """Encodes silence into an open container."""
  for start in range(0, int(seconds * 8000), 1024):
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), 'fltp', 'mono')
    frame.sample_rate, frame.pts = 8000, start
    container.mux(stream.encode(frame))
  container.mux(stream.encode(None))


def write_audio(path, seconds=1):
  """Writes a file with sound and no picture."""
  with av.open(str(path), 'w') as container:
    write_silence(container, container.add_stream('aac', rate=8000), seconds)
  return path
