"""A folder of features: an `.npz` a video and a manifest that says what they are of."""

import dataclasses
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets import video_list
from datasets.dataset import VideoDataset
from errors import ConfigError
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
    """Makes the folder, or goes on with one.

    Args:
      path: The folder.
      description: As `describe` gives it.

    Raises:
      ConfigError: It holds features of another model or of other settings, or cannot be written to.
    """
    self.path, self._description = path, description
    self._shapes: dict[str, list[int]] = {}
    self._check()
    self.write_manifest()

  @property
  def manifest(self) -> Path:
    """The file that says what the folder holds."""
    return self.path / MANIFEST

  @property
  def names(self) -> list[str]:
    """The videos whose features are there, sorted."""
    return sorted(self._shapes)

  def file(self, video: Video) -> Path:
    """Where the features of a video are."""
    return self.path / f'{video.name}.npz'

  def has(self, plan: Planned) -> bool:
    """Whether the features of a video are there; notes them for the manifest."""
    file = self.file(plan.video)
    try:
      with np.load(file, allow_pickle=False) as archive:
        count = len(archive['start'])
    except FileNotFoundError:
      return False
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
      return False  # Damaged: it is written again.
    if count == plan.count:
      self._shapes[plan.video.name] = [count, *self._description['shape']]
    return count == plan.count

  def write(self, video: Video, found: Features) -> None:
    """Writes the file of a video, whole or not at all.

    Raises:
      ConfigError: It cannot be written.
    """
    params_file.write_arrays(self.file(video), found._asdict())
    self._shapes[video.name] = list(found.features.shape)

  def write_manifest(self) -> None:
    """Writes what is known of the folder.

    Raises:
      ConfigError: It cannot be written.
    """
    videos = {name: {'file': f'{name}.npz', 'features': self._shapes[name]} for name in self.names}
    try:
      self.path.mkdir(parents=True, exist_ok=True)
      text = json.dumps({**self._description, 'videos': videos}, indent=1, ensure_ascii=False)
      write_atomically(self.manifest, text + '\n')
    except OSError as error:
      raise ConfigError(f'--out={self.path} cannot be written to: {error.strerror}.') from error

  def _check(self) -> None:
    manifest = self.manifest
    if not manifest.exists():
      if self.path.is_dir() and (found := next(self.path.rglob('*.npz'), None)):
        raise ConfigError(
          f'{found} is there, but no {MANIFEST} that says of what it is: choose another --out.'
        )
      return
    try:
      before = json.loads(manifest.read_text(encoding='utf-8'))
      noted = {name: video['features'] for name, video in before['videos'].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
      raise ConfigError(
        f'{manifest} is not of features: {error!r}. Choose another --out.'
      ) from error
    self._shapes = {name: noted[name] for name in noted if (self.path / f'{name}.npz').exists()}
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


def named_files(paths: Sequence[str]) -> dict[str, Path]:
  """Name of its features -> each video: a file's own name, or its path below the folder given.

  Raises:
    DataError: As `video_list.expand`.
    ConfigError: Two videos would have one name.
  """
  named: dict[str, Path] = {}
  for path in map(Path, paths):
    for file in video_list.expand([path]):
      name = (file.relative_to(path) if path.is_dir() else Path(file.name)).as_posix()
      other = named.setdefault(name, file)
      if other.resolve() != file.resolve():
        raise ConfigError(
          f'{other} and {file} would both be written to {name}.npz: give a folder above both.'
        )
  return named


def of_dataset(dataset: VideoDataset) -> Iterable[Video]:
  """The videos of a split, called by their ids; by id and row where an id stands for several."""
  names = [
    re.sub(r'[^\w.,@=+-]+', '_', dataset.key(row)).lstrip('.') for row in range(len(dataset))
  ]
  counts = Counter(names)
  for row, name in enumerate(names):
    yield Video(name if counts[name] == 1 and name else f'{name}_{row}', dataset, row)
