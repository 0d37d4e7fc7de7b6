"""Turns videos and their annotations into a dataset: TFRecord shards, index and manifest.

Videos are read with PyAV. Every row becomes a clip: its shorter side is resized, its frames are
stored as JPEG. Rows that cannot be used are counted and listed in rejected-SPLIT.csv. Interrupted or
killed, the same command goes on from the finished shards.

Examples:
  # path,label[,start,end][,key][,split] with a header; paths count from --video_root
  python -m tools.build_records --csv=clips.csv --video_root=videos --out=data/mine
  # one sub-folder per class, a fifth of the videos held out as split 'test'
  python -m tools.build_records --video_root=videos --out=data/mine --holdout=0.2
  # the annotation file of a public dataset, split after split into one directory
  python -m tools.build_records --layout=kinetics --csv=train.csv --video_root=k400/train \\
      --out=data/k400
  python -m tools.build_records --layout=kinetics --csv=validate.csv --video_root=k400/val \\
      --out=data/k400 --split=validation
  # ActivityNet, its annotated segments cut into clips of 10 seconds
  python -m tools.build_records --layout=activitynet --csv=activity_net.v1-3.min.json \\
      --video_root=anet --segment_seconds=10 --out=data/activitynet
  # ActivityNet, each segment a clip to train on, and whole videos to test on
  python -m tools.build_records --layout=activitynet --csv=activity_net.v1-3.min.json \\
      --video_root=anet --whole_videos=validation --out=data/activitynet
  # AVA or AVA-Kinetics: a clip around each annotated keyframe, with boxes and detections
  python -m tools.build_records --layout=ava --csv=ava_train_v2.2.csv --video_root=ava/videos \\
      --labelmap=ava_action_list_v2.2.pbtxt --excluded=ava_train_excluded_timestamps_v2.2.csv \\
      --proposals=detections.csv --out=data/ava
  # under Apache Beam (pip install apache-beam)
  python -m tools.build_records ... --runner=beam --beam_args='--direct_num_workers=8'
"""

import dataclasses
import functools
import hashlib
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from datasets import (
  annotation_layouts,
  annotations,
  ava_csv,
  beam,
  build,
  convert,
  manifest,
  segments,
  workers,
)
from datasets.annotations import Annotations, Rejected, Row
from errors import ConfigError
from tools import command

_CSV = flags.DEFINE_string(
  'csv', None, 'Annotation file. Default: one sub-folder per class.', allow_override=True
)
_VIDEO_ROOT = flags.DEFINE_string(
  'video_root', None, 'Folder of the videos.', required=True, allow_override=True
)
_OUT = flags.DEFINE_string(
  'out', None, 'Directory of the dataset.', required=True, allow_override=True
)
_LAYOUT = flags.DEFINE_enum(
  'layout',
  'csv',
  ['csv', *annotation_layouts.LAYOUTS, *ava_csv.LAYOUTS],
  'What the annotation file is.',
  allow_override=True,
)
_SPLIT = flags.DEFINE_string(
  'split',
  '',
  "Split to build; default: all that the file names, else 'train'.",
  allow_override=True,
)
_HOLDOUT = flags.DEFINE_float(
  'holdout',
  None,
  "Fraction of each class' videos for a split 'test' besides 'train'.",
  allow_override=True,
)
_CLASSES = flags.DEFINE_string(
  'classes',
  None,
  'File with one class name a line, in label order. Default: sorted names.',
  allow_override=True,
)
_MULTI_LABEL = flags.DEFINE_list(
  'multi_label',
  [],
  "Label groups of the csv with any number of labels a clip, separated by '|'.",
  allow_override=True,
)
_TRIMMED = flags.DEFINE_bool(
  'trimmed', False, '(kinetics) The videos are cut to the clips already.', allow_override=True
)
_SEGMENT_SECONDS = flags.DEFINE_float(
  'segment_seconds',
  None,
  'Cut rows with an end into clips of that length. A remainder of at least half of it is a shorter '
  'clip, less is left and listed as rejected; a row shorter than a clip is one clip.',
  allow_override=True,
)
_WHOLE_VIDEOS = flags.DEFINE_list(
  'whole_videos',
  [],
  'Splits with one row a video, whole, in place of its annotated segments; their most common label.',
  allow_override=True,
)
_LABELMAP = flags.DEFINE_string(
  'labelmap', None, '(ava) Classes and their ids, as pbtxt.', allow_override=True
)
_EXCLUDED = flags.DEFINE_string(
  'excluded', None, '(ava) Csv file of keyframes to leave out.', allow_override=True
)
_PROPOSALS = flags.DEFINE_multi_string(
  'proposals', [], '(ava) Csv file of detected boxes with scores; repeat.', allow_override=True
)
_CLIP_SECONDS = flags.DEFINE_float(
  'clip_seconds', 3.0, '(ava) Length of clips around keyframes.', allow_override=True
)
_SIZE = flags.DEFINE_integer(
  'size', 256, 'Shorter side in px, even; videos are never enlarged.', allow_override=True
)
_QUALITY = flags.DEFINE_integer(
  'quality',
  4,
  "JPEG quantiser scale as ffmpeg's -q:v: 2 is best, 31 is worst.",
  allow_override=True,
)
_FPS = flags.DEFINE_float(
  'fps', None, "Frames per second; default: each video's own average.", allow_override=True
)
_SHARDS = flags.DEFINE_integer(
  'shards', None, 'Number of shards; default: one for 128 rows.', allow_override=True
)
_WORKERS = flags.DEFINE_integer(
  'workers', None, 'Processes; default: the number of cores.', allow_override=True
)
_RUNNER = flags.DEFINE_enum(
  'runner', 'processes', ['processes', 'beam'], 'What runs the workers.', allow_override=True
)
_BEAM_ARGS = flags.DEFINE_string(
  'beam_args', '', 'Flags for Apache Beam, as one string.', allow_override=True
)

_FIRST_REASONS = 3


def main() -> None:
  """Builds every split asked for, and says what came of it."""
  read = _read()
  settings = convert.Settings(
    _VIDEO_ROOT.value, read.groups, _SIZE.value, _QUALITY.value, _FPS.value
  )
  rejected = read.rejected  # Told with the first split.
  lost = 0
  for split, (rows, left) in _clips(_splits(read)).items():
    plan = build.make_plan(
      _OUT.value,
      split,
      rows,
      settings,
      rejected=(*rejected, *left),
      annotations=_origin(),
      shards=_SHARDS.value,
    )
    begin = time.monotonic()
    built = build.build(plan, _runner())
    _report(plan, built, time.monotonic() - begin)
    lost += _lost_rows(rows, built)
    rejected = ()
  if isinstance(read, ava_csv.Detections):
    print('\n'.join(_totals(read.tallies, lost)))


def _runner() -> Any:
  if _WORKERS.value is not None and _WORKERS.value < 1:
    raise ConfigError(f'--workers: expected at least 1, got {_WORKERS.value}.')
  if _RUNNER.value == 'beam':
    return functools.partial(beam.run_beam, options=shlex.split(_BEAM_ARGS.value))
  return functools.partial(workers.run_processes, workers=_WORKERS.value)


def _read() -> Annotations:
  """The rows, with the classes of the file given, else those of the dataset that is there."""
  layout, path, root = _LAYOUT.value, _CSV.value, _VIDEO_ROOT.value
  classes = _known_classes()
  if path is None:
    if layout != 'csv':
      raise ConfigError(f'--layout={layout} needs an annotation file: --csv=FILE.')
    return annotations.read_folder(root, classes=_single(classes))
  if layout in ava_csv.LAYOUTS:
    if _LABELMAP.value is None or _CLASSES.value is not None:
      raise ConfigError(f'--layout={layout} needs --labelmap=FILE.pbtxt, and takes no --classes.')
    return ava_csv.read(
      path,
      video_root=root,
      labelmap=_LABELMAP.value,
      excluded=_EXCLUDED.value,
      proposals=_PROPOSALS.value,
      clip_seconds=_CLIP_SECONDS.value,
    )
  if layout == 'csv':
    return annotations.read_csv(path, classes=classes, multi_label=_MULTI_LABEL.value)
  return annotation_layouts.read(
    path,
    layout,
    video_root=root,
    split=_SPLIT.value,
    classes=classes,
    trimmed=_TRIMMED.value,
  )


def _known_classes() -> annotations.Classes:
  if _CLASSES.value is not None:
    if _LAYOUT.value == 'csv':
      return annotations.read_classes(_CLASSES.value)
    return annotation_layouts.read_classes(_CLASSES.value, _LAYOUT.value)
  if (Path(_OUT.value) / manifest.FILE_NAME).exists():
    return {name: task.classes for name, task in manifest.load(_OUT.value).tasks.items()}
  return None


def _single(classes: annotations.Classes) -> Sequence[str] | None:
  return classes.get(annotations.GROUP) if isinstance(classes, Mapping) else classes


def _splits(read: Annotations) -> dict[str, Sequence[Row]]:
  """The rows of each split to be built."""
  named: dict[str, list[Row]] = {}
  for row in read.rows:
    named.setdefault(row.split or _SPLIT.value or 'train', []).append(row)
  if _HOLDOUT.value is not None:
    if _SPLIT.value or any(row.split for row in read.rows):
      raise ConfigError('--holdout makes the splits itself; here --split or the file names them.')
    train, test = build.hold_out(read.rows, _HOLDOUT.value)
    return {'train': train, 'test': test}
  if _SPLIT.value and _LAYOUT.value == 'csv':
    if _SPLIT.value not in named:
      raise ConfigError(f'--split={_SPLIT.value}: {_CSV.value} names {sorted(named)}.')
    return {_SPLIT.value: named[_SPLIT.value]}
  return dict(named)


def _clips(
  splits: Mapping[str, Sequence[Row]],
) -> Mapping[str, tuple[Sequence[Row], Sequence[Rejected]]]:
  """The clips of each split, and what is left of its segments where they are cut."""
  if unknown := sorted({*_WHOLE_VIDEOS.value} - {*splits}):
    raise ConfigError(f'--whole_videos: {unknown} are not built, which are {sorted(splits)}.')
  splits = {
    split: segments.whole_videos(rows) if split in _WHOLE_VIDEOS.value else rows
    for split, rows in splits.items()
  }
  if _SEGMENT_SECONDS.value is None:
    return {split: (rows, ()) for split, rows in splits.items()}
  return segments.cut(splits, _SEGMENT_SECONDS.value)


def _origin() -> dict[str, Any]:
  """What the annotations were, for the manifest."""
  if _CSV.value is None:
    return {'layout': 'folders'}
  origin = {'layout': _LAYOUT.value, **_file(_CSV.value)}
  if _LAYOUT.value in ava_csv.LAYOUTS:
    origin |= {'labelmap': _file(_LABELMAP.value), 'proposals': [*map(_file, _PROPOSALS.value)]}
    origin |= {'excluded': _file(_EXCLUDED.value)} if _EXCLUDED.value else {}
  if _SEGMENT_SECONDS.value is not None:
    origin['segment_seconds'] = _SEGMENT_SECONDS.value
  if _WHOLE_VIDEOS.value:
    origin['whole_videos'] = _WHOLE_VIDEOS.value
  return origin


def _file(path: str) -> dict[str, str]:
  sha256 = hashlib.sha256(Path(path).read_bytes()).hexdigest()
  return {'file': os.path.basename(path), 'sha256': sha256}


def _lost_rows(rows: Sequence[Row], built: build.Built) -> int:
  """Rows of boxes whose keyframes were not written."""
  rejected = {(bad.number, bad.path) for bad in built.rejected}
  return sum(r.boxes.num_rows for r in rows if r.boxes and (r.number, r.path) in rejected)


def _totals(tallies: Sequence[ava_csv.Tally], lost: int) -> list[str]:
  """A line for each file: what became of its rows. `lost` ones of the first were not written."""
  first, *others = tallies
  written = dataclasses.replace(first, used=first.used - lost, rejected=first.rejected + lost)
  words = {
    'used': 'used', 'rejected': 'rejected', 'excluded': 'of excluded keyframes',
    'repeated': 'repeat a box', 'elsewhere': 'of other keyframes',
  }  # fmt: skip
  lines = []
  for tally in (written, *others):
    parts = [f'{n:,} {word}' for name, word in words.items() if (n := getattr(tally, name))]
    lines.append(f'{tally.file}: {tally.rows:,} rows = {" + ".join(parts)}')
  return lines


def _report(plan: build.Plan, built: build.Built, seconds: float) -> None:
  if built.already:
    print(f'{plan.split}: already built, nothing to do.')
  print(f'{plan.split}: {built.examples:,} written, {len(built.rejected):,} rejected.')
  for row in built.rejected[:_FIRST_REASONS]:
    print(f'  row {row.number}, {row.path}: {row.reason}')
  if built.rejected:
    print(f'  all rejected rows: {plan.rejected_csv}')
  if built.already:
    return
  made = manifest.load(plan.directory)
  source, shards = made.source['splits'][plan.split], made.splits[plan.split].shards
  size, psnr = sum(shard.bytes for shard in shards), source['jpeg_psnr_db']
  print(
    f'  {plan.directory}: {len(shards)} shards, {size / 1e6:,.1f} MB, {source["frames"]:,} frames, '
    f'JPEG quality {plan.settings.quality} at {psnr["median"]:.1f} dB (lowest {psnr["min"]:.1f}), '
    f'{seconds:.1f} s'
  )


if __name__ == '__main__':
  command.run(main, interrupted='The same command goes on from the finished shards.')
