"""A run refuses to train on videos that it evaluates on."""

import numpy as np
import pytest

from datasets.dataset import VideoDataset
from errors import DataError
from train_lib import overlap, run


class Keys(VideoDataset):
  """A split that has keys and nothing else."""

  def __init__(self, where, split, keys):
    self.where, self.split, self._keys = where, split, keys
    self.num_frames = np.ones(len(keys))

  def key(self, row):
    return self._keys[row]

  def stored_labels(self, row):
    raise AssertionError

  def frames(self, row, indices):
    raise AssertionError


TRAIN = {
  'k400': Keys('a', 'train', ['0347ZoDXyP0_000095_000105', 'AAAAAAAAAAA_000000_000010', '1', '2']),
  'own': Keys('b', 'train', ['1', '7']),
}


def test_splits_that_share_no_video(capsys):
  held_out = {'k400': Keys('a', 'test', ['3']), 'own': Keys('b', 'test', ['2'])}
  overlap.check(TRAIN, held_out, allowed=False)  # '2' is another video in another dataset.
  overlap.check(TRAIN, {}, allowed=False)
  assert capsys.readouterr().out == ''


def test_shared_videos_are_refused_with_their_ids():
  held_out = {
    'k600': Keys('c', 'validation', ['v_0347ZoDXyP0.mp4@0-3', 'v_0347ZoDXyP0.mp4@5-9']),
    'own': Keys('b', 'test', ['7', '8']),
  }
  with pytest.raises(DataError) as error:
    overlap.check(TRAIN, held_out, allowed=False)
  text = str(error.value)
  assert (
    "\n  k400 'train' and k600 'validation': 1 of 4 training examples, as '0347ZoDXyP0_000095_000105'"
    "\n  own 'train' and own 'test': 1 of 2 training examples, as '7'\n"
  ) in text
  assert 'projects.uniformerv2.kinetics710' in text and 'mixture.allow_overlap=True' in text


def test_shared_videos_may_be_allowed(capsys):
  overlap.check(TRAIN, {'own': TRAIN['own']}, allowed=True)
  assert "own 'train' and own 'train': 2 of 2" in capsys.readouterr().out


def test_a_run_refuses_before_it_writes_anything(tiny_config, tmp_path):
  tiny_config.datasets.demo.eval_split = 'train'
  with pytest.raises(
    DataError, match=r"demo 'train' and demo 'train': \d+ of \d+ training examples"
  ):
    run.run('train', tiny_config, str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()
