"""Checks a file of a published checkpoint step by step, so that the first step that fails is the culprit."""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from datasets import catalogue
from datasets.class_names import normalise_class_name
from datasets.dataset import VideoDataset
from datasets.one_video import OneVideo
from errors import CheckpointMismatchError, ConfigError, DataError, TubeletError
from train_lib import (
  configuration,
  data,
  evaluation,
  explain,
  label_map,
  params_file,
  preprocessing,
  weight_files,
)
from train_lib.augment import normalize
from train_lib.experiment import DataFacts, Experiment
from train_lib.mesh import make_mesh
from train_lib.pretrained import InitFromConfig, load_pretrained
from train_lib.pretrained_report import LoadReport
from train_lib.program import Program, build_model, build_program
from train_lib.state import STATISTICS, PyTree
from train_lib.trained import Trained
from train_lib.zoo import Entry, Zoo, read_golden

OK, FAILED, SKIPPED, NOT_RUN = 'ok', 'FAILED', 'skipped', 'not run'
_ERRORS = 2.0  # Standard errors of the accuracy on so many videos.


@dataclasses.dataclass(frozen=True)
class Check:
  """What became of a check: `status` is one of the four above, `text` says what was found or why."""

  name: str
  status: str
  text: str


class _SkippedError(Exception):
  """A check has nothing to check."""


def verify(
  zoo: Zoo,
  name: str,
  weights: str,
  experiment: Experiment,
  *,
  data_dir: str = '',
  split: str = 'validation',
  clip: str = '',
  batch_size: int = 0,
) -> list[Check]:
  """Checks weights against what is published of them; stops at the first check that fails.

  Args:
    zoo: The list.
    name: Of the entry.
    weights: File, as published or as converted.
    experiment: Of the entry's config, or another that is to be used with these weights.
    data_dir: Dataset to evaluate on; '': labels and accuracy are not checked.
    split: Of it.
    clip: A video to classify; '': none.
    batch_size: Videos of a batch of the evaluation; 0: as the config has it.

  Returns:
    A `Check` for each step.

  Raises:
    ConfigError: There is no such entry, or its views do not suit the experiment's clips.
  """
  entry = zoo.find(name)
  experiment = prepare(experiment, entry, data_dir, split, batch_size)
  steps = _Steps(zoo, entry, weights, experiment, data_dir, clip)
  checks: list[Check] = []
  failed = ''
  for step, run in steps.all().items():
    if failed:
      checks.append(Check(step, NOT_RUN, f'{failed} failed.'))
      continue
    try:
      checks.append(Check(step, OK, run()))
    except _SkippedError as reason:
      checks.append(Check(step, SKIPPED, str(reason)))
    except TubeletError as error:
      checks.append(Check(step, FAILED, str(error)))
      failed = step
  return checks


def prepare(
  experiment: Experiment, entry: Entry, data_dir: str, split: str, batch_size: int
) -> Experiment:
  """The experiment with what is evaluated, in the views of the published figure."""
  evaluated: dict[str, Any] = {'eval_split': split}
  if data_dir:
    evaluated['dir'] = data_dir
  if entry.figure is not None:
    evaluated['temporal_views'] = entry.figure.temporal_views
    evaluated['spatial_views'] = entry.figure.spatial_views
  size = batch_size or experiment.evaluation.batch_size
  return dataclasses.replace(
    experiment,
    datasets={
      name: dataclasses.replace(dataset, **evaluated)
      for name, dataset in experiment.datasets.items()
    },
    evaluation=dataclasses.replace(experiment.evaluation, batch_size=size),
  )


class _Steps:
  """The checks, each on what those before it found."""

  def __init__(
    self, zoo: Zoo, entry: Entry, weights: str, experiment: Experiment, data_dir: str, clip: str
  ) -> None:
    self.entry, self.weights, self.experiment = entry, weights, experiment
    self.data_dir, self.clip = data_dir, clip
    self.golden = zoo.golden_file(entry)
    self.names = zoo.class_names(entry)
    self.arrays: weight_files.Arrays = {}
    self.own_names: Mapping[str, Sequence[str]] = {}  # Those in the file, of its heads.
    self.filled: dict[str, PyTree] = {}
    self.task, self.dataset = _classifier(experiment)

  def all(self) -> dict[str, Callable[[], str]]:
    """Name -> check, in their order."""
    return {
      'file': self.check_file,
      'weights': self.check_weights,
      'preprocessing': self.check_preprocessing,
      'logits': self.check_logits,
      'clip': self.check_clip,
      'labels': self.check_labels,
      'accuracy': self.check_accuracy,
    }

  @functools.cached_property
  def program(self) -> Program:
    """The config's program, with the entry's number of classes."""
    names = {task: self._class_names(task) for task in self.experiment.tasks}
    facts = DataFacts(dict.fromkeys(self.experiment.datasets, 10**6), names, self.entry.name)
    return build_program(self.experiment, facts, make_mesh(self.experiment.mesh))

  def _class_names(self, task: str) -> tuple[str, ...]:
    """The publisher's, else those in the file, else as many as the benchmark has."""
    if self.names:
      return self.names
    nominal = _nominal(self.experiment, task)
    own = tuple(self.own_names.get(task, self.own_names.get('', ())))
    return own if len(own) == len(nominal) else nominal

  @functools.cached_property
  def split(self) -> VideoDataset:
    """The data to evaluate on."""
    return data.open_split(
      self.experiment, self.dataset, self.experiment.datasets[self.dataset].eval_split
    )

  def check_file(self) -> str:
    file = Path(self.weights)
    try:
      digest = _sha256(file)
    except OSError as error:
      raise CheckpointMismatchError(
        f'{file} cannot be read ({error.strerror}); expected the file of {self.entry.url}'
      ) from error
    as_published = file.suffix == Path(self.entry.url).suffix
    if self.entry.sha256 and as_published and digest != self.entry.sha256:
      raise CheckpointMismatchError(
        f'{file} has sha256 {digest}, published is {self.entry.sha256}: it is another file, or cut '
        f'short. Download it again: {self.entry.url}'
      )
    self.arrays = weight_files.read_arrays(self.weights, '--weights')
    self.own_names = (params_file.read_meta(self.weights) or {}).get('class_names') or {}
    compared = (
      'as published' if self.entry.sha256 and as_published else 'nothing to compare it with'
    )
    return (
      f'{file.stat().st_size / 1e6:,.1f} MB, {len(self.arrays):,} arrays, sha256 {digest[:16]}..., '
      f'{compared}'
    )

  def check_weights(self) -> str:
    if self.entry.converter and 'embedding/kernel' not in self.arrays:
      convert = configuration.import_target(self.entry.converter, 'converter')
      self.arrays = convert(self.arrays)
    report = self._fill()
    if not self.entry.converter and not report.layout.startswith(self.entry.layout):
      raise CheckpointMismatchError(
        f'{self.weights} has the layout {report.layout!r}, published is {self.entry.layout!r}: it is '
        'another file.'
      )
    total = report.count('loaded', 'resized', 'inflated', 'new')
    filled = report.count('loaded', 'resized', 'inflated')
    parts = [f'{filled:,} of {total:,} numbers are filled']
    for status, title in (('resized', 'resized'), ('inflated', 'inflated'), ('new', 'new')):
      if groups := _groups(report, status):
        parts.append(f'{title}: {groups}')
    if groups := _groups(report, 'skipped'):
      parts.append(f'not used: {groups}')
    return '; '.join(parts)

  def _fill(self) -> LoadReport:
    """Fills the program's variables from the arrays; raises where they do not fit."""
    state = self.program.abstract_state
    arguments = {'load_head': bool(self.entry.dataset), **self.entry.init_from}
    options = configuration.parse(
      InitFromConfig, {'path': self.weights, **arguments}, f'{self.entry.name}.init_from'
    )
    leaves, report = load_pretrained(
      {**state.params, **state.model_state},
      self.arrays,
      grid=self.program.position_grid,
      options=options,
      name=self.weights,
    )
    model_state = {name: leaves.pop(name) for name in state.model_state}
    self.filled = {'params': leaves, **model_state}
    return report

  def check_preprocessing(self) -> str:
    shown = preprocessing.of(self.experiment)[self.dataset]
    published = self.entry.shown
    found = {**dataclasses.asdict(shown.clip), **dataclasses.asdict(shown.pixels)}
    wrong = [
      f'{key} is {found[key]}, published is {getattr(published, key)}'
      for key in ('frames', 'stride', 'sampling', 'resize', 'crop')
      if getattr(published, key) and found[key] != getattr(published, key)
    ]
    wrong += [
      f'{key} is {found[key]}, published is {getattr(published, key)}'
      for key in ('mean', 'std')
      if not np.allclose(found[key], getattr(published, key), atol=1e-6)
    ]
    low, high = _range(found['mean'], found['std'])
    if not np.allclose((low, high), published.range, atol=1e-3):
      wrong.append(f'pixels are from {low:.3f} to {high:.3f}, published is {published.range}')
    if wrong:
      raise ConfigError('; '.join(wrong) + '. Use the config that the entry names.')
    clip = shown.clip
    return (
      f'{clip.frames} frames, {clip.sampling}, stride {clip.stride}; {clip.resize} px cropped to '
      f'{clip.crop}; mean {_short(found["mean"])}, std {_short(found["std"])}: {low:.2f} to {high:.2f}'
    )

  def check_logits(self) -> str:
    if self.golden is None:
      raise _SkippedError('no stored logits')
    if not self._trained():
      raise _SkippedError('the head is new')
    clip = self.experiment.datasets[self.dataset].clip
    golden = read_golden(self.golden, (clip.frames, clip.crop, clip.crop, 3))
    logits = self._logits(golden.input)
    if logits.shape != golden.logits.shape:
      raise DataError(
        f'{self.golden}: logits {golden.logits.shape}, but the model gives {logits.shape}.'
      )
    worst = float(np.abs(logits - golden.logits).max())
    if not worst <= golden.tolerance:
      raise CheckpointMismatchError(
        f'{self.golden.name}: logits differ by up to {worst:.3g}, at most {golden.tolerance:.3g} is '
        "allowed. The weights are in place, so a setting that no file tells is wrong: the trunk's "
        'gelu, layer_norm_epsilon or num_heads.'
      )
    return f'{len(logits)} stored clips agree to {worst:.2g}, {golden.tolerance:.2g} is allowed'

  def _logits(self, inputs: np.ndarray) -> np.ndarray:
    """float32 [B, K] of the first task."""
    pixels = self.experiment.pixels

    @jax.jit
    def apply(variables: PyTree, video: jax.Array) -> jax.Array:
      video = normalize(video, pixels.mean, pixels.std) if inputs.dtype == np.uint8 else video
      logits: jax.Array = self.exact.apply(variables, video, train=False)[1][self.task]
      return logits

    with jax.default_matmul_precision('highest'):
      return np.asarray(apply(self.filled, inputs))

  @functools.cached_property
  def exact(self) -> Any:
    """The model in float32."""
    exact = dataclasses.replace(self.experiment, compute_dtype='float32')
    return build_model(exact, self.program.facts)

  def check_clip(self) -> str:
    if not self.clip:
      raise _SkippedError('no --clip')
    if not self._trained():
      raise _SkippedError('the head is new')
    names = self.program.facts.class_names
    trained = Trained(
      dataclasses.replace(self.experiment, compute_dtype='float32'),
      self.exact,
      self.filled,
      names,
      preprocessing.of(self.experiment),
    )
    views = explain.look(trained, self.task, OneVideo(self.clip))
    if not np.isfinite(views.probabilities).all():
      raise DataError(f'{self.clip}: probabilities are not finite.')
    best = np.argsort(-views.probabilities, kind='stable')[:3]
    found = ', '.join(f'{views.probabilities[i]:.1%} {names[self.task][i]}' for i in best)
    return f'{Path(self.clip).name}, {len(views.pixels)} views: {found}'

  def check_labels(self) -> str:
    if not self.data_dir:
      raise _SkippedError('no --data')
    if not self._trained():
      raise _SkippedError('the head is new')
    wanted = tuple(self.split.class_names(self.task))
    count = self.program.facts.num_classes(self.task)
    if len(wanted) != count:
      raise DataError(f'{self.data_dir} has {len(wanted)} classes, the checkpoint {count}.')
    if self.own_names:
      self.arrays, rows = label_map.map_heads(
        self.arrays, self.own_names, {self.task: wanted}, [], self.weights
      )
      if self.names:  # Rows that were named wrongly would be found by the wrong names.
        label_order(
          self.names, self.own_names[rows[0].source], self.weights, f'zoo/{self.entry.classes}'
        )
      self._fill()
      return str(rows[0])
    if not self.names:
      return f'{count} classes in both; the publisher does not state their order'
    label_order(self.names, wanted, self.data_dir, f'zoo/{self.entry.classes}')
    return f'{count} classes in the same order ({self.entry.classes_source})'

  def check_accuracy(self) -> str:
    figure = self.entry.figure
    if figure is None:
      raise _SkippedError('no published accuracy')
    if not self.data_dir:
      raise _SkippedError('no --data')
    shardings = jax.tree.map(
      lambda x: x.sharding,
      {'params': self.program.abstract_state.params, **self.program.abstract_state.model_state},
    )
    variables = jax.device_put(self.filled, shardings)
    result = evaluation.evaluate(self.program, variables, self.dataset, self.split)
    if (metric := f'top1/{self.task}') not in result.metrics:
      raise ConfigError(f'{metric} is not measured: the config has another kind of task.')
    top1, classes = 100 * result.metrics[metric], self.program.facts.num_classes(self.task)
    return judge(top1, result.examples, figure.top1, figure.tolerance, figure.videos, classes)

  def _trained(self) -> bool:
    return bool(self.entry.dataset) and self.entry.init_from.get('load_head', True)


def label_order(
  published: Sequence[str], wanted: Sequence[str], where: str, file: str = 'FILE'
) -> None:
  """Checks an order of classes.

  Args:
    published: in the published order.
    wanted: as many, of the data or stored with the weights.
    where: these are from.
    file: that has the published order, for messages.

  Raises:
    DataError: They are others, or in another order.
  """
  plain = [normalise_class_name(name) for name in published]
  own = [normalise_class_name(name) for name in wanted]
  if plain == own:
    return
  first = next(i for i, (a, b) in enumerate(zip(plain, own)) if a != b)
  common = len(set(plain) & set(own))
  advice = (
    f'The names are the same in another order: import the weights with --class_names={file}, so that '
    'rows are found by name (docs/pretrained.md).'
    if common == len(plain)
    else 'It is another set of classes.'
  )
  raise DataError(
    f'class {first} is {published[first]!r} in the checkpoint and {wanted[first]!r} in {where}; '
    f'{common} of {len(plain)} names are in both. {advice}'
  )


def judge(
  top1: float, examples: int, published: float, tolerance: float, videos: int, classes: int = 0
) -> str:
  """Says how an accuracy compares with the published one; all in percent.

  Args:
    top1: measured.
    examples: videos that it was measured on.
    published, tolerance: of the figure, over all its `videos`.
    videos: that the figure counts.
    classes: number of them, if known: an accuracy near chance is said to be so.

  Raises:
    DataError: It is further off than the tolerance and what so few videos leave to chance allow.
  """
  share = published / 100
  error = 100 * math.sqrt(share * (1 - share) / max(examples, 1))
  band = tolerance + _ERRORS * error
  text = (
    f'top-1 {top1:.1f}, published {published:.1f}, at most {band:.1f} apart for {examples:,} videos; '
    f'of the {videos:,} that the figure counts {min(examples / videos, 1):.1%} are here'
  )
  if abs(top1 - published) <= band:
    return text
  if top1 > published:
    advice = 'Better than published: are training videos among these?'
  elif classes and top1 <= 2 * 100 / classes:
    advice = 'That is chance: the order of the labels is the first suspect.'
  else:
    advice = (
      'Weights, preprocessing and logits are in order, so look at the videos: size, frame rate.'
    )
  raise DataError(f'{text}. {advice}')


def _classifier(experiment: Experiment) -> tuple[str, str]:
  """The first task, and its dataset."""
  task, config = next(iter(experiment.tasks.items()))
  return task, config.dataset


def _nominal(experiment: Experiment, task: str) -> tuple[str, ...]:
  """As many names as the benchmark has classes."""
  config = experiment.tasks[task]
  benchmark = experiment.datasets[config.dataset].benchmark
  if benchmark not in catalogue.DATASETS:
    raise ConfigError(
      f'tasks.{task}: the entry names no classes, and {benchmark!r} is no benchmark.'
    )
  return tuple(f'class {i}' for i in range(catalogue.DATASETS[benchmark].tasks[config.labels]))


def _sha256(file: Path) -> str:
  with file.open('rb') as opened:
    return hashlib.file_digest(opened, 'sha256').hexdigest()


def _groups(report: LoadReport, status: str) -> str:
  """The first levels of the paths of a status, with their numbers of arrays."""
  counts: dict[str, int] = {}
  for row in report.rows:
    if row.status == status:
      path = (row.target or row.source).removeprefix(f'{STATISTICS}/').split('/')
      group = '/'.join(path[: 2 if path[0] == 'trunk' else 1])
      counts[group] = counts.get(group, 0) + 1
  return ', '.join(f'{name} ({count})' for name, count in counts.items())


def _range(mean: Sequence[float], std: Sequence[float]) -> tuple[float, float]:
  """What black and white become, over all channels."""
  low = min(-m / s for m, s in zip(mean, std))
  high = max((1 - m) / s for m, s in zip(mean, std))
  return low, high


def _short(values: Sequence[float]) -> str:
  return ', '.join(f'{value:.3g}' for value in values)


def summary(checks: Sequence[Check]) -> str:
  """A line for each check, and the verdict."""
  width = max(len(check.name) for check in checks)
  lines = [
    f'{check.name:<{width}}  {check.status:<7}  '
    + check.text.replace('\n', '\n' + ' ' * (width + 11))
    for check in checks
  ]
  failed = first_failure(checks)
  return '\n'.join([*lines, f'FAILED: {failed.name}' if failed else 'Nothing failed.'])


def first_failure(checks: Sequence[Check]) -> Check | None:
  """The check that failed, if any did."""
  return next((check for check in checks if check.status == FAILED), None)


def to_json(checks: Sequence[Check]) -> list[Mapping[str, str]]:
  """The checks as plain values."""
  return [dataclasses.asdict(check) for check in checks]
