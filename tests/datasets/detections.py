"""Tiny detection records for tests: flat grey frames that say their number, and boxes."""

import numpy as np
import simplejpeg

from datasets import manifest, records
from datasets.record_dataset import RecordDataset
from datasets.region_records import Region

HEIGHT, WIDTH = 24, 32
CLASSES = ('stand', 'walk', 'wave left', 'wave right')
GROUPS = {'action': manifest.Group(CLASSES, multi_label=True, regions=True)}
FIRST, SECOND, THIRD = (0.125, 0.25, 0.75, 0.5), (0.25, 0.5, 1.0, 0.75), (0.0, 0.0, 0.5, 0.125)


def microseconds(seconds):
  return [round(1e6 * time) for time in seconds]


def region(box, label):
  """An annotated box."""
  return Region(box, label, CLASSES[label])


def proposal(box, score):
  """A detected box."""
  return Region(box, score=score)


REGIONS = (region(FIRST, 0), region(SECOND, 3), region(FIRST, 1))


def example(
  key='v,0902',
  regions=REGIONS,
  proposals=(),
  *,
  keyframe=902.0,
  times=tuple(900 + i / 2 for i in range(9)),
  labels=(),
  shape=(HEIGHT, WIDTH),
  **kwargs,
):
  """A record of one frame a time, in seconds; frame i is filled with 20 i."""
  frames = [
    simplejpeg.encode_jpeg(np.full((*shape, 3), 20 * i, np.uint8), quality=100)
    for i in range(len(times))
  ]
  made = {
    'frame_rate': 2.0,
    'frame_microseconds': microseconds(times),
    'keyframe_microseconds': None if keyframe is None else round(1e6 * keyframe),
    'regions': regions,
    'proposals': proposals,
    **kwargs,
  }
  return records.encode_example(frames, labels, key, height=shape[0], width=shape[1], **made)


def write(directory, examples, groups=None, split='train'):
  """One shard and its manifest."""
  made = manifest.create([records.write_split(directory, split, examples, 1)], groups or GROUPS)
  manifest.write(directory, made)
  return made


def dataset(directory, examples):
  """A dataset of the examples with the task 'actions'."""
  write(directory, examples)
  return RecordDataset(directory, 'train', {'actions': 'action'})
