"""Images as files: what is read of them, in folders, csv files and records built of them."""

import dataclasses

import cv2
import numpy as np
import pytest

from datasets import annotations, build, check, clips, image_files, sources
from datasets.annotations import LabelGroup, Row
from datasets.clip_config import ClipConfig
from datasets.convert import Settings, convert_row
from datasets.file_dataset import FileDataset
from datasets.record_dataset import RecordDataset
from errors import DataError
from tests.datasets import images

SMOOTH = 8  # grey levels that JPEG changes of these pictures at most, on average


def with_exif(jpeg: bytes, orientation: int) -> bytes:
  """The file with an EXIF segment that says how to turn it."""
  body = b'Exif\x00\x00' + images.exif(orientation)
  return jpeg[:2] + b'\xff\xe1' + (len(body) + 2).to_bytes(2, 'big') + body + jpeg[2:]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Two classes of images of several kinds; one is cut off."""
  root = tmp_path_factory.mktemp('pictures')
  grey = cv2.imencode('.png', images.pixels(1)[..., 0])[1].tobytes()
  rgba = np.dstack([images.pixels(2)[..., ::-1], np.zeros((24, 32), np.uint8)])
  files = {
    'ant/0.jpg': images.encoded(0),
    'ant/1.PNG': grey,
    'ant/2.png': cv2.imencode('.png', rgba)[1].tobytes(),
    'bee/3.jpeg': with_exif(images.encoded(3), 6),
    'bee/4.bmp': images.encoded(4, '.bmp'),
    'bee/5.webp': images.encoded(5, '.webp'),
    'bee/6.jpg': images.encoded(6)[:600],
    'bee/notes.txt': b'no picture',
  }
  for name, data in files.items():
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes(data)
  return root


def test_read_gives_what_a_viewer_shows(folder):
  read = {path.name: image_files.read(path) for path in sorted(folder.rglob('[0-5].*'))}
  assert {image.dtype for image in read.values()} == {np.dtype(np.uint8)}
  assert np.array_equal(read['4.bmp'], images.pixels(4))
  assert np.array_equal(read['2.png'], images.pixels(2))  # Transparency has no say.
  assert np.array_equal(read['1.PNG'], np.repeat(images.pixels(1)[..., :1], 3, axis=2))
  turned = np.rot90(images.pixels(3), -1).astype(int)
  assert read['3.jpeg'].shape == (32, 24, 3) and np.abs(read['3.jpeg'] - turned).mean() < SMOOTH


def test_pngs_are_turned_too(tmp_path):
  (tmp_path / 'a.png').write_bytes(images.png_with_exif(images.encoded(3, '.png'), 6))
  assert np.array_equal(image_files.read(tmp_path / 'a.png'), np.rot90(images.pixels(3), -1))


@pytest.mark.parametrize(
  ('name', 'data', 'message'),
  [
    ('a.jpg', None, 'a.jpg: cannot be read: No such file'),
    ('a.png', b'', r'a.png: the file is empty \(0 bytes\)'),
    ('a.jpg', images.encoded(0)[:-40], 'a.jpg: truncated, damaged or no image'),
    ('a.png', images.encoded(0, '.png')[:200], 'a.png: truncated, damaged or no image'),
    ('a.webp', b'no image at all', 'a.webp: truncated, damaged or no image'),
  ],
)
def test_files_that_cannot_be_read(tmp_path, name, data, message):
  if data is not None:
    (tmp_path / name).write_bytes(data)
  with pytest.raises(DataError, match=message):
    image_files.read(tmp_path / name)


def test_folder_of_images_is_a_dataset(folder, tmp_path):
  for split in ('train', 'test'):
    (tmp_path / split).symlink_to(folder)
  dataset = sources.open_dataset(tmp_path, 'train', {'what': 'label'})
  assert isinstance(dataset, FileDataset)
  keys = [dataset.key(row) for row in range(len(dataset))]
  assert keys[:2] == ['ant/0.jpg', 'ant/1.PNG'] and len(keys) == 6
  assert set(dataset.num_frames) == {1} and set(dataset.frame_rate) == {0}
  assert [int(dataset.labels(row)['what']) for row in range(6)] == [0, 0, 0, 1, 1, 1]
  for row, key in enumerate(keys):
    (frame,) = dataset.frames(row, np.zeros(1, int))
    assert np.array_equal(frame, image_files.read(folder / key))
  (defect,) = dataset.defects
  assert 'train/bee/6.jpg: truncated, damaged or no image' in defect


def test_images_beside_videos_are_left(folder, tmp_path):
  (tmp_path / 'ant').mkdir()
  (tmp_path / 'ant' / 'cover.jpg').write_bytes(images.encoded(0))
  (tmp_path / 'ant' / 'clip.mp4').write_bytes(b'some video')
  found = annotations.read_folder(tmp_path)
  assert [row.path for row in found.rows] == ['ant/clip.mp4']


GROUPS = {'label': LabelGroup(('ant', 'bee'))}


def test_an_image_has_no_times(folder):
  row = Row(1, 'ant/0.jpg', {'label': ('ant',)}, 'k', start=0.0, end=1.0)
  rejected = convert_row(row, Settings(str(folder), GROUPS))
  assert rejected.reason == 'is an image, which has no start, end or keyframe.'


@pytest.fixture(scope='module')
def records_dir(folder, tmp_path_factory):
  """Records of the folder, at most 16 px high."""
  directory = tmp_path_factory.mktemp('records')
  read = annotations.read_folder(folder)
  settings = Settings(str(folder), GROUPS, size=16, quality=2)
  plan = build.make_plan(directory, 'train', read.rows, settings, shards=2)
  built = build.build(plan, lambda plan, tasks: [build.build_shard(task) for task in tasks])
  assert (built.examples, [(r.path, r.reason.split(' (')[0]) for r in built.rejected]) == (
    6,
    [('bee/6.jpg', 'truncated, damaged or no image')],
  )
  return directory


def test_records_of_images(folder, records_dir):
  dataset = RecordDataset(records_dir, 'train', {'what': 'label'})
  assert set(dataset.num_frames) == {1} and set(dataset.frame_rate) == {0}
  for row in range(len(dataset)):
    (frame,) = dataset.frames(row, np.zeros(1, int))
    whole = image_files.read(folder / dataset.key(row))
    height, width = frame.shape[:2]
    assert (height, width) == ((20, 16) if 'bee/3' in dataset.key(row) else (16, 20))
    small = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
    assert np.abs(frame.astype(int) - small).mean() < SMOOTH
    assert dataset.labels(row)['what'] == (dataset.key(row)[0] == 'b')
  histograms = dataset.manifest.source['splits']['train']
  assert histograms['frame_rate_histogram'] == histograms['seconds_histogram'] == {'0': 6}
  assert not check.check(records_dir).defects


def test_frames_a_second_need_a_rate(records_dir):
  dataset = RecordDataset(records_dir, 'train', {'what': 'label'})
  config = ClipConfig(frames=1, stride=1, fps=25, resize=16, crop=16, random_crop='uniform')
  with pytest.raises(DataError, match=r'the frame rate of .* is not stored.* Set clip.fps=0'):
    clips.view_clips(dataset, config, 0, 1, 1)
  views = clips.view_clips(dataset, dataclasses.replace(config, fps=0), 0, 1, 3)
  assert views.shape == (3, 1, 16, 16, 3)
