"""Shows what a dataset holds and what a model will see of it; --check reads every record.

  python -m tools.browse --data=DIR
  python -m tools.browse --config=configs/vivit/demo.py [--config.KEY=VALUE ...] [--data=DIR]
  python -m tools.browse --data=DIR --check

Prints splits, classes, frames and durations, and draws clips on a contact sheet (--out). With
--config these are the clips that a training with it takes first, as the model sees them: sampled,
cropped, augmented, mixed; for another split than the training's, the views of evaluation. Without,
they are 8 frames of the whole video. Boxes are drawn on the keyframe: annotated ones green, detected
ones orange. --check reads every record once, prints and writes what is
wrong with them (defects.csv) and then ends with exit code 1.
"""

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import config_flags
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from datasets import check, samples, sources
from datasets.dataset import VideoDataset
from datasets.manifest import TaskLabels
from datasets.progress import with_progress
from errors import ConfigError
from tools import command

_DATA = flags.DEFINE_string(
  'data', None, "Folder of the dataset, or tfds:NAME. Default: the config's.", allow_override=True
)
_DATASET = flags.DEFINE_string(
  'dataset', None, "Which of the config's datasets. Default: the first.", allow_override=True
)
_SPLIT = flags.DEFINE_string(
  'split',
  '',
  "Split. Default: the config's train_split, else 'train'; with --check all.",
  allow_override=True,
)
_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Config file; --config.KEY=VALUE overrides.', allow_override=True
)
_CLIPS = flags.DEFINE_integer('clips', 8, 'Clips on the sheet.', 0, 200, allow_override=True)
_SEED = flags.DEFINE_integer('seed', None, "Default: the config's, else 0.", 0, allow_override=True)
_OUT = flags.DEFINE_string(
  'out', None, 'File to write: browse.png, or with --check defects.csv.', allow_override=True
)
_CHECK = flags.DEFINE_bool('check', False, 'Read and check every record.', allow_override=True)
_LISTED = 40  # Classes; beyond, only the fullest and the emptiest.
_ENDS = 15
_BAR = 32
_FIRST_DEFECTS = 10


# --- What there is ---


def overview(contents: sources.Contents, dataset: VideoDataset) -> str:
  """Splits, label groups, frames, rates, durations and classes of an open split, for people."""
  sizes = contents.split_sizes
  width = max(map(len, sizes))
  kind = 'images' if dataset.of_images else 'videos'
  lines = [dataset.where]
  lines += [f'  {name:<{width}}  {size:>9,} {kind}' for name, size in sizes.items()]
  lines += ['', *_frame_lines(dataset)]
  if any(group.regions for group in contents.groups.values()):
    lines += box_lines(dataset)
  counts = label_counts(contents.groups, dataset)
  for name, group in contents.groups.items():
    lines += ['', *class_table(name, group, counts[name])]
  return '\n'.join(lines)


def _frame_lines(dataset: VideoDataset) -> list[str]:
  """The split's size, and the spread of frames, frame rates and durations."""
  frames = np.asarray(dataset.num_frames)
  rates = np.asarray(dataset.frame_rate, np.float64)
  known = rates > 0
  seconds = frames[known] / rates[known]
  lines = [f'{dataset.split}: {len(dataset):,} images']
  if not dataset.of_images:
    lines = [
      f'{dataset.split}: {len(dataset):,} videos, {frames.sum():,} frames',
      f'  frames      {spread(frames)}',
      f'  frame rate  {spread(rates[known], " a second")}',
      f'  duration    {spread(seconds, " s")}, together {seconds.sum() / 3600:,.2f} h',
    ]
  if not (known.all() or dataset.of_images):
    lines.append(f'  of {(~known).sum():,} videos the frame rate is not known')
  lines += [f'  left out: {defect}' for defect in dataset.defects[:_FIRST_DEFECTS]]
  if dataset.defects:
    lines.append(f'  left out: {len(dataset.defects):,} records; --check lists every defect')
  return lines


def spread(values: np.ndarray, unit: str = '') -> str:
  """`'25'`, or `'5 to 14, median 9'`; numbers with up to two decimals."""
  if not len(values):
    return 'unknown'
  low, middle, high = (_number(f(values)) for f in (np.min, np.median, np.max))
  return f'{low}{unit}' if low == high else f'{low} to {high}{unit}, median {middle}'


def _number(value: float) -> str:
  return f'{value:,.2f}'.rstrip('0').rstrip('.')


def label_counts(groups: Mapping[str, TaskLabels], dataset: VideoDataset) -> dict[str, np.ndarray]:
  """Examples, or boxes, of each class in an open split, group -> int64 [K]."""
  # With the images, where TFDS has them.
  read = map(dataset.stored_labels, range(len(dataset)))
  labels = np.concatenate(list(with_progress(read, len(dataset), 'reading labels')))
  classes = sum(group.num_classes for group in groups.values())
  total = {False: np.bincount(labels, minlength=classes)}
  if any(group.regions for group in groups.values()):
    total[True] = np.bincount(dataset.box_table().labels, minlength=classes)
  return {name: total[g.regions][g.offset : g.offset + g.num_classes] for name, g in groups.items()}


def box_lines(dataset: VideoDataset) -> list[str]:
  """How many boxes keyframes have, and the scores of detected ones."""
  table = dataset.box_table()
  lines = []
  for name, chosen in (('annotated', table.annotated), ('detected', ~table.annotated)):
    of_row = np.bincount(table.rows[chosen], minlength=len(dataset))
    scores = (
      f', scores {spread(table.scores[chosen])}' if name == 'detected' and chosen.any() else ''
    )
    lines.append(f'  {name:<10}  {chosen.sum():,} boxes, {spread(of_row)} a keyframe{scores}')
  return lines


def class_table(name: str, group: TaskLabels, counts: np.ndarray) -> list[str]:
  """A line with a bar for each class; of more than 40 the fullest and the emptiest 15."""
  kind = 'any number a video' if group.multi_label else 'one a video'
  kind, unit = ('any number a box', 'boxes') if group.regions else (kind, 'examples')
  missing = int((counts == 0).sum())
  heading = f'{name}: {group.num_classes} classes, {kind}, {spread(counts)} {unit}'
  chosen: list[int | None] = list(range(len(counts)))
  if len(counts) > _LISTED:
    order = [int(k) for k in np.argsort(-counts, kind='stable')]
    chosen = [*order[:_ENDS], None, *order[-_ENDS:]]
  names = [group.classes[k] for k in chosen if k is not None]
  width = min(max(map(len, names)), 40)
  scale = _BAR / max(counts.max(), 1)
  lines = [heading]
  for k in chosen:
    if k is None:
      lines.append(f'  ... {len(counts) - 2 * _ENDS} more')
      continue
    bar = '█' * max(round(counts[k] * scale), int(counts[k] > 0))
    lines.append(f'  {group.classes[k][:width]:<{width}}  {counts[k]:>9,}  {bar}'.rstrip())
  if missing:
    lines.append(f'  {missing} of {len(counts)} classes have no example')
  return lines


# --- The contact sheet ---


@dataclasses.dataclass(frozen=True)
class Shown:
  """Samples to draw, and how they came about."""

  how: str
  samples: Sequence[samples.Sample]


def draw_sheet(path: Path, dataset: VideoDataset, shown: Shown) -> None:
  """Writes the contact sheet."""
  from train_lib import pictures

  strips = [
    pictures.Sample(drawn.pixels, drawn.marks, s.labels[0], s.lines)
    for s, drawn in ((s, s.strip()) for s in shown.samples)
  ]
  pictures.sample_sheet_png(path, f'{dataset.where} · {dataset.split}', shown.how, strips)


def _browse() -> None:
  """Prints the overview and writes the sheet."""
  if _CONFIG.value is None:
    contents = sources.contents(_data())
    split = _SPLIT.value or ('train' if 'train' in contents.split_sizes else None)
    split = split or next(iter(contents.split_sizes))
    dataset = sources.open_dataset(_data(), split, {name: name for name in contents.groups})
    print(overview(contents, dataset), flush=True)
    seed = _SEED.value or 0
    drawn = samples.plain_samples(dataset, _CLIPS.value, seed)
    shown = Shown('frames of whole videos, not augmented; --config shows training clips', drawn)
  else:
    dataset, shown = _with_config()
  if not shown.samples:
    return
  path = Path(_OUT.value or 'browse.png')
  replaced = ' (replaced)' if path.exists() else ''
  draw_sheet(path, dataset, shown)
  print(f'\n{len(shown.samples)} clips, {shown.how}:\n  {path.resolve()}{replaced}')


def _with_config() -> tuple[VideoDataset, Shown]:
  # Imported here so that the rest needs no JAX.
  from train_lib import data, training_samples
  from train_lib.experiment import parse

  config, name = _CONFIG.value, _dataset_name()
  config.datasets[name].dir = _data()
  if _SEED.value is not None:
    config.seed = _SEED.value
  experiment = parse(config)
  own = experiment.datasets[name]
  dataset = data.open_split(experiment, name, _SPLIT.value or own.train_split)
  print(overview(sources.contents(own.dir), dataset), flush=True)
  if dataset.split == own.train_split:
    facts = data.facts_of(experiment, {name: dataset})
    drawn = training_samples.training_samples(experiment, facts, name, dataset, _CLIPS.value)
    alone = f', with {name} alone' if len(experiment.datasets) > 1 else ''
    return dataset, Shown(
      f'as {experiment.name} trains on them first{alone}, seed {experiment.seed}', drawn
    )
  drawn = samples.evaluation_samples(
    dataset,
    own.clip,
    _CLIPS.value,
    temporal_views=own.temporal_views,
    spatial_views=own.spatial_views,
    boxes=own.boxes,
  )
  return dataset, Shown(f'the first views that {experiment.name} is evaluated on', drawn)


def _dataset_name() -> str:
  """The dataset of the config to show."""
  names = list(_CONFIG.value.datasets)
  if (_DATASET.value or names[0]) not in names:
    raise ConfigError(f'--dataset={_DATASET.value}: the config has {names}.')
  return _DATASET.value or names[0]


def _data() -> str:
  """The dataset's folder."""
  if _DATA.value:
    return _DATA.value
  if _CONFIG.value is None:
    raise ConfigError('Needed: --data=DIR or --config=FILE. See --help.')
  return _CONFIG.value.datasets[_dataset_name()].dir


# --- The check ---


def _check() -> None:
  """Reads every record; prints what is wrong and ends with exit code 1 if anything is."""
  splits = [_SPLIT.value] if _SPLIT.value else []
  columns = (
    TextColumn('{task.description}'),
    BarColumn(),
    MofNCompleteColumn(),
    TimeRemainingColumn(),
  )
  console = Console(stderr=True)
  with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
    task = bar.add_task('checking records', total=None)

    def advance(total: int) -> None:
      bar.update(task, advance=1, total=total)

    report = check.check(_data(), splits, num_threads=os.cpu_count() or 1, on_record=advance)
  print(report_text(_data(), report))
  if report.defects:
    path = Path(_OUT.value or 'defects.csv')
    replaced = ' (replaced)' if path.exists() else ''
    check.write_csv(path, report.defects)
    print(f'All of them: {path.resolve()}{replaced}')
    sys.exit(1)


def report_text(data: str, report: check.Report) -> str:
  """What a check found, for people."""
  read = f'{report.records:,} records ({report.frames:,} frames)'
  lines = [
    f'{data}: split {split!r} has no index yet, so frames could only be checked against their '
    "records' checksums."
    for split in report.without_index
  ]
  if not report.defects:
    return '\n'.join([*lines, f'{data}: no defects in {read}.'])
  for d in report.defects[:_FIRST_DEFECTS]:
    record = '' if d.record == check.SHARD else f', record {d.record}'
    key = f', key {d.key!r}' if d.key else ''
    lines.append(f'{d.file}{record}, byte {d.byte}{key}: {d.kind}: {d.text}')
  if len(report.defects) > _FIRST_DEFECTS:
    lines.append(f'... and {len(report.defects) - _FIRST_DEFECTS:,} more')
  kinds = ', '.join(f'{kind} {count:,}' for kind, count in report.kinds.items())
  return '\n'.join(
    [
      *lines,
      f'{data}: {len(report.defects):,} defect{"s" * (len(report.defects) > 1)} in {read}: {kinds}.',
    ]
  )


def main() -> None:
  """Browses or checks."""
  _check() if _CHECK.value else _browse()


if __name__ == '__main__':
  command.run(main)
