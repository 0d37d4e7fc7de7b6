"""A tiny two-group dataset with frames that say which clip and frame they are."""

import shutil

import numpy as np
import pytest
import simplejpeg

from datasets import manifest, records

HEIGHT, WIDTH = 24, 32
NUM_CLIPS = {'train': 10, 'test': 7}
# verb: single label, global 0..2; tags: multi label, global 3..6.
GROUPS = {'verb': (['open', 'close', 'cut'], False), 'tags': (['a', 'b', 'c', 'd'], True)}


def grey_level(clip, frame):
  """The grey level that frame `frame` of clip `clip` is filled with."""
  return 10 * clip + 4 * frame


def make_frames(clip, num_frames):
  """JPEGs of flat grey, the level a function of clip and frame."""
  return [
    simplejpeg.encode_jpeg(np.full((HEIGHT, WIDTH, 3), grey_level(clip, i), np.uint8), quality=100)
    for i in range(num_frames)
  ]


def make_example(clip, num_frames, labels, **kwargs):
  """A serialised example of flat grey frames."""
  return records.encode_example(
    make_frames(clip, num_frames),
    labels,
    f'clip{clip}',
    **{'height': HEIGHT, 'width': WIDTH, 'frame_rate': 25.0, **kwargs},
  )


@pytest.fixture(scope='session')
def tiny_source(tmp_path_factory):
  """Clip i has 5 + i frames, verb i % 3, tags {i % 4, 3}; read only."""
  directory = tmp_path_factory.mktemp('tiny')
  splits = []
  for split, count in NUM_CLIPS.items():
    examples = [make_example(i, 5 + i, [i % 3, *sorted({3 + i % 4, 6})]) for i in range(count)]
    splits.append(records.write_split(directory, split, examples, 3 if split == 'train' else 1))
  manifest.write(directory, manifest.create(splits, GROUPS))
  return directory


@pytest.fixture
def tiny_dir(tiny_source, tmp_path):
  """A copy of the tiny dataset that a test may damage."""
  return shutil.copytree(tiny_source, tmp_path / 'tiny')
