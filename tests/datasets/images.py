"""Tiny image datasets for tests."""

import zlib
from pathlib import Path

import cv2
import numpy as np
import tensorflow_datasets as tfds
from etils import epath

CLASSES = ('ant', 'bee', 'cat')
TAGS = ('indoors', 'outdoors')
SIZES = {'train': 7, 'validation': 3}


def pixels(number: int, height: int = 24, width: int = 32) -> np.ndarray:
  """A smooth picture of its own, RGB uint8 [H, W, 3]."""
  rng = np.random.default_rng(number)
  coarse = rng.integers(0, 255, (3, 4, 3)).astype(np.uint8)
  return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)


def encoded(number: int, suffix: str = '.jpg', **size: int) -> bytes:
  """The picture as a file's bytes."""
  return cv2.imencode(suffix, pixels(number, **size)[..., ::-1])[1].tobytes()


class TinyImages(tfds.core.GeneratorBasedBuilder):
  """Images with a class and tags: JPEGs, then a PNG, a grey JPEG and one with alpha."""

  VERSION = tfds.core.Version('1.2.0')
  # Found by TFDS through `importlib_resources` otherwise, which is not installed.
  pkg_dir_path, code_path = Path(__file__).parent, epath.Path(__file__)

  def _info(self):
    label, tag = (tfds.features.ClassLabel(names=names) for names in (CLASSES, TAGS))
    features = tfds.features.FeaturesDict(
      {
        'image': tfds.features.Image(),
        'label': label,
        'file_name': tfds.features.Text(),
        'tags': tfds.features.Sequence(tag),
      }
    )
    return self.dataset_info_from_configs(features=features)

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split) for split in SIZES}

  def _generate_examples(self, split='train'):
    for i in range(SIZES[split]):
      example = {
        'image': image_bytes(i),
        'label': i % 3,
        'file_name': f'{split}_{i}.jpg',
        'tags': [0, 1][i % 2 :],
      }
      yield f'{i}', example


def exif(orientation: int) -> bytes:
  """What an EXIF segment says of how to turn an image."""
  tag = b'\x01\x12\x00\x03\x00\x00\x00\x01' + bytes([0, orientation, 0, 0])
  return b'MM\x00\x2a\x00\x00\x00\x08\x00\x01' + tag + bytes(4)


def png_with_exif(png: bytes, orientation: int) -> bytes:
  """The file with a chunk that says how to turn it."""
  chunk = b'eXIf' + exif(orientation)
  size, crc = ((n).to_bytes(4, 'big') for n in (len(chunk) - 4, zlib.crc32(chunk)))
  end_of_header = 8 + 4 + 4 + 13 + 4
  return png[:end_of_header] + size + chunk + crc + png[end_of_header:]


def image_bytes(i: int) -> bytes:
  """What the i-th record holds."""
  if i == 4:
    return encoded(i, '.png')
  if i == 5:
    return cv2.imencode('.jpg', pixels(i)[..., 0])[1].tobytes()
  if i == 6:
    opaque = np.full((24, 32, 1), 255, np.uint8)
    return cv2.imencode('.png', np.concatenate([pixels(i)[..., ::-1], opaque], 2))[1].tobytes()
  return encoded(i)


def prepare(data_dir: Path) -> Path:
  """Prepares the dataset in a folder, without the network."""
  TinyImages(data_dir=str(data_dir), file_format='array_record').download_and_prepare()
  return data_dir
