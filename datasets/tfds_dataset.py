"""Images that TensorFlow Datasets prepared, read by row: `tfds:NAME[/CONFIG][:VERSION][@DATA_DIR]`.

TFDS finds the files and says what is in them; records are `tf.train.Example`s in array_record files,
whose images are decoded here. Neither reads with TensorFlow, which is not imported.
"""

import difflib
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from datasets import records
from datasets.dataset import Contents, VideoDataset
from datasets.manifest import Group, TaskLabels, offset_groups
from datasets.record_dataset import decode_frames
from errors import DataError

_Array = np.ndarray[Any, np.dtype[Any]]

PREFIX = 'tfds:'
_FORMAT = 'array_record'
_IMAGE = 'image'
_KEYS = ('file_name', 'filename', 'image/filename', 'image_name', 'id', 'image_id')


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
    name, at, given = directory.removeprefix(PREFIX).partition('@')
    if not name or (at and not given):
      raise DataError(f'{directory}: expected tfds:NAME[:VERSION] or tfds:NAME[:VERSION]@DATA_DIR.')
    return cls(name, given or os.environ.get('TFDS_DATA_DIR') or None)


def is_tfds(directory: str | os.PathLike[str]) -> bool:
  """Whether a dataset's place names one of TensorFlow Datasets rather than a folder."""
  return str(directory).startswith(PREFIX)


class TfdsDataset(VideoDataset):
  """A split of a prepared dataset of images: one frame each, without a frame rate.

  The image is the feature 'image', or else the only image feature. Label groups are the features that
  are a ClassLabel, and with any number of labels the sequences of ClassLabels, as 'objects/label'. A
  key is the feature that names the file ('file_name', ...) or `id`, otherwise the split and the row.

  Labels and keys lie with the image: asking for one reads the record, the last of which each thread
  keeps.
  """

  def __init__(self, directory: str, split: str, tasks: Mapping[str, str]) -> None:
    """Opens a split.

    Args:
      directory: `tfds:NAME[:VERSION]`, in TFDS_DATA_DIR (or where TFDS has it), or with `@DATA_DIR`.
      split: as TFDS names it.
      tasks: task name (a key of a batch's `label`) -> label group.

    Raises:
      DataError: the dataset is unknown, not prepared as array_record, or has no image, or there is no
        such split or label group.
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
    """The name of the image's file or its id, else the split and the row."""
    if self._features.key is not None:
      value = self._values(row).get(self._features.key)
      if value:
        return value[0].decode(errors='replace') if isinstance(value[0], bytes) else str(value[0])
    return f'{self.split}-{row:07d}'

  def stored_labels(self, row: int) -> _Array:
    """Labels of an image as indices over all groups, int32 [labels].

    Raises:
      DataError: the record cannot be read, or a label is none of its class list, as the -1 of images
        without labels.
    """
    found = []
    for name, group in self._features.groups.items():
      own = self._values(row).get(name, [])
      wrong = [x for x in own if not isinstance(x, int) or not 0 <= x < group.num_classes]
      if wrong or (len(own) != 1 and not group.multi_label):
        if group in self._tasks.values():
          raise DataError(
            f'{self._place(row)}: {name!r} is {own}, expected '
            f'{"numbers" if group.multi_label else "one number"} in [0, {group.num_classes - 1}]. '
            'Has this split labels?'
          )
        continue
      found += [group.offset + label for label in own]
    return np.array(found, np.int32)

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


def is_prepared(directory: str) -> bool:
  """Whether TFDS finds files of the dataset.

  Raises:
    DataError: the place is spelled wrong.
  """
  return _found(_Place.of(directory)) is not None


def contents(directory: str) -> Contents:
  """What the dataset's own description says.

  Raises:
    DataError: as `TfdsDataset`.
  """
  builder = _builder(directory)
  return Contents(_sizes(builder), _features(directory, builder).groups)


# --- What TFDS says ---


class _Features(NamedTuple):
  """The features used: names in a record of the image and the key (None: there is none), and groups."""

  image: str
  key: str | None
  groups: Mapping[str, TaskLabels]


def _builder(directory: str) -> Any:
  """The prepared dataset."""
  place = _Place.of(directory)
  found = _found(place)
  if found is None:
    raise DataError(_not_prepared(directory, place))
  return found


def _found(place: _Place) -> Any | None:
  """The prepared dataset, from its files alone (the code that made it is not run), or None."""
  not_found = _tfds().core.DatasetNotFoundError
  from tensorflow_datasets.core import naming, read_only_builder

  try:
    name, given = naming.parse_builder_name_kwargs(place.name)
    return read_only_builder.builder_from_files(str(name), data_dir=place.data_dir, **given)
  except not_found:
    return None


def _not_prepared(directory: str, place: _Place) -> str:
  base = place.name.partition(':')[0].partition('/')[0]
  known = _tfds().list_builders(with_community_datasets=False)
  if base not in known:
    near = difflib.get_close_matches(base, known, 3)
    hint = f' Did you mean {" or ".join(near)}?' if near else ''
    return f'{directory}: TFDS knows no dataset {base!r}, and there are no files of one.{hint}'
  where = f'data_dir={place.data_dir!r}, ' if place.data_dir else ''
  return (
    f'{directory}: TFDS finds no files of this name, config and version. Prepare it: '
    f'python -c "import tensorflow_datasets as tfds; tfds.builder({place.name!r}, {where}'
    f'file_format={_FORMAT!r}).download_and_prepare()", or say where it is by TFDS_DATA_DIR or '
    'tfds:NAME@DATA_DIR.'
  )


def _source(directory: str, builder: Any, split: str) -> Any:
  """Random access to the serialised records of a split."""
  raw = _tfds().decode.DeserializeMethod.RAW_BYTES
  found = sorted(kind.value for kind in builder.info.available_file_formats())
  if _FORMAT not in found:
    to = str(builder.data_path).replace(builder.info.full_name, '').rstrip('/')
    raise DataError(
      f'{directory}: {builder.data_path} is prepared as {found}, which cannot be read by row. Convert '
      f'it: tfds convert_format --dataset_version_dir={builder.data_path} '
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
  images = [name for name, feature in features.items() if isinstance(feature, kinds.Image)]
  if _IMAGE not in images and len(images) != 1:
    listed = {name: type(feature).__name__ for name, feature in features.items()}
    problem = f'{len(images)} image features' if images else 'no image feature'
    raise DataError(f'{directory}: {problem} and none called {_IMAGE!r}; its features: {listed}.')
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
  key = next((name for name in _KEYS if name in features and not features[name].shape), None)
  image = _IMAGE if _IMAGE in images else images[0]
  return _Features(image, key, offset_groups(groups))


def _fingerprint(builder: Any, features: _Features) -> str:
  splits = {
    name: [[int(length) for length in split.shard_lengths or ()], int(split.num_bytes or 0)]
    for name, split in builder.info.splits.items()
  }
  classes = {name: group.classes for name, group in features.groups.items()}
  content = json.dumps([builder.info.full_name, splits, features.image, classes], sort_keys=True)
  return hashlib.sha256(content.encode()).hexdigest()
