"""The experiment's view of its data: facts, batches on the device, and the stream's position."""

import collections
import itertools
import logging
from collections.abc import Generator, Mapping
from typing import Any

import numpy as np

from datasets import batches as batches_lib
from datasets import box_examples, catalogue, manifest, sources, tfds_dataset
from datasets.batches import Batches, Loading, Stream
from datasets.dataset import VideoDataset
from datasets.examples import too_many
from errors import ConfigError, DataError
from train_lib import preprocessing
from train_lib.experiment import DataFacts, Experiment
from train_lib.labels import Batch
from train_lib.mesh import host_places
from train_lib.program import Program

# Batches placed on the device ahead of the step that uses them.
PREFETCH = 2

Splits = dict[str, VideoDataset]
"""Dataset -> an open split of it."""


def open_train_splits(experiment: Experiment) -> Splits:
  """Opens the split of every dataset to train on. Raises as `open_split`."""
  return {
    name: open_split(experiment, name, config.train_split)
    for name, config in experiment.datasets.items()
  }


def open_eval_splits(experiment: Experiment) -> Splits:
  """Opens the splits to evaluate on, of the datasets that have one.

  Raises:
    TubeletError: As `open_split`; a keyframe has too many boxes, or a protocol could not score it.
  """
  splits = {
    name: open_split(experiment, name, config.eval_split)
    for name, config in experiment.datasets.items()
    if config.eval_split
  }
  for name, split in splits.items():
    _check_boxes(experiment, name, split)
  return splits


def _check_boxes(experiment: Experiment, name: str, split: VideoDataset) -> None:
  """Finds before any training what would stop its first evaluation."""
  boxes = experiment.datasets[name].boxes
  if boxes is not None:
    box_examples.check_room(split, boxes)
  for task, config in experiment.tasks_of(name).items():
    if config.protocol is not None:
      config.protocol.build().check(split, task)


def open_split(experiment: Experiment, name: str, split: str) -> VideoDataset:
  """Opens a split of a dataset with its tasks.

  Raises:
    DataError: The manifest, the split or a label group is missing or broken.
    ConfigError: A task's head or loss does not fit its labels.
  """
  config = experiment.datasets[name]
  tasks = experiment.tasks_of(name)
  dataset = sources.open_dataset(config.dir, split, {task: c.labels for task, c in tasks.items()})
  if len(dataset.defects) > config.max_bad_records:
    raise DataError(too_many(dataset.defects, config.max_bad_records))
  for defect in dataset.defects:
    logging.getLogger(__name__).warning('record left out: %s', defect)
  for task, task_config in tasks.items():
    if task_config.loss == 'softmax' and dataset.multi_label(task):
      raise ConfigError(
        f"`tasks.{task}.loss` is 'softmax', but {config.dir} has several labels a clip: "
        "use 'sigmoid'."
      )
    if task_config.on_boxes != dataset.has_regions(task):
      kinds = {True: 'boxes', False: 'whole clips'}
      raise ConfigError(
        f'`tasks.{task}.head` {task_config.head.name} is for {kinds[task_config.on_boxes]}, but the '
        f'labels {task_config.labels!r} of {config.dir} belong to '
        f'{kinds[not task_config.on_boxes]}.'
      )
  return dataset


def facts_of(experiment: Experiment, datasets: Mapping[str, VideoDataset]) -> DataFacts:
  """Facts from open splits; the training split's size is in the manifest either way."""
  examples: dict[str, int] = {}
  names: dict[str, tuple[str, ...]] = {}
  for name, dataset in datasets.items():
    config, sizes = experiment.datasets[name], dataset.split_sizes
    if config.train_split not in sizes:
      raise DataError(
        f'{config.dir}: there is no split {config.train_split!r} (`train_split`); it has '
        f'{sorted(sizes)}.'
      )
    examples[name] = sizes[config.train_split] * config.clip.repeats
    names |= {task: tuple(dataset.class_names(task)) for task in experiment.tasks_of(name)}
  return DataFacts(examples, names, ', '.join(d.where for d in datasets.values()))


def facts_or_nominal(experiment: Experiment) -> DataFacts:
  """Facts from the data that is there, otherwise those the benchmarks are published with.

  Raises:
    ConfigError: Of a dataset there is neither a manifest nor a known benchmark.
    DataError: There is a manifest, but it cannot be used.
  """
  facts = [_facts_or_nominal(experiment, name) for name in experiment.datasets]
  return DataFacts(
    {name: n for f in facts for name, n in f.train_examples.items()},
    {task: names for f in facts for task, names in f.class_names.items()},
    ', '.join(f.source for f in facts),
  )


def _facts_or_nominal(experiment: Experiment, name: str) -> DataFacts:
  config = experiment.datasets[name]
  if sources.is_there(config.dir) or not config.benchmark:
    return facts_of(experiment, {name: open_split(experiment, name, config.train_split)})
  if config.benchmark not in catalogue.DATASETS:
    raise ConfigError(
      f'`benchmark` {config.benchmark!r} is unknown; known: {sorted(catalogue.DATASETS)}.'
    )
  benchmark = catalogue.DATASETS[config.benchmark]
  names = {}
  for task, task_config in experiment.tasks_of(name).items():
    if task_config.labels not in benchmark.tasks:
      raise ConfigError(
        f'`tasks.{task}.labels` is {task_config.labels!r}; benchmark {config.benchmark!r} has '
        f'{sorted(benchmark.tasks)}.'
      )
    count = benchmark.tasks[task_config.labels]
    names[task] = tuple(f'class {i}' for i in range(count))
  missing = f'not prepared: {config.dir}' if tfds_dataset.is_tfds(config.dir) else None
  missing = missing or f'no {manifest.FILE_NAME} in {config.dir}'
  source = f'the published figures of {config.benchmark}: {missing}'
  return DataFacts({name: benchmark.train_examples * config.clip.repeats}, names, source)


class ExampleNames:
  """`row` of a training batch, which counts on through the datasets -> dataset and id."""

  def __init__(self, datasets: Mapping[str, VideoDataset]):
    self._datasets = tuple(datasets.items())
    self._first = np.cumsum([0, *(len(dataset) for dataset in datasets.values())])

  def __call__(self, row: int) -> tuple[str, str]:
    number = int(np.searchsorted(self._first, row, side='right')) - 1
    name, dataset = self._datasets[number]
    return name, dataset.key(row - int(self._first[number]))


def position(program: Program, datasets: Mapping[str, VideoDataset], step: int) -> dict[str, Any]:
  """Where the training stream is after `step` steps; what `check_position` compares."""
  experiment = program.experiment
  return {
    'step': step,
    'seed': experiment.seed,
    'batch_size': {name: experiment.batch_size_of(name) for name in datasets},
    'examples': {name: len(dataset) for name, dataset in datasets.items()},
    'data': {name: dataset.fingerprint for name, dataset in datasets.items()},
    # The shares follow from these and the sizes.
    'mixture': [experiment.mixture.sampling, experiment.weights],
  }


def train_stream(
  program: Program, datasets: Mapping[str, VideoDataset], start_step: int
) -> Generator[Batch, None, None]:
  """Training batches on the device from `start_step` on, without end."""
  experiment = program.experiment
  batches = batches_lib.mixture_batches(
    [_stream(program, name, dataset) for name, dataset in datasets.items()],
    program.mixture,
    seed=experiment.seed,
    mixed=experiment.mixture.mixed,
    start_step=start_step,
    loading=_loading(experiment),
  )
  return _prefetched(program, batches)


def _stream(program: Program, name: str, dataset: VideoDataset) -> Stream:
  experiment, config = program.experiment, program.experiment.datasets[name]
  color_jitter = experiment.augment_of(experiment.tasks_of(name)).color_jitter
  return Stream(
    dataset,
    config.clip,
    batch_size=experiment.batch_size_of(name),
    places=_places(program, experiment.batch_size_of(name)),
    boxes=config.boxes,
    color_jitter=color_jitter if color_jitter.active('host') else None,
    patch=experiment.host_patch,
    max_bad_records=config.max_bad_records - len(dataset.defects),
  )


def eval_stream(
  program: Program, name: str, dataset: VideoDataset
) -> Generator[tuple[Mapping[str, Any], Batch], None, None]:
  """(host batch, device batch) pairs that hold every example of a split once."""
  experiment, config = program.experiment, program.experiment.datasets[name]
  batches = batches_lib.eval_batches(
    dataset,
    preprocessing.of(experiment)[name].clip,
    batch_size=experiment.evaluation.batch_size,
    temporal_views=config.temporal_views,
    spatial_views=config.spatial_views,
    boxes=config.boxes,
    places=_places(program, experiment.evaluation.batch_size),
    patch=experiment.host_patch,
    max_bad_records=config.max_bad_records - len(dataset.defects),
    loading=_loading(experiment),
  )
  try:
    for batch in batches:
      yield batch, program.to_device(batch)
  finally:
    batches.close()


def _places(program: Program, size: int) -> list[int]:
  places: list[int] = host_places(program.mesh, size).tolist()
  return places


def _loading(experiment: Experiment) -> Loading:
  return Loading(experiment.loader_threads, experiment.loader_processes)


def _prefetched(program: Program, batches: Batches) -> Generator[Batch, None, None]:
  queue: collections.deque[Batch] = collections.deque()
  source = (program.to_device(batch) for batch in batches)
  try:
    queue.extend(itertools.islice(source, PREFETCH))
    while queue:
      yield queue.popleft()
      queue.extend(itertools.islice(source, 1))
  finally:
    batches.close()
