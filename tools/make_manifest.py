"""Makes manifest.json for TFRecords that others wrote, of clips in DMVR's layout or of images.

  python -m tools.make_manifest --data=DIR '--split=train=train-*' '--split=test=test-*' \\
      --classes=classes.txt
  python -m tools.make_manifest --data=DIR '--split=train=*.tfrecord' \\
      --classes=verb=verbs.txt --classes=noun=nouns.txt
  python -m tools.make_manifest --data=DIR '--split=train=train-*' '--split=validation=val-*' \\
      --classes=imagenet_synsets.txt --first_label=1

The shards stay as they are. Images are `tf.train.Example`s with `image/encoded`,
`image/class/label`, `image/filename` and perhaps `image/class/text`, as ImageNet's usually are; where
their labels count from 1, --first_label=1 says so, and where they do not say so themselves it must be
given. A class file has one name a line, in label order. Without --classes names are of the records
(`clip/label/text`, of images `image/class/text`). Several groups stand one after the other in
`clip/label/index`, those of --regions in `region/label/index`: labels of the boxes of a keyframe,
which count from 0.
"""

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from absl import flags
from rich.console import Console
from rich.progress import Progress

from datasets import annotations, manifest, records, region_records
from datasets.record_dataset import decode_frames
from errors import ConfigError, DataError
from tools import command

# Several tools may be loaded by one process, in tests: each one's own flag counts.
_DATA = flags.DEFINE_string('data', None, 'Directory of the shards.', allow_override=True)
_SPLIT = flags.DEFINE_multi_string(
  'split', [], 'NAME=PATTERN of file names in the directory; repeat.', allow_override=True
)
_CLASSES = flags.DEFINE_multi_string(
  'classes', [], 'FILE of class names, or GROUP=FILE for each group.', allow_override=True
)
_MULTI_LABEL = flags.DEFINE_multi_string(
  'multi_label', [], 'Group in which a clip has any number of labels.', allow_override=True
)
_REGIONS = flags.DEFINE_multi_string(
  'regions', [], 'Group whose labels are of boxes, any number of each.', allow_override=True
)
_FIRST_LABEL = flags.DEFINE_integer(
  'first_label', None, 'Number of the first class in the records.', 0, allow_override=True
)
_OVERWRITE = flags.DEFINE_bool(
  'overwrite', False, 'Replace a manifest that is there.', allow_override=True
)


def make(
  data: str | os.PathLike[str],
  splits: Mapping[str, Sequence[str]],
  classes: Mapping[str, Sequence[str]] | None = None,
  *,
  multi_label: Sequence[str] = (),
  regions: Sequence[str] = (),
  first_label: int | None = None,
  overwrite: bool = False,
) -> manifest.Manifest:
  """Counts and checks the shards and writes their manifest.

  Args:
    data: directory of the shards.
    splits: split -> patterns of file names in it.
    classes: label group -> class names in label order; None: the names in the records, one group.
    multi_label: groups in which a clip has any number of labels.
    regions: groups whose labels are of boxes; their class names must be given.
    first_label: number of the first class in the records; None: 0, of images as their labels say.
      Labels of boxes, and those beside them, count from 0.
    overwrite: replace a manifest that is there.

  Raises:
    DataError: a manifest is there already, a pattern finds nothing, shards of another layout or
      damaged ones, a first frame that cannot be decoded, labels or class names in the records that
      contradict each other, or a first label other than 0 for boxes. Nothing is written.
  """
  path = Path(data) / manifest.FILE_NAME
  if path.exists() and not overwrite:
    raise DataError(f'{path}: is there already. Add --overwrite to replace it.')
  shards = {name: _find(data, name, patterns) for name, patterns in splits.items()}
  files = [file for names in shards.values() for file in names]
  twice = sorted({file for file in files if files.count(file) > 1})
  if twice:
    raise DataError(f'{data}: {twice[:3]} are matched twice; a record belongs to one split.')
  groups = dict(classes) if classes else {annotations.GROUP: ()}
  for flag, given in (('multi_label', multi_label), ('regions', regions)):
    unknown = sorted(set(given) - set(groups))
    if unknown:
      raise DataError(f'--{flag}={unknown[0]}: there is no such group; known: {list(groups)}.')
  if regions and not classes:
    raise DataError(f'--regions={regions[0]}: names of its classes are needed: --classes=FILE.')
  if regions and first_label:
    raise DataError(
      f'--first_label={first_label}: labels of boxes (--regions={regions[0]}), and those of clips '
      'beside them, count from 0. Write the records so.'
    )
  names = None if classes else _ClassNames(annotations.GROUP in multi_label, first_label or 0)
  labels = region_records.KEYFRAME if set(groups) == set(regions) else records.LABEL_INDEX
  range_ = _LabelRange()
  described = _describe(Path(data), shards, names, range_, labels)
  if names:
    groups = {annotations.GROUP: names.in_order()}
  first = range_.first(0 if regions else first_label, sum(map(len, groups.values())))
  source = {
    'made_by': 'tools.make_manifest',
    'splits': {name: list(patterns) for name, patterns in splits.items()},
    'class_names': 'files' if classes else 'records',
  }
  tasks = {
    name: manifest.Group(group, name in {*multi_label, *regions}, name in regions)
    for name, group in groups.items()
  }
  made = manifest.create(described, tasks, source, first)
  _first_frames(data, made)
  manifest.write(data, made)
  return made


def _find(data: str | os.PathLike[str], split: str, patterns: Sequence[str]) -> list[str]:
  """Names of the shards of a split, sorted."""
  if not os.path.isdir(data):
    raise DataError(f'{data}: no such directory.')
  own = ('.index.npz', manifest.FILE_NAME)  # What may lie beside shards and is none.
  found = sorted(
    name
    for pattern in patterns
    for name in glob.glob(pattern, root_dir=data)
    if not name.endswith(own)
  )
  if not found:
    there = sorted(name for name in os.listdir(data) if not name.startswith('.'))
    raise DataError(
      f'{data}: no file matches {" or ".join(patterns)} of split {split!r}; it holds '
      f'{there[:5]}{" ..." if len(there) > 5 else ""}.'
    )
  return found


def _describe(
  data: Path,
  shards: Mapping[str, Sequence[str]],
  names: '_ClassNames | None',
  found_labels: '_LabelRange',
  labels: str,
) -> list[manifest.Split]:
  """Reads every shard once, with a progress bar over their bytes."""
  sizes = {name: (data / name).stat().st_size for files in shards.values() for name in files}
  described = []
  with Progress(console=Console(stderr=True), transient=True) as bar:
    task = bar.add_task('counting records', total=sum(sizes.values()))
    for split, files in shards.items():
      found = []
      for name in files:
        count = 0
        for length in _checked_records(data / name, names, found_labels, labels):
          bar.update(task, advance=length)
          count += 1
        found.append(manifest.Shard(name, sizes[name], count))
      described.append(manifest.Split(split, tuple(found)))
  return described


def _checked_records(
  path: Path, names: '_ClassNames | None', found_labels: '_LabelRange', labels: str
) -> Iterator[int]:
  """Yields the bytes of each record; checks the first one, and labels if of images or wanted."""
  of_images = False
  for number, (offset, payload) in enumerate(records.read_records(path)):
    if number == 0:
      of_images = _check_layout(path, payload, labels)
    if names or of_images:
      example = records.parse_sequence_example(payload)
      where = f'{path}, record {number} at byte {offset}'
      if of_images:
        found_labels.add(example, where)
      if names:
        names.add(example, where)
    yield len(payload)


def _check_layout(path: Path, payload: bytes, labels: str) -> bool:
  """Whether a record is an image with labels as others write them, rather than of DMVR's layout.

  `labels` names what gives its labels: integers of the context, or the list that marks keyframes.
  Raises a DataError with the keys found and wanted if it is neither.
  """
  kind = 'context' if labels == records.LABEL_INDEX else 'feature list'
  wanted = (
    f'feature list {records.FRAMES!r} of JPEGs, {kind} {labels!r} (integers) and context '
    f'{records.KEY!r} or {records.KEY_FALLBACKS[0]!r}; or of an image {records.FRAMES!r}, '
    f'{records.IMAGE_LABEL!r} and {records.KEY_FALLBACKS[1]!r}'
  )
  try:
    example = records.parse_sequence_example(payload)
  except DataError as error:
    raise DataError(f'{path}: not a SequenceExample ({error}). Wanted: {wanted}.') from error
  found = f'found context {sorted(example.context)}, feature lists {sorted(example.lists)}'
  if labels == records.LABEL_INDEX:
    labels = example.label_name
  values = example.context.get(labels, [None])
  has_labels = labels in example.lists or all(isinstance(x, int) for x in values)
  missing = [
    name
    for name, there in (
      (records.FRAMES, example.frames),
      (labels, has_labels),
      (records.KEY, example.key is not None),
    )
    if not there
  ]
  if missing:
    raise DataError(
      f'{path}: not of the DMVR / MediaSequence layout: no usable {missing}; {found}; '
      f'wanted {wanted}.'
    )
  start, length = example.frames[0]
  if payload[start : start + min(length, 2)] != b'\xff\xd8' and not example.is_image:
    raise DataError(f'{path}: the frames in {records.FRAMES!r} are no JPEGs. Encode them as JPEG.')
  return example.is_image and labels == records.IMAGE_LABEL


def _first_frames(data: str | os.PathLike[str], made: manifest.Manifest) -> tuple[int, int, int]:
  """Number of frames of the first record, and height and width of the first of them.

  Raises:
    DataError: it cannot be decoded.
  """
  shards = next(iter(made.splits.values())).shards
  path = Path(data) / next(shard.name for shard in shards if shard.examples)
  offset, payload = next(records.read_records(path))
  frames = records.parse_sequence_example(payload).frames or ()
  start, length = frames[0]
  where = f'{path}, record 0 at byte {offset}: frame 0'
  height, width, _ = next(decode_frames([payload[start : start + length]], lambda _: where)).shape
  return len(frames), height, width


class _LabelRange:
  """Lowest and highest label of others' images, some of which count from 1."""

  def __init__(self) -> None:
    self._labels: dict[int, str] = {}  # And where each is first.

  def add(self, example: records.ParsedExample, where: str) -> None:
    """Takes the labels of a record; what is none of them is left to the index."""
    for label in example.labels or ():
      if isinstance(label, int):
        self._labels.setdefault(label, where)

  def first(self, given: int | None, num_classes: int) -> int:
    """The first class' label: the one given, else the only one that fits.

    Raises:
      DataError: labels are out of range, or would fit if counted from 0 and if counted from 1.
    """
    if not self._labels:
      return given or 0
    low, high = min(self._labels), max(self._labels)
    found = f'{records.IMAGE_LABEL!r} holds {low} to {high}, there are {num_classes} classes'
    fitting = [
      first
      for first in ((0, 1) if given is None else (given,))
      if first <= low and high < first + num_classes
    ]
    if not fitting:
      count = 'from 0 or 1' if given is None else f'from --first_label={given}'
      raise DataError(
        f'{found}: counted {count} they do not fit. {low} is in {self._labels[low]}, {high} is in '
        f'{self._labels[high]}. Correct --classes, or leave out what has no label.'
      )
    if len(fitting) > 1:
      raise DataError(
        f'{found}: the first may be called 0 or 1. Say which: --first_label=0 or --first_label=1.'
      )
    return fitting[0]


class _ClassNames:
  """Class names by index, gathered from records."""

  def __init__(self, multi_label: bool, first_label: int):
    self._multi_label, self._first_label = multi_label, first_label
    self._names: dict[int, str] = {}

  def add(self, example: records.ParsedExample, where: str) -> None:
    """Takes the names of a record, or raises a DataError if they do not fit the others."""
    indices, texts = example.labels or [], example.label_texts
    if len(indices) != len(texts) or not all(isinstance(text, bytes) for text in texts):
      raise DataError(
        f'{where}: {len(indices)} labels and {len(texts)} names in {example.label_text_name!r}, so '
        'class names cannot be taken from the records. Give them with --classes=FILE.'
      )
    if len(indices) != 1 and not self._multi_label:
      raise DataError(
        f'{where}: {len(indices)} labels. Add --multi_label={annotations.GROUP}, or name every '
        'label group with --classes=GROUP=FILE.'
      )
    for index, text in zip(indices, texts, strict=True):
      name = self._names.setdefault(index, text.decode(errors='replace'))
      if name != text.decode(errors='replace'):
        raise DataError(
          f'{where}: label {index} is called {text.decode(errors="replace")!r}, before {name!r}. '
          'Give the class names with --classes=FILE.'
        )

  def in_order(self) -> tuple[str, ...]:
    """The names from the first class on, or a DataError when one is missing."""
    first, highest = self._first_label, max(self._names, default=-1)
    missing = [index for index in range(first, highest + 1) if index not in self._names]
    if not self._names or missing or min(self._names) < first:
      hint = ' If they count from 1, add --first_label=1.' if missing == [0] else ''
      raise DataError(
        f'the records name classes up to {highest}, but none is called {missing[:5]}. '
        f'Give all class names with --classes=FILE.{hint}'
      )
    return tuple(self._names[index] for index in range(first, highest + 1))


def summary(data: str | os.PathLike[str], made: manifest.Manifest) -> str:
  """What a manifest says, for people, and what to do next."""
  lines = [str(Path(data) / manifest.FILE_NAME)]
  for split in made.splits.values():
    size = sum(shard.bytes for shard in split.shards) / 1e9
    lines.append(
      f'  {split.name:<12} {split.examples:,} records in {len(split.shards)} shards, {size:.3g} GB'
    )
  for name, task in made.tasks.items():
    kind = 'any number a clip' if task.multi_label else 'one a clip'
    kind = 'any number a box' if task.regions else kind
    lines.append(
      f'  {name:<12} {task.num_classes} classes, {kind}, from {made.source["class_names"]}'
    )
  count, height, width = _first_frames(data, made)
  found = f'{count} frame{"s" * (count > 1)}'
  lines.append(f'  first record {found} of {width} x {height}')
  if made.first_label:
    lines.append(f'  labels       {made.first_label} in the records is the first class')
  return '\n'.join([*lines, f'Next: python -m tools.browse --data={data}'])


def pairs(values: Sequence[str], flag: str) -> dict[str, list[str]]:
  """`NAME=VALUE` flags by name, in order.

  Raises:
    ConfigError: a value without a name.
  """
  found: dict[str, list[str]] = {}
  for value in values:
    name, equals, rest = value.partition('=')
    if not (name and equals and rest):
      raise ConfigError(f'--{flag}={value}: expected --{flag}=NAME=VALUE.')
    found.setdefault(name, []).append(rest)
  return found


def class_files(values: Sequence[str]) -> dict[str, tuple[str, ...]] | None:
  """Class names from `--classes` values, `FILE` or `GROUP=FILE`; None without any."""
  named = [value if '=' in value else f'{annotations.GROUP}={value}' for value in values]
  files = pairs(named, 'classes')
  several = [group for group, paths in files.items() if len(paths) > 1]
  if several:
    raise ConfigError(f'--classes: several files for group {several[0]!r}: {files[several[0]]}.')
  return {group: annotations.read_classes(paths[0]) for group, paths in files.items()} or None


def main() -> None:
  """Writes the manifest and says what is in it."""
  if not _DATA.value or not _SPLIT.value:
    raise ConfigError('Needed: --data=DIR and at least one --split=NAME=PATTERN. See --help.')
  made = make(
    _DATA.value,
    pairs(_SPLIT.value, 'split'),
    class_files(_CLASSES.value),
    multi_label=_MULTI_LABEL.value,
    regions=_REGIONS.value,
    first_label=_FIRST_LABEL.value,
    overwrite=_OVERWRITE.value,
  )
  print(summary(_DATA.value, made))


if __name__ == '__main__':
  command.run(main)
