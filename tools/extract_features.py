"""Writes what a trained model sees in videos: features of sliding windows, an npz a video.

  python -m tools.extract_features --checkpoint=runs/k400 --video=talks --video=clip.mp4 --out=features
  python -m tools.extract_features --checkpoint=k400.npz --data=data/k400 --split=test --hop=0.5 --out=features
  python -m tools.extract_features --checkpoint=runs/k400 --video=talks --layer=tokens --out=tokens

The checkpoint is a run's folder or a file of `tools.checkpoint --out`, of any trunk; it says how long a
window is and how its frames are cut and normalised. The windows of a video begin every --hop seconds, and
the last one ends with it. A file holds, of the N windows of its video,

  features  float32 [N, C], what a classifier reads; with --layer=tokens [N, t, h, w, C], or [N, L, C] if
            the tokens lie on no one grid
  start     float64 [N], seconds
  centre    float64 [N], seconds
  frames    int64 [N, T], the frames that were looked at

and `manifest.json` says of which model, settings and videos they are. The model runs in float32. Every
video is decoded once, however much its windows overlap. The same command goes on where it was stopped;
other settings, or another video of the same name, are refused. Videos may be named without `--video=`.
Videos that cannot be read are listed at the end; the others are done.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from errors import ConfigError
from tools import command
from tools.failures import Failures
from tools.out_folder import check_out

if TYPE_CHECKING:
  from train_lib.extract import Extractor, Planned, Settings, Video
  from train_lib.feature_files import FeatureFolder

_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', None, "A run's folder, or an exported .npz.", required=True, allow_override=True
)
_VIDEO = flags.DEFINE_multi_string(
  'video', [], 'A video, or a folder of videos; any number of times.', allow_override=True
)
_DATA = flags.DEFINE_string(
  'data', '', 'Instead of videos: folder of a dataset, or tfds:NAME.', allow_override=True
)
_SPLIT = flags.DEFINE_string('split', 'test', 'Its split.', allow_override=True)
_OUT = flags.DEFINE_string('out', None, 'Folder to write.', required=True, allow_override=True)
_LAYER = flags.DEFINE_enum(
  'layer', 'pooled', ['pooled', 'tokens'], 'Which features.', allow_override=True
)
_HOP = flags.DEFINE_float(
  'hop',
  0.0,
  'Seconds from one window to the next; 0: half a window.',
  allow_override=True,
)
_WINDOW = flags.DEFINE_float(
  'window',
  0.0,
  'Seconds of a window, for models that sample frames of whole videos; 0: the whole video.',
  allow_override=True,
)
_VIEWS = flags.DEFINE_integer(
  'views', 1, 'Crops of each window, 1 or 3; pooled features are their mean.', allow_override=True
)
_DATASET = flags.DEFINE_string(
  'dataset',
  '',
  'As whose videos to show them, if the checkpoint was trained on several datasets.',
  allow_override=True,
)
_BATCH_SIZE = flags.DEFINE_integer(
  'batch_size', 8, 'Windows computed at once.', allow_override=True
)
_LISTED = 10


def extract_features(
  checkpoint: str,
  out: str,
  settings: 'Settings',
  *,
  videos: Sequence[str] = (),
  data: str = '',
  split: str = 'test',
  dataset: str = '',
) -> 'FeatureFolder':
  """Writes features of videos, or of a dataset's split; see the flags of this command.

  Raises:
    CheckpointMismatchError: As `trained.load`.
    ConfigError: Not one of `videos` and `data`, as `Extractor` and `FeatureFolder`, or two videos would
      have one name.
    DataError: At the end, paths that are not there, videos that could not be read, and those of whose
      name there are features of another one.
  """
  if bool(videos) == bool(data):
    raise ConfigError('Name videos by --video, or a dataset by --data: one of the two.')
  from datasets.sources import open_dataset
  from train_lib import extract, feature_files, trained

  inputs, bad = feature_files.named_files(videos)
  check_out(Path(out))
  rows = list(feature_files.of_dataset(open_dataset(data, split, {}))) if data else []
  failures = Failures(len(inputs) + len(rows) + len(bad))
  for path, error in bad.items():
    with failures.collect(path):
      raise error
  model = trained.load(checkpoint)
  extractor = extract.Extractor(model, settings, dataset)
  folder = feature_files.FeatureFolder(
    Path(out), feature_files.describe(checkpoint, model, extractor)
  )
  plans = list(_plans(extractor, inputs, rows, failures))
  todo = list(_todo(folder, plans, failures))
  if plans:
    _write(extractor, folder, plans, todo, failures)
  failures.check()
  return folder


def _plans(
  extractor: 'Extractor', inputs: Mapping[str, Path], rows: Sequence['Video'], failures: Failures
) -> Iterator['Planned']:
  """The windows of all videos; every file is looked into."""
  from datasets.one_video import OneVideo
  from train_lib.console import progress
  from train_lib.extract import Video

  for name, path in progress(inputs.items(), 'looking into videos', len(inputs)):
    with failures.collect(path):
      yield extractor.plan(Video(name, OneVideo(path), size=path.stat().st_size))
  for video in rows:
    with failures.collect(video.name):
      yield extractor.plan(video)


def _todo(
  folder: 'FeatureFolder', plans: Sequence['Planned'], failures: Failures
) -> Iterator['Planned']:
  """Those whose features are not there yet."""
  for plan in plans:
    with failures.collect(plan.video.name):
      if not folder.has(plan):
        yield plan


def _write(
  extractor: 'Extractor',
  folder: 'FeatureFolder',
  plans: Sequence['Planned'],
  todo: Sequence['Planned'],
  failures: Failures,
) -> None:
  """Writes the features of `todo`; the manifest is there from the first one on."""
  folder.write_manifest()
  _say(plans, len(plans) - len(todo), extractor)
  try:
    for video, found in extractor.extract(todo, failures.collect):
      folder.write(video, found)
  finally:
    folder.write_manifest()


def _say(plans: Sequence['Planned'], done: int, extractor: 'Extractor') -> None:
  """What is going to be written."""
  for plan in plans[:_LISTED]:
    print(f'{plan.video.name}: {plan.count:,} windows of {plan.windows.span:,} frames')
  if len(plans) > _LISTED:
    print(f'... and {len(plans) - _LISTED:,} more')
  windows, shape = sum(plan.count for plan in plans), ' x '.join(map(str, extractor.shape))
  size = 4 * windows * math.prod(extractor.shape) / 2**20
  print(
    f'{len(plans):,} videos, {windows:,} windows of {shape} numbers, {size:,.1f} MiB; '
    f'{done:,} videos are there already.',
    flush=True,
  )


def main(*videos: str) -> None:
  """Extracts."""
  from train_lib.extract import Settings

  settings = Settings(_LAYER.value, _HOP.value, _WINDOW.value, _VIEWS.value, _BATCH_SIZE.value)
  folder = extract_features(
    _CHECKPOINT.value,
    _OUT.value,
    settings,
    videos=[*_VIDEO.value, *videos],
    data=_DATA.value,
    split=_SPLIT.value,
    dataset=_DATASET.value,
  )
  print(f'{folder.manifest}: features of {len(folder.names):,} videos')


if __name__ == '__main__':
  command.run(main, more=True, interrupted='The same command goes on where it was stopped.')
