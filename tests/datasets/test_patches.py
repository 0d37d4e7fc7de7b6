"""Clips cut into patches by the loader."""

import numpy as np
import pytest

from datasets import patches
from datasets.batches import Loading, eval_batches, train_batches
from datasets.clip_config import ClipConfig
from datasets.record_dataset import RecordDataset
from errors import ConfigError

PATCH = (2, 4, 8)
CLIP = ClipConfig(frames=4, stride=1, resize=20, crop=16, scale_jitter=(0.9, 1.3), repeats=2)


def test_patch_shape():
  assert patches.patch_shape((5, 4, 8, 16, 3), PATCH) == (5, 2, 2, 2, 192)
  with pytest.raises(ConfigError, match=r'trunk.tubelet.*\(2, 4, 8\).*\(4, 8, 12\)'):
    patches.patch_shape((5, 4, 8, 12, 3), PATCH)


def test_values_of_a_patch_are_in_the_order_of_the_kernel():
  clips = np.random.default_rng(0).integers(0, 256, (3, 4, 8, 16, 3), dtype=np.uint8)
  out = np.empty(patches.patch_shape(clips.shape, PATCH), np.uint8)
  patches.cut(clips, PATCH, out)
  for place in np.ndindex(3, 2, 2, 2):
    clip, t, h, w = place
    corner = clips[clip, 2 * t : 2 * t + 2, 4 * h : 4 * h + 4, 8 * w : 8 * w + 8]
    np.testing.assert_array_equal(out[place], corner.ravel())


def cut(clips):
  out = np.empty(patches.patch_shape(clips.shape, PATCH), np.uint8)
  patches.cut(clips, PATCH, out)
  return out


@pytest.mark.parametrize('loading', [Loading(0), Loading(3), Loading(2, num_processes=1)])
def test_batches_of_patches_are_the_batches_cut(tiny_source, loading):
  train = RecordDataset(tiny_source, 'train', {'verbs': 'verb'})
  plain = train_batches(train, CLIP, batch_size=4, seed=1)
  with train_batches(train, CLIP, batch_size=4, seed=1, patch=PATCH, loading=loading) as batches:
    for step in range(4):
      frames, made = plain.batch_at(step), next(batches)
      np.testing.assert_array_equal(made['inputs'], cut(frames['inputs']))
      np.testing.assert_array_equal(made['label']['verbs'], frames['label']['verbs'])


def test_views_and_padding_are_cut_too(tiny_source):
  test = RecordDataset(tiny_source, 'test', {'verbs': 'verb'})
  views = {'batch_size': 4, 'temporal_views': 2, 'spatial_views': 3}
  frames = list(eval_batches(test, CLIP, **views))
  made = list(eval_batches(test, CLIP, patch=PATCH, **views))
  assert made[0]['inputs'].shape == (4, 6, 2, 4, 2, 192)
  for one, other in zip(frames, made, strict=True):
    np.testing.assert_array_equal(other['inputs'], cut(one['inputs']))
    np.testing.assert_array_equal(other['row'], one['row'])
