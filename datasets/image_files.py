"""Image files -> RGB pixels as a viewer shows them: JPEG, PNG, WebP and BMP."""

import os

import cv2
import numpy as np
import simplejpeg

from datasets.annotations import IMAGE_SUFFIXES
from errors import DataError


def is_image(path: str | os.PathLike[str]) -> bool:
  """Whether a file is an image by its name, rather than a video."""
  return os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES


def read(path: str | os.PathLike[str]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
  """The image, uint8 [H, W, 3]: turned as EXIF says, grey and CMYK as RGB, without transparency.

  Raises:
    DataError: missing, empty, cut off or damaged file, or none that OpenCV can read.
  """
  try:
    with open(path, 'rb') as file:
      data = file.read()
  except OSError as error:
    raise DataError(f'{path}: cannot be read: {error.strerror}.') from error
  if not data:
    raise DataError(f'{path}: the file is empty (0 bytes). Copy or download it again.')
  try:
    if data[:2] == b'\xff\xd8':
      simplejpeg.decode_jpeg(data)  # OpenCV, which turns, fills what is cut off with grey.
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
  except (ValueError, cv2.error) as error:
    raise DataError(_damaged(path, str(error).strip())) from error
  if image is None:
    raise DataError(_damaged(path, 'OpenCV cannot decode it'))
  return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def _damaged(path: str | os.PathLike[str], reason: str) -> str:
  return f'{path}: truncated, damaged or no image ({reason}). Copy or download it again.'
