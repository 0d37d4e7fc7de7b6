"""Images that TensorFlow Datasets prepared, read by row: `tfds:NAME[/CONFIG][:VERSION][@DATA_DIR]`.

TFDS finds the files and says what is in them; records are `tf.train.Example`s in array_record files
or TFRecords, whose images are decoded here. Neither reads with TensorFlow, which is not imported.
"""

import contextlib
import difflib
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datasets import records
from datasets.dataset import Contents, VideoDataset
from datasets.framed_records import FramedRecords
from datasets.manifest import Group, TaskLabels, offset_groups
from datasets.record_dataset import decode_frames
from errors import DataError

_Array = np.ndarray[Any, np.dtype[Any]]

PREFIX = 'tfds:'
_FORMAT, _FRAMED_FORMAT = 'array_record', 'tfrecord'
_IMAGE = 'image'
_KEYS = ('file_name', 'filename', 'image/filename', 'image_name')  # Ids may repeat.


def _tfds() -> Any:
  """TensorFlow Datasets, imported when first needed (a second or two; not TensorFlow itself)."""
  import tensorflow_datasets

  return tensorflow_datasets


class _Place(NamedTuple):
  """What follows `tfds:`. `data_dir` is None where TFDS looks by itself."""

  name: str
  data_dir: str | None

  @classmethod
  def of(cls, directory: str) -> '_Place':
    from tensorflow_datasets.core import naming

    name, at, given = directory.removeprefix(PREFIX).partition('@')
    try:
      naming.parse_builder_name_kwargs(name)
      valid = '=' not in name and (bool(given) or not at)
    except ValueError:
      valid = False
    if not valid:
      raise DataError(
        f'{directory}: expected tfds:NAME[:VERSION] or tfds:NAME/CONFIG[:VERSION], and @DATA_DIR '
        'where it lies elsewhere. Names are of letters, digits and _, a version is x.y.z.'
      )
    return cls(name, given or os.environ.get('TFDS_DATA_DIR') or None)


def is_tfds(directory: str | os.PathLike[str]) -> bool:
  """Whether a dataset's place names one of TensorFlow Datasets rather than a folder."""
  return str(directory).startswith(PREFIX)


class TfdsDataset(VideoDataset):
  """A split of a prepared dataset of images: one frame each, without a frame rate.

  The image is the feature 'image', or else the only image feature; maps of a class for each pixel
  are none. Label groups are the features that are a ClassLabel, and with any number of labels the
  sequences of ClassLabels, as 'objects/label'. A key is the feature that names the file
  ('file_name', ...), otherwise the split and the row.

  Labels and keys lie with the image: asking for one reads the record, the last of which each thread
  keeps.
  """

  def __init__(self, directory: str, split: str, tasks: Mapping[str, str]) -> None:
    """Opens a split.

    Args:
      directory: `tfds:NAME[/CONFIG][:VERSION]`, in TFDS_DATA_DIR or where TFDS has it, or with
        `@DATA_DIR`.
      split: as TFDS names it.
      tasks: task name (a key of a batch's `label`) -> label group.

    Raises:
      DataError: the place is spelled wrong, the dataset is unknown, damaged or not prepared as
        array_record or TFRecords, or has no image of 8 bits, or there is no such split or label
        group.
    """
    self.where, self.split = directory, split
    self._arguments = (directory, split, tasks)
    builder = _builder(directory)
    self._features = _features(directory, builder)
    super().__init__(self._features.groups, tasks)
    self.split_sizes = _sizes(builder)
    if split not in self.split_sizes:
      raise DataError(f'{directory}: no split {split!r}; there are {sorted(self.split_sizes)}.')
    self._records = _source(directory, builder, split)
    self.num_frames = np.ones(len(self._records), np.int64)
    self.frame_rate = np.zeros(len(self._records), np.float32)
    self.defects = ()
    self.fingerprint = _fingerprint(builder, self._features)
    self._last = threading.local()

  def __reduce__(self) -> tuple[Any, ...]:
    return TfdsDataset, self._arguments  # Worker processes open the files themselves.

  def key(self, row: int) -> str:
    """The name of the image's file, else (or where it cannot be read) the split and the row."""
    value = None
    if self._features.key is not None:
      with contextlib.suppress(DataError):
        value = self._values(row).get(self._features.key)
    if not value:
      return f'{self.split}-{row:07d}'
    return value[0].decode(errors='replace') if isinstance(value[0], bytes) else str(value[0])

  def identity(self, row: int) -> tuple[str, ...]:
    """Split and row, which no two splits share. Names lie in the records, too many to be read."""
    return self.fingerprint, self.split, str(row)

  def stored_labels(self, row: int) -> _Array:
    """Labels of an image as indices over all groups, int32 [labels].

    Those that are of no class, as the -1 of images without labels, are left out.

    Raises:
      DataError: the record cannot be read.
    """
    found = [
      group.offset + label
      for name, group in self._features.groups.items()
      for label in _classes_of(self._values(row).get(name, []), group)
    ]
    return np.array(found, np.int32)

  def labels(self, row: int) -> dict[str, _Array]:
    """Labels of an image per task, see the base class.

    Raises:
      DataError: the record cannot be read, or a task has no label, or one of no class.
    """
    for name, group in self._features.groups.items():
      own = self._values(row).get(name, [])
      fit = len(_classes_of(own, group)) == len(own) and (len(own) == 1 or group.multi_label)
      if group in self._tasks.values() and not fit:
        raise DataError(
          f'{self._place(row)}: {name!r} is {own}, expected '
          f'{"numbers" if group.multi_label else "one number"} in [0, {group.num_classes - 1}]. '
          'Has this split labels?'
        )
    return super().labels(row)

  def frames(self, row: int, indices: _Array) -> Iterator[_Array]:
    """Decodes the image, see the base class. EXIF orientation is not applied, as in TFDS.

    Raises:
      DataError: the record cannot be read or decoded.
    """
    image = self._values(row).get(self._features.image)
    if not image or not image[0]:
      raise DataError(
        f'{self._place(row)}: has no {self._features.image!r}: the file is damaged or cut off. '
        'Copy or prepare it again.'
      )
    return decode_frames([image[0]] * len(indices), lambda _: self._place(row))

  def _values(self, row: int) -> Mapping[str, list[Any]]:
    """The record's values by feature."""
    if getattr(self._last, 'row', None) != row:
      try:
        self._last.values = records.parse_sequence_example(self._records[row]).context
      # What array_record raises for files that are damaged or gone.
      except (DataError, RuntimeError, IndexError) as error:
        raise DataError(
          f'{self._place(row)}: cannot be read ({error}). Copy or prepare the file again.'
        ) from error
      self._last.row = row
    values: Mapping[str, list[Any]] = self._last.values
    return values

  def _place(self, row: int) -> str:
    return f'{self.where}: {self.split!r}, row {row}'


def _classes_of(values: Sequence[Any], group: TaskLabels) -> list[int]:
  """The values that are classes of a group."""
  return [x for x in values if isinstance(x, int) and 0 <= x < group.num_classes]


def is_prepared(directory: str) -> bool:
  """Whether TFDS finds files of the dataset.

  Raises:
    DataError: the place is spelled wrong, or what describes the dataset is damaged.
  """
  return _found(directory) is not None


def contents(directory: str) -> Contents:
  """What the dataset's own description says.

  Raises:
    DataError: as `TfdsDataset`.
  """
  builder = _builder(directory)
  return Contents(_sizes(builder), _features(directory, builder).groups)


# --- What TFDS says ---


class _Features(NamedTuple):
  """The features used: names in a record of the image and the key, if there is one, and groups."""

  image: str
  key: str | None
  groups: Mapping[str, TaskLabels]


def _builder(directory: str) -> Any:
  """The prepared dataset."""
  found = _found(directory)
  if found is None:
    raise DataError(_not_prepared(directory, _Place.of(directory)))
  return found


def _found(directory: str) -> Any | None:
  """The prepared dataset, from its files alone (the code that made it is not run), or None."""
  from google.protobuf import json_format
  from tensorflow_datasets.core import read_only_builder

  place = _Place.of(directory)
  try:
    return read_only_builder.builder_from_files(place.name, data_dir=place.data_dir)
  except _tfds().core.DatasetNotFoundError:
    return None
  except (ValueError, OSError, json_format.ParseError) as error:
    raise DataError(
      f'{directory}: TFDS cannot open its features.json and dataset_info.json: '
      f'{str(error).rstrip(".")}. If they are damaged, copy or prepare the dataset again.'
    ) from error


def _not_prepared(directory: str, place: _Place) -> str:
  base = place.name.partition(':')[0].partition('/')[0]
  known = _tfds().list_builders(with_community_datasets=False)
  there = _prepared(base, place.data_dir)
  if base not in known and not there:
    near = difflib.get_close_matches(base, known, 3)
    hint = f' Did you mean {" or ".join(near)}?' if near else ''
    return f'{directory}: TFDS knows no dataset {base!r}, and there are no files of one.{hint}'
  where = f'data_dir={place.data_dir!r}, ' if place.data_dir else ''
  return (
    f'{directory}: TFDS finds no files of this name, config and version'
    f'{f", but those of {there}" if there else ""}. Prepare it: '
    f'python -c "import tensorflow_datasets as tfds; tfds.builder({place.name!r}, {where}'
    f'file_format={_FORMAT!r}).download_and_prepare()", or say where it is by TFDS_DATA_DIR or '
    'tfds:NAME@DATA_DIR.'
  )


def _prepared(name: str, data_dir: str | None) -> list[str]:
  """The configs and versions of a dataset that there are files of, as a place spells them."""
  from tensorflow_datasets.core.utils import file_utils

  return sorted(
    f'{path.parents[1].relative_to(root)}:{path.parent.name}'
    for root in map(Path, file_utils.list_data_dirs(given_data_dir=data_dir))
    for config in ('', '*/')
    for path in root.glob(f'{name}/{config}[0-9]*/features.json')
  )


def _source(directory: str, builder: Any, split: str) -> Any:
  """Random access to the serialised records of a split."""
  raw = _tfds().decode.DeserializeMethod.RAW_BYTES
  found = sorted(kind.value for kind in builder.info.available_file_formats())
  if _FRAMED_FORMAT in found and _FORMAT not in found:
    builder.info.set_file_format(_FRAMED_FORMAT, override=True, override_if_initialized=True)
    described = builder.info.splits[split]
    files = [path.name for path in described.filepaths]
    return FramedRecords(builder.data_path, split, files, described.shard_lengths)
  if _FORMAT not in found:
    to = str(builder.data_path).replace(builder.info.full_name, '').rstrip('/')
    raise DataError(
      f'{directory}: {builder.data_path} is prepared as {found}, which cannot be read by row. '
      f'Convert it: tfds convert_format --dataset_version_dir={builder.data_path} '
      f'--out_file_format={_FORMAT} --out_dir={to}_{_FORMAT}/{builder.info.full_name} (wants '
      f"apache-beam), or prepare it elsewhere with file_format='{_FORMAT}'; then name that data dir."
    )
  return builder.as_data_source(split, deserialize_method=raw, file_format=_FORMAT)


def _sizes(builder: Any) -> dict[str, int]:
  return {name: int(split.num_examples) for name, split in builder.info.splits.items()}


def _features(directory: str, builder: Any) -> _Features:
  """Which features are the image, the key and labels."""
  kinds = _tfds().features
  # From files they come in any order.
  features = dict(sorted(builder.info.features.items()))
  images = [
    name
    for name, feature in features.items()
    if isinstance(feature, kinds.Image) and not isinstance(feature, kinds.LabeledImage)
  ]
  if _IMAGE not in images and len(images) != 1:
    listed = {name: type(feature).__name__ for name, feature in features.items()}
    problem = f'{len(images)} image features' if images else 'no image feature'
    raise DataError(f'{directory}: {problem} and none called {_IMAGE!r}; its features: {listed}.')
  image = _IMAGE if _IMAGE in images else images[0]
  dtype = np.dtype(features[image].np_dtype)
  if dtype != np.uint8:
    raise DataError(
      f'{directory}: the image feature {image!r} is of {dtype}, expected uint8: only images of 8 '
      'bits a channel are read. Prepare the dataset with such images.'
    )
  return _Features(image, _key_of(features), _groups_of(kinds, features))


def _key_of(features: Mapping[str, Any]) -> str | None:
  return next((name for name in _KEYS if name in features and not features[name].shape), None)


def _groups_of(kinds: Any, features: Mapping[str, Any]) -> Mapping[str, TaskLabels]:
  """Label groups of features, whose classes are in `kinds`."""
  groups: dict[str, Group] = {}
  for name, feature in features.items():
    if isinstance(feature, kinds.ClassLabel):
      groups[name] = Group(feature.names)
      continue
    inner = feature.feature if isinstance(feature, kinds.Sequence) else None
    parts = inner.items() if isinstance(inner, kinds.FeaturesDict) else [('', inner)]
    for part, label in parts:
      if isinstance(label, kinds.ClassLabel):
        groups[f'{name}/{part}'.rstrip('/')] = Group(label.names, multi_label=True)
  return offset_groups(groups)


def _fingerprint(builder: Any, features: _Features) -> str:
  splits = {
    name: [[int(length) for length in split.shard_lengths or ()], int(split.num_bytes or 0)]
    for name, split in builder.info.splits.items()
  }
  classes = {name: group.classes for name, group in features.groups.items()}
  content = json.dumps([builder.info.full_name, splits, features.image, classes], sort_keys=True)
  return hashlib.sha256(content.encode()).hexdigest()
