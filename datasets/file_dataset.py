"""A dataset read straight from videos or images: csv files or class folders, no records.

For small datasets: a clip costs several times what it costs from records, and every start looks
into every video.
"""

import concurrent.futures
import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datasets import annotations, convert, image_files, manifest, video
from datasets.annotations import Annotations, LabelGroup, Row
from datasets.dataset import Contents, VideoDataset
from datasets.progress import with_progress
from errors import DataError

_Array = np.ndarray[Any, np.dtype[Any]]

ONE_CSV = 'clips.csv'
CLASSES = 'classes.txt'
_PROBING_THREADS = 8


@dataclasses.dataclass(frozen=True)
class _Clip:
  """A row that can be read: its frames are `num_frames` of the video's, from `first` on."""

  row: Row
  path: str
  info: video.VideoInfo
  labels: _Array
  first: int
  num_frames: int


class FileDataset(VideoDataset):
  """A split of a folder that holds videos, or images, and says what is in them.

  The folder has `SPLIT.csv` for each split (`path,label[,start,end][,key]`, paths from the folder),
  or one `clips.csv` with a column `split`, or `SPLIT/CLASS/` folders of videos. `classes.txt` gives
  the order of the classes; without it they are sorted. A clip's frames are those shown from `start`
  on and before `end`, as they are stored: what `stride` counts.
  """

  def __init__(
    self, directory: str | os.PathLike[str], split: str, tasks: Mapping[str, str]
  ) -> None:
    """Reads the annotations and looks into every video of the split.

    Args:
      directory: the folder.
      split: name of the split.
      tasks: task name (a key of a batch's `label`) -> label group; a plain column `label` and class
        folders are the group 'label'.

    Raises:
      DataError: no annotations, no such split or group, or no video of the split can be read.
    """
    self.where, self.split = str(directory), split
    found = _read_splits(Path(directory))
    groups = _groups(Path(directory), found)
    super().__init__(_offset(groups), tasks)
    if split not in found:
      raise DataError(f'{directory}: no split {split!r}; there are {sorted(found)}.')
    self.split_sizes = {name: len(part.rows) for name, part in found.items()}
    self._clips, self.defects = _probe_all(Path(directory), found[split], groups)
    if not self._clips:
      raise DataError(
        f'{directory}: no video of split {split!r} can be used; the first of {len(self.defects)}: '
        f'{self.defects[0]}'
      )
    self.num_frames = np.array([clip.num_frames for clip in self._clips], np.int64)
    self.frame_rate = np.array([clip.info.frame_rate for clip in self._clips], np.float32)
    self.fingerprint = _fingerprint(self._clips)

  def key(self, row: int) -> str:
    """Key of a row, or its path and times."""
    return self._clips[row].row.key

  def _content(self, row: int, key: str) -> tuple[str, ...]:
    clip = self._clips[row]
    return os.path.realpath(clip.path), f'{clip.first}+{clip.num_frames}'

  def stored_labels(self, row: int) -> _Array:
    """Labels of a row as indices over all groups, int32 [labels]."""
    return self._clips[row].labels

  def frames(self, row: int, indices: _Array) -> Iterator[_Array]:
    """Decodes frames, see the base class; starts at the keyframe before the first one.

    Raises:
      DataError: the video cannot be decoded; the message names it and the row.
    """
    clip = self._clips[row]
    try:
      if image_files.is_image(clip.path):
        yield image_files.read(clip.path)
        return
      yield from video.read_frames(clip.path, clip.info, clip.first + np.asarray(indices))
    except DataError as error:
      raise DataError(f'{error} (row {row}, {self.key(row)!r})') from error


def contents(directory: str | os.PathLike[str]) -> Contents:
  """What the folder's annotations say, without a look into the videos.

  Raises:
    DataError: no annotations, or splits that contradict each other.
  """
  found = _read_splits(Path(directory))
  groups = _offset(_groups(Path(directory), found))
  return Contents({name: len(part.rows) for name, part in found.items()}, groups)


def holds_videos(directory: str | os.PathLike[str]) -> bool:
  """Whether a folder looks like one that `FileDataset` reads."""
  folder = Path(directory)
  if not folder.is_dir():
    return False
  return any(folder.glob('*.csv')) or any(
    p.is_dir() and any(p.glob('*/*')) for p in folder.iterdir()
  )


def _read_splits(folder: Path) -> dict[str, Annotations]:
  """Split -> its annotations."""
  classes = annotations.read_classes(folder / CLASSES) if (folder / CLASSES).exists() else None
  if (folder / ONE_CSV).exists():
    whole = annotations.read_csv(folder / ONE_CSV, classes=classes)
    names = sorted({row.split for row in whole.rows})
    if names == ['']:
      raise DataError(
        f'{folder / ONE_CSV}: has no column `split`. Add one, or name the file train.csv.'
      )
    parts = {name: [row for row in whole.rows if row.split == name] for name in names}
    return {name: Annotations(whole.groups, tuple(rows)) for name, rows in parts.items()}
  files = sorted(folder.glob('*.csv'))
  if files:
    return {file.stem: annotations.read_csv(file, classes=classes) for file in files}
  found = {}
  for part in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith('.')):
    read = annotations.read_folder(part, classes=classes)
    rows = [dataclasses.replace(row, path=f'{part.name}/{row.path}') for row in read.rows]
    found[part.name] = dataclasses.replace(read, rows=tuple(rows))
  return found


def _groups(folder: Path, found: Mapping[str, Annotations]) -> dict[str, LabelGroup]:
  """Label groups over all splits, whose classes are numbered alike."""
  names = [tuple(part.groups) for part in found.values()]
  if len(set(names)) != 1:
    raise DataError(f'{folder}: the splits {sorted(found)} have other label groups: {names}.')
  if (folder / CLASSES).exists():
    return dict(next(iter(found.values())).groups)
  return {
    name: LabelGroup(
      tuple(sorted({c for part in found.values() for c in part.groups[name].classes}))
    )
    for name in names[0]
  }


def _offset(groups: Mapping[str, LabelGroup]) -> dict[str, manifest.TaskLabels]:
  """The groups one after the other."""
  return manifest.offset_groups({n: (g.classes, g.multi_label) for n, g in groups.items()})


def _probe_all(
  folder: Path, part: Annotations, groups: Mapping[str, LabelGroup]
) -> tuple[list[_Clip], tuple[str, ...]]:
  """The clips that can be read, in order, and what is wrong with the others."""
  defects = [f'row {r.number}, {r.path}: {r.reason}' for r in part.rejected]
  paths = sorted({row.path for row in part.rows})
  with concurrent.futures.ThreadPoolExecutor(_PROBING_THREADS) as pool:
    probed = with_progress(
      pool.map(lambda path: _probe(folder / path), paths), len(paths), f'looking into {folder}'
    )
    infos = dict(zip(paths, probed, strict=True))
  clips = []
  for row in part.rows:
    info = infos[row.path]
    try:
      if isinstance(info, DataError):
        raise info
      clips.append(_clip(folder, row, info, groups))
    except DataError as error:
      defects.append(f'row {row.number}: {error}')
  return clips, tuple(defects)


def _probe(path: Path) -> video.VideoInfo | DataError:
  try:
    return _image_info(path) if image_files.is_image(path) else video.probe(path)
  except DataError as error:
    return error


def _image_info(path: Path) -> video.VideoInfo:
  height, width, _ = image_files.read(path).shape
  first = np.zeros(1, np.int64)
  return video.VideoInfo(height, width, 0.0, np.zeros(1), first, first, False)


def _clip(folder: Path, row: Row, info: video.VideoInfo, groups: Mapping[str, LabelGroup]) -> _Clip:
  if not info.frame_rate and (row.start is not None or row.end is not None):
    raise DataError(f'{row.path}: is an image, which has no start and end.')
  start, end = row.start or 0.0, np.inf if row.end is None else row.end
  # The frame shown at `start` appeared at or before it.
  first = max(int(np.searchsorted(info.times, start, 'right')) - 1, 0)
  last = int(np.searchsorted(info.times, end, 'left'))
  shown = 1 / info.frame_rate if info.frame_rate else 0.0
  if start > info.times[-1] + shown or last <= first:
    raise DataError(
      f'{row.path}: nothing to see from {start:g} s to {end:g} s, the video has '
      f'{info.num_frames} frames until {info.times[-1]:.2f} s.'
    )
  labels = np.array(convert.label_indices(row, groups), np.int32)
  return _Clip(row, str(folder / row.path), info, labels, first, last - first)


def _fingerprint(clips: list[_Clip]) -> str:
  content = [
    (c.row.path, c.row.key, c.first, c.num_frames, c.labels.tolist(), os.path.getsize(c.path))
    for c in clips
  ]
  return hashlib.sha256(repr(content).encode()).hexdigest()
