"""Decoded frames -> pixels as displayed, or JPEG files: rotation, pixel aspect, colours."""

import dataclasses
import os
import struct
from fractions import Fraction
from typing import Any, Self

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from errors import DataError

_Array = np.ndarray[Any, np.dtype[Any]]

MAX_SIDE = 16384
"""Largest side of a displayed frame in px; more is taken for a damaged header."""

MIN_QUALITY, MAX_QUALITY = 2, 31
"""Best and worst quantiser scale of `JpegEncoder`."""

_SMOOTH = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
# From this height on, frames that do not name their colour matrix are BT.709, as players have it.
_HD_HEIGHT = 720


@dataclasses.dataclass(frozen=True)
class Layout:
  """How stored frames become displayed ones: resized to `stored`, transposed, then mirrored."""

  stored: tuple[int, int]  # height and width with square pixels
  transposed: bool
  flip_x: bool
  flip_y: bool

  @classmethod
  def of(cls, frame: av.VideoFrame, stream: VideoStream, path: str | os.PathLike[str]) -> Self:
    """Pixel aspect from the stream, orientation from the frame's display matrix."""
    aspect = stream.sample_aspect_ratio or Fraction(1)
    height, width = frame.height, frame.width
    if aspect > 1:
      width = round(width * aspect)
    else:
      height = round(height / aspect)
    if max(height, width) > MAX_SIDE:
      raise DataError(
        f'{path}: frames of {width}x{height} px (pixel aspect {aspect}) are larger than '
        f'{MAX_SIDE} px: the header is damaged. Encode the video again.'
      )
    return cls((height, width), *_orientation(frame))

  @property
  def displayed(self) -> tuple[int, int]:
    """Height and width as displayed."""
    height, width = self.stored
    return (width, height) if self.transposed else (height, width)

  @property
  def turned(self) -> bool:
    """Whether frames are stored in another orientation than displayed."""
    return self.transposed or self.flip_x or self.flip_y

  def turn(self, array: _Array) -> _Array:
    """A view of a stored [H, W, ...] array as displayed."""
    if self.transposed:
      array = array.swapaxes(0, 1)
    return array[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
  """Whether to transpose, then mirror left-right and up-down, from the display matrix.

  The matrix [[a, b], [c, d]] sends the pixel (x, y) to (a x + c y, b x + d y), y pointing down.
  Turns by other angles than multiples of 90 degrees take the nearest such.
  """
  matrix: Any = frame.side_data.get('DISPLAYMATRIX')
  if matrix is None:
    return False, False, False
  a, b, _, c, d = struct.unpack_from('<5i', bytes(matrix))
  if abs(b) > abs(a):
    return True, c < 0, b < 0
  return False, a < 0, d < 0


class Picture:
  """A decoded frame; `height` and `width` are those displayed, in px."""

  def __init__(self, frame: av.VideoFrame, layout: Layout, reformatter: VideoReformatter):
    """Wraps a frame; pictures of one video share the reformatter."""
    self._frame = frame
    self._layout = layout
    self._reformatter = reformatter
    self.height, self.width = layout.displayed

  @classmethod
  def of_pixels(cls, pixels: _Array) -> Self:
    """A picture of RGB uint8 [H, W, 3]."""
    height, width = pixels.shape[:2]
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), 'rgb24')
    return cls(frame, Layout((height, width), False, False, False), VideoReformatter())

  def rgb(self, height: int, width: int, *, smooth: bool = False) -> _Array:
    """RGB uint8 [height, width, 3] as displayed; `smooth` interpolates colour, ten times slower."""
    how = _SMOOTH if smooth else Interpolation.BILINEAR
    array = self._reformatted('rgb24', height, width, how, None).to_ndarray()
    return np.ascontiguousarray(self._layout.turn(array))

  def yuv(self, height: int, width: int) -> av.VideoFrame:
    """A frame in JPEG's colours (4:2:0, BT.601, full range) as displayed; even sides only."""
    frame = self._reformatted('yuv420p', height, width, _SMOOTH, Colorspace.ITU601)
    if self._layout.turned:
      frame = self._turned_yuv(frame)
    return frame

  def _reformatted(
    self,
    pixel_format: str,
    height: int,
    width: int,
    how: Interpolation,
    matrix: Colorspace | None,
  ) -> av.VideoFrame:
    if self._layout.transposed:
      height, width = width, height
    source_matrix, source_range = _colours(self._frame)
    return self._reformatter.reformat(
      self._frame,
      width=width,
      height=height,
      format=pixel_format,
      src_colorspace=source_matrix,
      src_color_range=source_range,
      dst_colorspace=matrix,
      dst_color_range=ColorRange.JPEG,
      interpolation=how,
      threads=1,
    )

  def _turned_yuv(self, frame: av.VideoFrame) -> av.VideoFrame:
    height, width = frame.height, frame.width
    flat = frame.to_ndarray().ravel()
    luma = flat[: height * width].reshape(height, width)
    chroma = flat[height * width :].reshape(2, height // 2, width // 2)
    planes = [self._layout.turn(plane) for plane in (luma, *chroma)]
    packed = np.concatenate([plane.ravel() for plane in planes])
    turned = av.VideoFrame.from_ndarray(packed.reshape(-1, planes[0].shape[1]), 'yuv420p')
    turned.color_range = ColorRange.JPEG
    return turned


class JpegEncoder:
  """Encodes pictures of one size as JPEG with libav's mjpeg encoder."""

  def __init__(self, height: int, width: int, quality: int):
    """Opens the encoder.

    Args:
      height: even, px.
      width: even, px.
      quality: quantiser scale, as ffmpeg's -q:v: 2 (best) to 31.
    """
    context = av.CodecContext.create('mjpeg', 'w')
    assert isinstance(context, av.VideoCodecContext)
    context.height, context.width = height, width
    context.pix_fmt = 'yuv420p'
    context.color_range = ColorRange.JPEG
    context.sample_aspect_ratio = Fraction(1)
    context.time_base = Fraction(1)
    context.thread_count = 1
    # A scale in `global_quality` would be ignored; without bitexact every file would name libav.
    scale = str(quality)
    context.options = {'flags': '+qscale+bitexact', 'qmin': scale, 'qmax': scale}
    self._context = context
    self._size = height, width
    self._count = 0

  def encode(self, picture: Picture) -> bytes:
    """The picture as a baseline JFIF file, 4:2:0."""
    frame = picture.yuv(*self._size)
    frame.pts, frame.time_base = self._count, self._context.time_base
    self._count += 1
    return b''.join(bytes(packet) for packet in self._context.encode(frame))


# libav's colour matrices that swscale knows; the others are taken for unspecified.
_MATRICES = {
  1: Colorspace.ITU709,
  4: Colorspace.FCC,
  5: Colorspace.ITU601,
  6: Colorspace.ITU601,
  7: Colorspace.SMPTE240M,
  9: Colorspace.BT2020,
}


def _colours(frame: av.VideoFrame) -> tuple[Colorspace | None, ColorRange]:
  """Colour matrix and range of a frame; players' conventions where it does not say."""
  if frame.format.is_rgb:
    return None, ColorRange.JPEG
  usual = Colorspace.ITU709 if frame.height >= _HD_HEIGHT else Colorspace.ITU601
  full = frame.color_range == ColorRange.JPEG
  return _MATRICES.get(frame.colorspace, usual), ColorRange.JPEG if full else ColorRange.MPEG
