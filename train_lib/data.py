"""The experiment's view of its data: facts, batches on the device, and the stream's position."""

import collections
import itertools
import logging
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from datasets import batches as batches_lib
from datasets import catalogue, manifest
from datasets.batches import Batches, Loading
from datasets.dataset import VideoDataset
from datasets.examples import too_many
from datasets.sources import open_dataset
from errors import ConfigError, DataError
from train_lib import preprocessing
from train_lib.experiment import DataFacts, Experiment
from train_lib.mesh import host_places
from train_lib.program import Batch, Program

# Batches placed on the device ahead of the step that uses them.
PREFETCH = 2


def open_split(experiment: Experiment, split: str) -> VideoDataset:
  """Opens a split with the experiment's tasks.

  Raises:
    DataError: The manifest, the split or a label group is missing or broken.
    ConfigError: A task's loss does not fit its labels.
  """
  name, config = experiment.dataset
  tasks = {k: t.labels for k, t in experiment.tasks.items() if t.dataset == name}
  dataset = open_dataset(config.dir, split, tasks)
  if len(dataset.defects) > config.max_bad_records:
    raise DataError(too_many(dataset.defects, config.max_bad_records))
  for defect in dataset.defects:
    logging.getLogger(__name__).warning('record left out: %s', defect)
  for task in tasks:
    if experiment.tasks[task].loss == 'softmax' and dataset.multi_label(task):
      raise ConfigError(
        f"`tasks.{task}.loss` is 'softmax', but {config.dir} has several labels a clip: "
        "use 'sigmoid'."
      )
  return dataset


def facts_of(experiment: Experiment, dataset: VideoDataset) -> DataFacts:
  """Facts from an open split; the training split's size is in the manifest either way."""
  names = {task: tuple(dataset.class_names(task)) for task in experiment.tasks}
  config = experiment.dataset[1]
  sizes = dataset.split_sizes
  if config.train_split not in sizes:
    raise DataError(
      f'{config.dir}: there is no split {config.train_split!r} (`train_split`); it has '
      f'{sorted(sizes)}.'
    )
  return DataFacts(sizes[config.train_split] * config.clip.repeats, names, dataset.where)


def facts_or_nominal(experiment: Experiment) -> DataFacts:
  """Facts from the data if it is there, otherwise those the benchmark is published with.

  Raises:
    ConfigError: There is neither a manifest nor a known benchmark.
    DataError: There is a manifest, but it cannot be used.
  """
  _, config = experiment.dataset
  if (Path(config.dir) / manifest.FILE_NAME).exists() or not config.benchmark:
    return facts_of(experiment, open_split(experiment, config.train_split))
  if config.benchmark not in catalogue.DATASETS:
    raise ConfigError(
      f'`benchmark` {config.benchmark!r} is unknown; known: {sorted(catalogue.DATASETS)}.'
    )
  benchmark = catalogue.DATASETS[config.benchmark]
  names = {}
  for task, task_config in experiment.tasks.items():
    if task_config.labels not in benchmark.tasks:
      raise ConfigError(
        f'`tasks.{task}.labels` is {task_config.labels!r}; benchmark {config.benchmark!r} has '
        f'{sorted(benchmark.tasks)}.'
      )
    count = benchmark.tasks[task_config.labels]
    names[task] = tuple(f'class {i}' for i in range(count))
  source = f'the published figures of {config.benchmark}: no {manifest.FILE_NAME} in {config.dir}'
  return DataFacts(benchmark.train_examples, names, source)


def position(experiment: Experiment, dataset: VideoDataset, step: int) -> dict[str, Any]:
  """Where the training stream is after `step` steps; what `check_position` compares."""
  return {
    'step': step,
    'seed': experiment.seed,
    'batch_size': experiment.batch_size,
    'examples': len(dataset),
    'data': dataset.fingerprint,
  }


def train_stream(
  program: Program, dataset: VideoDataset, start_step: int
) -> Generator[Batch, None, None]:
  """Training batches on the device from `start_step` on, without end."""
  experiment = program.experiment
  config = experiment.dataset[1]
  color_jitter = experiment.augment.color_jitter
  batches = batches_lib.train_batches(
    dataset,
    config.clip,
    batch_size=experiment.batch_size,
    seed=experiment.seed,
    start_step=start_step,
    places=host_places(program.mesh, experiment.batch_size).tolist(),
    color_jitter=color_jitter if color_jitter.active('host') else None,
    patch=experiment.host_patch,
    max_bad_records=config.max_bad_records - len(dataset.defects),
    loading=_loading(experiment),
  )
  return _prefetched(program, batches)


def eval_stream(
  program: Program, dataset: VideoDataset
) -> Generator[tuple[Mapping[str, Any], Batch], None, None]:
  """(host batch, device batch) pairs that hold every example exactly once."""
  experiment = program.experiment
  name, config = experiment.dataset
  batches = batches_lib.eval_batches(
    dataset,
    preprocessing.of(experiment)[name].clip,
    batch_size=experiment.evaluation.batch_size,
    temporal_views=config.temporal_views,
    spatial_views=config.spatial_views,
    places=host_places(program.mesh, experiment.evaluation.batch_size).tolist(),
    patch=experiment.host_patch,
    max_bad_records=config.max_bad_records - len(dataset.defects),
    loading=_loading(experiment),
  )
  try:
    for batch in batches:
      yield batch, program.to_device(batch)
  finally:
    batches.close()


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
