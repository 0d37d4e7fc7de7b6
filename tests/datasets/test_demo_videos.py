"""Folders of mp4s, the same for the same seed, that appear whole or not at all."""

import importlib

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from datasets import demo, demo_videos, video
from errors import DataError
from tools import make_demo_data


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """What the command wrote, one video of each class."""
  return tmp_path_factory.mktemp('own') / 'videos'


@pytest.fixture(scope='module')
def written(folder):
  return demo_videos.write(folder, videos=1)


def test_videos_in_a_folder_for_each_class(folder, written):
  assert written == 6
  assert sorted(str(p.relative_to(folder)) for p in folder.rglob('*.mp4')) == sorted(
    f'{name}/00.mp4' for name in demo_videos.CLASSES
  )
  assert {p.name for p in folder.parent.iterdir()} == {'videos'}
  assert {*demo_videos.CLASSES[:3]} == {*demo_videos.CLASSES} & {*demo.CLASSES}
  info = video.probe(folder / 'moves left' / '00.mp4')
  assert (len(info.times), info.height, info.width) == (demo.NUM_FRAMES, 256, 256)
  assert info.frame_rate == pytest.approx(demo.FRAME_RATE)


def test_the_seed_decides_every_frame():
  frames = []
  for seed in (0, 0, 1):
    rng = np.random.default_rng(seed)
    noise = demo_videos.demo_actors.Noise(rng)
    frames.append(next(demo_videos._frames(rng, 'grows', noise)))
  np.testing.assert_array_equal(frames[0], frames[1])
  assert np.abs(frames[0].astype(int) - frames[2]).mean() > 1


def test_what_is_there_is_kept(folder, written):
  before = {path: path.stat().st_mtime_ns for path in folder.rglob('*')}
  with pytest.raises(DataError, match=r'videos exists already: choose another folder, or delete'):
    demo_videos.write(folder, videos=1)
  assert {path: path.stat().st_mtime_ns for path in folder.rglob('*')} == before
  file = folder.parent / 'file'
  file.touch()
  with pytest.raises(DataError, match='file exists already'):
    demo_videos.write(file, videos=1)
  with pytest.raises(DataError, match='videos cannot be written: '):
    demo_videos.write(file / 'videos', videos=1)
  file.unlink()


def test_tool(tmp_path, monkeypatch, capsys):
  importlib.reload(make_demo_data)
  monkeypatch.setitem(flags.FLAGS.__dict__, '__flags_parsed', True)  # and not so afterwards
  asked = []
  monkeypatch.setattr(demo_videos, 'write', lambda *a, **k: asked.append((a, k)) or 12)
  out = tmp_path / 'v'
  with flagsaver.as_parsed(kind='videos', out=str(out), videos='2', seed='3'):
    make_demo_data.main()
  assert asked == [((out,), {'seed': 3, 'videos': 2})]
  assert capsys.readouterr().out.startswith(f'{out}: 12 videos of 6 classes (')
