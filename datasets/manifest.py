"""What a dataset directory holds: splits, shards, label groups. Read and written as `manifest.json`."""

import dataclasses
import hashlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from errors import DataError

FILE_NAME = 'manifest.json'
FORMAT_VERSION = 1

_HOW_TO_MAKE = (
  'Make one from videos with `python -m tools.build_records`, for TFRecords that exist already with '
  '`python -m tools.make_manifest`, or for the demo with `python -m tools.make_demo_data`.'
)


@dataclasses.dataclass(frozen=True)
class Shard:
  """One TFRecord file: its name inside the dataset directory, size in bytes and record count."""

  name: str
  bytes: int
  examples: int


@dataclasses.dataclass(frozen=True)
class Split:
  """The shards of one split, in reading order."""

  name: str
  shards: tuple[Shard, ...]

  @property
  def examples(self) -> int:
    """Number of records over all shards."""
    return sum(shard.examples for shard in self.shards)


class Group(NamedTuple):
  """What `create` needs to know of a label group: `TaskLabels` without the place among the others."""

  classes: Sequence[str]
  multi_label: bool = False
  regions: bool = False
  class_ids: Sequence[int] = ()


@dataclasses.dataclass(frozen=True)
class TaskLabels:
  """One label group.

  Attributes:
    classes: names.
    multi_label: whether there may be any number of labels, rather than exactly one.
    offset: class k is stored as `offset + k` in `region/label/index`, and in `clip/label/index` or
      `image/class/label` as `Manifest.first_label` more.
    regions: whether labels belong to the boxes of a keyframe rather than to a clip.
    class_ids: the numbers that files of results call the classes by; (): 1 to K.
  """

  classes: tuple[str, ...]
  multi_label: bool
  offset: int
  regions: bool = False
  class_ids: tuple[int, ...] = ()

  @property
  def num_classes(self) -> int:
    """Number of classes in the group."""
    return len(self.classes)


@dataclasses.dataclass(frozen=True)
class Manifest:
  """Splits and label groups of a dataset; `source` says how it was made (any JSON mapping).

  `first_label` is the number of the first class of clips and images in records, 1 in ImageNet's.
  """

  splits: Mapping[str, Split]
  tasks: Mapping[str, TaskLabels]
  source: Mapping[str, Any]
  first_label: int = 0

  @property
  def num_labels(self) -> int:
    """Size of the global label space, the sum of the groups' classes."""
    return sum(task.num_classes for task in self.tasks.values())

  @property
  def sha256(self) -> str:
    """Hash over the format version, shard lists with sizes, label groups in order, and source."""
    content: list[Any] = [FORMAT_VERSION, _splits_json(self), list(_tasks_json(self).items())]
    content += [self.source, *([self.first_label] if self.first_label else ())]
    text = json.dumps(content, sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(text.encode()).hexdigest()


def create(
  splits: Sequence[Split],
  tasks: Mapping[str, Group | tuple[Sequence[str], bool]],
  source: Mapping[str, Any] | None = None,
  first_label: int = 0,
) -> Manifest:
  """Builds a manifest from splits and groups, or `{group: (classes, multi_label)}`, numbered in order.

  Raises:
    DataError: an empty split, no splits or groups, duplicate names, a group of boxes that is not
      multi_label, or ids that do not fit the classes.
  """
  groups = offset_groups(tasks)
  by_name = {split.name: split for split in splits}
  if len(by_name) != len(splits):
    raise DataError(f'manifest: split names repeat: {[split.name for split in splits]}.')
  manifest = Manifest(by_name, groups, dict(source or {}), first_label)
  _check_content(manifest, 'manifest')
  return manifest


def offset_groups(
  tasks: Mapping[str, Group | tuple[Sequence[str], bool]],
) -> dict[str, TaskLabels]:
  """The label groups, each numbered on from the one before."""
  groups: dict[str, TaskLabels] = {}
  offset = 0
  for name, given in tasks.items():
    group = Group(*given)
    groups[name] = TaskLabels(
      tuple(group.classes),
      bool(group.multi_label),
      offset,
      bool(group.regions),
      tuple(group.class_ids),
    )
    offset += len(group.classes)
  return groups


def write(directory: str | os.PathLike[str], manifest: Manifest) -> Path:
  """Writes `manifest.json` atomically into the directory of the shards and returns its path."""
  path = Path(directory) / FILE_NAME
  content = {
    'format_version': FORMAT_VERSION,
    'splits': _splits_json(manifest),
    'tasks': _tasks_json(manifest),
    'source': dict(manifest.source),
    # Left out where it is as it always was, so that older code reads the file.
    **({'first_label': manifest.first_label} if manifest.first_label else {}),
    'sha256': manifest.sha256,
  }
  temporary = temporary_path(path)
  temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
  os.replace(temporary, path)
  return path


def temporary_path(path: Path) -> Path:
  """A hidden name beside `path` that no other process or host uses, to rename when complete."""
  return path.with_name(f'.{path.name}.{secrets.token_hex(4)}.tmp')


def load(directory: str | os.PathLike[str]) -> Manifest:
  """Reads `manifest.json` and checks it against its hash and the shards' presence and sizes.

  Raises:
    DataError: as `read`; a missing shard, or one whose size differs.
  """
  manifest = read(directory)
  for split in manifest.splits.values():
    for shard in split.shards:
      check_shard(directory, shard)
  return manifest


def read(directory: str | os.PathLike[str]) -> Manifest:
  """Reads `manifest.json` and checks it against its hash, whatever has become of the shards.

  Raises:
    DataError: missing or broken file, unknown version, wrong hash, or an empty split.
  """
  path = Path(directory) / FILE_NAME
  content = _read_json(path)
  version = content.get('format_version')
  if version != FORMAT_VERSION:
    raise DataError(
      f'{path}: format_version is {version!r}, expected {FORMAT_VERSION}. '
      'Write the dataset again with this version of the code.'
    )
  try:
    manifest = _from_json(content)
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise DataError(
      f'{path}: broken manifest ({type(error).__name__}: {error}). {_HOW_TO_MAKE}'
    ) from error
  _check_content(manifest, str(path))
  if content.get('sha256') != manifest.sha256:
    raise DataError(
      f'{path}: sha256 is {content.get("sha256")!r}, but the content hashes to '
      f'{manifest.sha256!r}: the file was damaged or edited by hand. {_HOW_TO_MAKE}'
    )
  return manifest


def _read_json(path: Path) -> dict[str, Any]:
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
  except (FileNotFoundError, NotADirectoryError) as error:
    raise DataError(f'{path}: no such file, so this is no dataset. {_HOW_TO_MAKE}') from error
  except OSError as error:
    raise DataError(f'{path}: cannot be read: {error.strerror}.') from error
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise DataError(f'{path}: not valid JSON ({error}). {_HOW_TO_MAKE}') from error
  if not isinstance(content, dict):
    raise DataError(f'{path}: expected a JSON object, got {type(content).__name__}.')
  return content


def _from_json(content: Mapping[str, Any]) -> Manifest:
  splits = {}
  for name, split in content['splits'].items():
    shards = tuple(
      Shard(str(shard['name']), int(shard['bytes']), int(shard['examples']))
      for shard in split['shards']
    )
    splits[name] = Split(name, shards)
    if split['examples'] != splits[name].examples:
      raise ValueError(
        f'split {name!r} says {split["examples"]} examples, its shards {splits[name].examples}'
      )
  tasks = offset_groups(
    {
      name: Group(
        [str(label) for label in task['classes']],
        task['multi_label'],
        task.get('regions', False),
        [int(number) for number in task.get('class_ids', ())],
      )
      for name, task in content['tasks'].items()
    }
  )
  return Manifest(splits, tasks, dict(content['source']), int(content.get('first_label', 0)))


def _splits_json(manifest: Manifest) -> dict[str, Any]:
  return {
    name: {
      'examples': split.examples,
      'shards': [dataclasses.asdict(shard) for shard in split.shards],
    }
    for name, split in manifest.splits.items()
  }


def _tasks_json(manifest: Manifest) -> dict[str, Any]:
  return {name: _task_json(task) for name, task in manifest.tasks.items()}


def _task_json(task: TaskLabels) -> dict[str, Any]:
  """Without what is as it was before there were boxes, so that older manifests keep their hash."""
  content = {'classes': list(task.classes), 'multi_label': task.multi_label}
  if task.regions:
    content['regions'] = True
  if task.class_ids:
    content['class_ids'] = list(task.class_ids)
  return content


def _check_content(manifest: Manifest, where: str) -> None:
  if not manifest.splits or not manifest.tasks:
    raise DataError(f'{where}: needs at least one split and one label group.')
  for name, split in manifest.splits.items():
    if split.examples == 0:
      raise DataError(f'{where}: split {name!r} holds no examples. Write it again or leave it out.')
    if any(os.path.basename(shard.name) != shard.name for shard in split.shards):
      raise DataError(f'{where}: split {name!r}: shard names must be plain file names.')
  for name, task in manifest.tasks.items():
    if not task.classes:
      raise DataError(f'{where}: label group {name!r} has no classes.')
    if len(set(task.classes)) != len(task.classes):
      repeated = sorted({label for label in task.classes if task.classes.count(label) > 1})
      raise DataError(f'{where}: label group {name!r} repeats class names: {repeated[:5]}.')
    if task.regions and not task.multi_label:
      raise DataError(f'{where}: label group {name!r} is of boxes, which needs multi_label.')
    ids = set(task.class_ids)
    if ids and not len(ids) == len(task.class_ids) == task.num_classes:
      raise DataError(
        f'{where}: label group {name!r} has {task.num_classes} classes and {len(ids)} different ids '
        f'among {len(task.class_ids)}; expected one for each.'
      )


def check_shard(directory: str | os.PathLike[str], shard: Shard) -> None:
  """Raises a DataError when a shard is missing or differs in size from what the manifest says."""
  path = Path(directory) / shard.name
  try:
    size = path.stat().st_size
  except FileNotFoundError as error:
    raise DataError(
      f'{path}: shard listed in {FILE_NAME} is missing. Copy it again, or write the dataset again.'
    ) from error
  except OSError as error:
    raise DataError(f'{path}: cannot be read: {error.strerror}.') from error
  if size != shard.bytes:
    raise DataError(
      f'{path}: has {size} bytes, {FILE_NAME} says {shard.bytes}: the shard is truncated or '
      'was replaced. Copy it again, or write the dataset again.'
    )
