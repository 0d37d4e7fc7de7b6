"""A folder of features: an `.npz` a video and a manifest that says what they are of."""

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets import video_list
from datasets.dataset import VideoDataset
from errors import ConfigError, DataError
from train_lib import params_file
from train_lib.checkpoint import complete_steps
from train_lib.extract import Extractor, Features, Planned, Video, fingerprint
from train_lib.files import write_atomically
from train_lib.trained import Trained

MANIFEST = 'manifest.json'
_WHERE_ONLY = ('checkpoint', 'step', 'videos', 'batch_size')  # They may differ in what goes on.


def describe(checkpoint: str, trained: Trained, extractor: Extractor) -> dict[str, Any]:
  """What features are of, for the manifest.

  Args:
    checkpoint: Path that `trained` was loaded from.
    trained: The model.
    extractor: What computes them.
  """
  described = {
    'model': trained.experiment.trunk.name,
    'checkpoint': checkpoint,
    'step': _step(checkpoint),
    'parameters_sha256': fingerprint(trained.variables),
    'preprocessing': dataclasses.asdict(extractor.shown),
    **dataclasses.asdict(extractor.settings),
    'shape': extractor.shape,
    'dtype': 'float32',
  }
  found: dict[str, Any] = json.loads(json.dumps(described))
  return found


def _step(checkpoint: str) -> int | None:
  if Path(checkpoint).is_dir():
    return complete_steps(Path(checkpoint))[-1]
  return ((params_file.read_meta(checkpoint) or {}).get('position') or {}).get('step')


class FeatureFolder:
  """Where features are written, and what is there already.

  Attributes:
    path: The folder.
  """

  def __init__(self, path: Path, description: dict[str, Any]):
    """Looks into the folder, which need not be there; `write_manifest` makes it.

    Args:
      path: The folder.
      description: As `describe` gives it.

    Raises:
      ConfigError: It holds features of another model or of other settings.
    """
    self.path, self._description = path, description
    self._videos: dict[str, Any] = {}
    self._check()

  @property
  def manifest(self) -> Path:
    """The file that says what the folder holds."""
    return self.path / MANIFEST

  @property
  def names(self) -> list[str]:
    """The videos whose features are there, sorted."""
    return sorted(self._videos)

  def file(self, video: Video) -> Path:
    """Where the features of a video are."""
    return self.path / f'{video.name}.npz'

  def has(self, plan: Planned) -> bool:
    """Whether the features of a video are there; notes them for the manifest.

    Raises:
      DataError: Those of another video of this name are there.
    """
    file, facts = self.file(plan.video), plan.video.facts
    try:
      with np.load(file, allow_pickle=False) as archive:
        count = len(archive['start'])
      there = (params_file.read_meta(str(file)) or {})['video']
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
      return False  # Not there, or damaged: it is written anew.
    if there != facts:
      changed = [
        f'{k}: {there.get(k)!r} there, {facts[k]!r} now' for k in facts if there.get(k) != facts[k]
      ]
      raise DataError(
        f'{file} is of another video of this name ({"; ".join(changed)}). Choose another --out, or '
        'delete the file if the video was replaced.'
      )
    if count == plan.count:
      self._note(plan.video, count)
    return count == plan.count

  def write(self, video: Video, found: Features) -> None:
    """Writes the file of a video, whole or not at all, and in it what the manifest says.

    Raises:
      ConfigError: It cannot be written.
    """
    meta = {**self._description, 'video': video.facts}
    params_file.write_arrays(self.file(video), found._asdict(), meta)
    self._note(video, len(found.features))

  def write_manifest(self) -> None:
    """Writes what is known of the folder, and what others that write to it have noted meanwhile.

    Raises:
      ConfigError: It cannot be written, or was taken for other features meanwhile.
    """
    try:
      self.path.mkdir(parents=True, exist_ok=True)
      with _one_at_a_time(self.path):
        self._check()
        videos = {name: self._videos[name] for name in self.names}
        text = json.dumps({**self._description, 'videos': videos}, indent=1, ensure_ascii=False)
        write_atomically(self.manifest, text + '\n')
    except OSError as error:
      raise ConfigError(f'--out={self.path} cannot be written to: {error.strerror}.') from error

  def _note(self, video: Video, count: int) -> None:
    self._videos[video.name] = {
      'file': f'{video.name}.npz',
      'features': [count, *self._description['shape']],
    }

  def _check(self) -> None:
    """Compares the settings, and notes the videos that others wrote."""
    manifest = self.manifest
    if not manifest.exists():
      if not self._videos and (found := next(self.path.rglob('*.npz'), None)):
        raise ConfigError(
          f'{found} is there, but no {MANIFEST} that says of what it is: choose another --out.'
        )
      return
    try:
      before = json.loads(manifest.read_text(encoding='utf-8'))
      noted = {name: dict(video) for name, video in before['videos'].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
      raise ConfigError(
        f'{manifest} is not of features: {error!r}. Choose another --out.'
      ) from error
    there = {name: noted[name] for name in noted if (self.path / f'{name}.npz').exists()}
    self._videos = {**there, **self._videos}
    keys = [key for key in self._description if key not in _WHERE_ONLY]
    changed = [
      f'{key}: {before.get(key)!r} there, {self._description[key]!r} asked for'
      for key in keys
      if before.get(key) != self._description[key]
    ]
    if changed:
      raise ConfigError(
        f'{self.path} holds features of other settings. Choose another --out.\n  '
        + '\n  '.join(changed)
      )


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
  """Lets one process of this machine at a time through, where the file system has locks."""
  handle = os.open(folder, os.O_RDONLY)
  try:
    with contextlib.suppress(OSError):
      fcntl.flock(handle, fcntl.LOCK_EX)
    yield
  finally:
    os.close(handle)


def named_files(paths: Sequence[str]) -> tuple[dict[str, Path], dict[str, DataError]]:
  """The videos named or found in folders, and what is wrong with the other paths.

  Returns:
    Name of its features -> each video: a file's own name, or its path below the folder given; path ->
    its error, as `video_list.expand` raises it.

  Raises:
    ConfigError: Two videos would have one name.
  """
  named: dict[str, Path] = {}
  bad: dict[str, DataError] = {}
  for path in paths:
    try:
      files = video_list.expand([path])
    except DataError as error:
      bad[path] = error
      continue
    for file in files:
      name = (file.relative_to(path) if Path(path).is_dir() else Path(file.name)).as_posix()
      other = named.setdefault(name, file)
      if other.resolve() != file.resolve():
        raise ConfigError(
          f'{other} and {file} would both be written to {name}.npz: give a folder above both.'
        )
  return named, bad


def of_dataset(dataset: VideoDataset) -> Iterable[Video]:
  """The videos of a split, called by their ids; by id and row where an id stands for several."""
  names = [
    re.sub(r'[^\w.,@=+-]+', '_', dataset.key(row)).lstrip('.') for row in range(len(dataset))
  ]
  counts = Counter(names)
  for row, name in enumerate(names):
    # No name of an id has a tilde.
    yield Video(name if counts[name] == 1 and name else f'{name}~{row}', dataset, row)
