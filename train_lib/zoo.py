"""Published checkpoints: where they are, which config they fit, and what they are published to score.

The list is `zoo/models.toml`. Of every figure it says who states it; what no publisher states is left out.
"""

import dataclasses
import difflib
import tomllib
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datasets import annotations
from errors import ConfigError, DataError
from train_lib import configuration

LIST = Path(__file__).parents[1] / 'zoo' / 'models.toml'
"""The list that comes with the code."""
_TOLERANCE = 1e-4  # Of stored logits that do not say their own.


@dataclasses.dataclass(frozen=True)
class Shown:
  """What the publisher shows the model; 0 and '' where it is an image model, or is not stated.

  Attributes:
    mean, std: of the normalisation of pixels in [0, 1].
    range: what black and white become, over all channels: wrong where values are scaled twice.
    frames, stride, sampling, resize, crop: as of `datasets.clip_config.ClipConfig`.
  """

  mean: tuple[float, float, float]
  std: tuple[float, float, float]
  range: tuple[float, float]
  frames: int = 0
  stride: int = 0
  sampling: str = ''
  resize: int = 0
  crop: int = 0


@dataclasses.dataclass(frozen=True)
class Figure:
  """A published accuracy.

  Attributes:
    top1: percent.
    temporal_views, spatial_views: clips of a video, and crops of each.
    videos: that its publisher evaluates on.
    source: who states it.
    tolerance: in points, how far a faithful evaluation of all videos may be off: other decoders,
      other copies of the videos.
  """

  top1: float
  temporal_views: int
  spatial_views: int
  videos: int
  source: str
  tolerance: float = 1.0


@dataclasses.dataclass(frozen=True)
class Entry:
  """A published checkpoint.

  Attributes:
    name: in the list.
    title: what it is, for people.
    publisher: project that publishes it.
    url: of the file.
    layout: of the names in it: one of `pretrained_layouts`, or what `converter` reads.
    config: file of a model that it fills, with its argument.
    shown: what the publisher shows it.
    parameters: of the config's model, in millions.
    dataset: whose classes it tells apart, of `datasets.catalogue`; '': an image model, without a head.
    overrides: dotted keys of the config -> values.
    init_from: how it is loaded, besides `load_head`, which is on for what has a `dataset`.
    converter: 'module:function' from the file's arrays to those that `init_from.path` takes.
    sha256: of the published file, where the publisher states it.
    classes: file beside the list with the names of its classes, one a line, in its order; '': the
      publisher does not state the order.
    classes_source: who states the order.
    figure: its published accuracy, if there is one.
    golden: .npz beside the list with `input` (uint8 or normalised float32 [B, T, H, W, 3]), `logits`
      float32 [B, K] that the publisher's code gave for it, and `tolerance`.
    notes: anything else to know.
  """

  name: str
  title: str
  publisher: str
  url: str
  layout: str
  config: str
  shown: Shown
  parameters: float
  dataset: str = ''
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  init_from: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  converter: str = ''
  sha256: str = ''
  classes: str = ''
  classes_source: str = ''
  figure: Figure | None = None
  golden: str = ''
  notes: str = ''


@dataclasses.dataclass(frozen=True)
class Golden:
  """What a publisher's code computes.

  Attributes:
    input: uint8 or normalised float32 [B, T, H, W, 3].
    logits: float32 [B, K] of it.
    tolerance: how far another logit may be off.
  """

  input: np.ndarray
  logits: np.ndarray
  tolerance: float


class Zoo:
  """A list of published checkpoints and the files that belong to it.

  Attributes:
    entries: name -> entry, in the list's order.
  """

  def __init__(self, file: Path = LIST) -> None:
    """Reads a list.

    Args:
      file: TOML; `[[model]]` tables as `Entry`, each on top of the `[family.NAME]` that its `family` names.

    Raises:
      ConfigError: It cannot be read, or an entry is not as `Entry`.
    """
    try:
      content = tomllib.loads(file.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
      raise ConfigError(f'{file} cannot be read: {error}') from error
    self._folder = file.parent
    self.entries: dict[str, Entry] = {}
    models, families = content.get('model', []), {'': {}, **content.get('family', {})}
    if not isinstance(models, list):
      raise ConfigError(f'{file.name}: expected [[model]], which begins each model, got [model].')
    for number, model in enumerate(models, 1):
      where = f'{file.name}: model {model.get("name", number)}'
      family = model.pop('family', '')
      if family not in families:
        raise ConfigError(f'{where}: there is no [family.{family}]; known: {sorted(families)[1:]}.')
      entry = configuration.parse(Entry, _merged(families[family], model), where)
      if entry.name in self.entries:
        raise ConfigError(f'{where} is listed twice.')
      self.entries[entry.name] = entry

  def find(self, name: str) -> Entry:
    """The entry of a name.

    Raises:
      ConfigError: There is none; says the nearest names.
    """
    if name not in self.entries:
      close = difflib.get_close_matches(name, self.entries, n=3, cutoff=0.4)
      hint = f' The nearest: {", ".join(close)}.' if close else ''
      raise ConfigError(
        f'{name}: no such model.{hint} `python -m tools.zoo list` prints all {len(self.entries)}.'
      )
    return self.entries[name]

  def class_names(self, entry: Entry) -> tuple[str, ...]:
    """The names of its classes in its order, () where its publisher does not state them.

    Raises:
      DataError: The file cannot be read.
    """
    return tuple(annotations.read_classes(self._folder / entry.classes)) if entry.classes else ()

  def golden_file(self, entry: Entry) -> Path | None:
    """Where its stored logits are, None where there are none.

    Raises:
      ConfigError: The list names a file that is not there.
    """
    if not entry.golden:
      return None
    file = self._folder / entry.golden
    if not file.is_file():
      raise ConfigError(f'{entry.name}: golden={entry.golden!r}, but there is no {file}.')
    return file


def read_golden(file: Path, shape: tuple[int, ...]) -> Golden:
  """Reads stored clips and their logits.

  Args:
    file: `.npz` with `input`, `logits` and, unless it is 1e-4, `tolerance`.
    shape: (T, H, W, 3) of the clips that the model takes.

  Raises:
    DataError: It cannot be read, lacks an array, or one has another shape.
  """
  try:
    with np.load(file) as stored:
      arrays = {name: stored[name] for name in stored.files}
  except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
    raise DataError(f'{file} cannot be read ({error}); expected an .npz.') from error
  found = {name: array.shape for name, array in arrays.items()}
  clips = found.get('input', ())
  if clips[1:] != shape or found.get('logits', ())[:1] != clips[:1]:
    raise DataError(
      f'{file}: expected input [B, {", ".join(map(str, shape))}] and logits [B, K], got {found}.'
    )
  return Golden(arrays['input'], arrays['logits'], float(arrays.get('tolerance', _TOLERANCE)))


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
  """Nested tables, with those of `above` on top."""
  both = dict(below)
  for key, value in above.items():
    nested = isinstance(value, Mapping) and isinstance(both.get(key), Mapping)
    both[key] = _merged(both[key], value) if nested else value
  return both


def table(entries: Mapping[str, Entry]) -> str:
  """The list for people: a line for each entry."""
  lines = [('name', 'dataset', 'top-1', 'clips x crops', 'million', 'publisher', 'what')]
  for entry in entries.values():
    figure = entry.figure
    lines.append(
      (
        entry.name,
        entry.dataset or '-',
        f'{figure.top1:.1f}' if figure else '-',
        f'{figure.temporal_views} x {figure.spatial_views}' if figure else '-',
        f'{entry.parameters:.1f}',
        entry.publisher,
        entry.title,
      )
    )
  widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
  return '\n'.join(
    '  '.join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines
  )


def description(entry: Entry) -> str:
  """All that is known of an entry, for people."""
  shown, figure = entry.shown, entry.figure
  frames = f'{shown.frames} frames, {shown.sampling}' if shown.frames else 'single images'
  if shown.sampling == 'dense':
    frames += f' at stride {shown.stride}'
  size = f', shorter side {shown.resize} px, crop {shown.crop} px' if shown.crop else ''
  low, high = shown.range
  config = entry.config + ''.join(f' --config.{k}={v!r}' for k, v in entry.overrides.items())
  rows = {
    'what': entry.title,
    'published by': entry.publisher,
    'file': entry.url,
    'sha256': entry.sha256 or 'not stated by the publisher',
    'names': entry.layout + (f', read by {entry.converter}' if entry.converter else ''),
    'config': config,
    'parameters': f'{entry.parameters:.1f} million',
    'input': f'{frames}{size}',
    'pixels': f'mean {shown.mean}, std {shown.std}: {low:g} to {high:g}',
    'classes': f'{entry.dataset}; {_order(entry)}' if entry.dataset else 'none: an image model',
    'accuracy': _accuracy(figure) if figure else 'not stated by the publisher',
    'stored logits': entry.golden or 'none',
    'notes': entry.notes or '-',
  }
  return '\n'.join([entry.name, *(f'  {name:<14}{value}' for name, value in rows.items())])


def _order(entry: Entry) -> str:
  if not entry.classes:
    return 'their order is not stated by the publisher'
  return f'order: zoo/{entry.classes} ({entry.classes_source})'


def _accuracy(figure: Figure) -> str:
  return (
    f'top-1 {figure.top1} on {figure.videos:,} videos, {figure.temporal_views} clips x '
    f'{figure.spatial_views} crops ({figure.source})'
  )
