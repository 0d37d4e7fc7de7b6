"""An experiment: the config file as frozen dataclasses, and the facts it needs from its data."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, Literal

from datasets.clip_config import ClipConfig
from datasets.color import ColorJitterConfig
from datasets.examples import check_views
from errors import ConfigError
from train_lib import configuration
from train_lib.configuration import Component
from train_lib.durations import Clock
from train_lib.erasing import RandomErasingConfig
from train_lib.mixing import MixConfig
from train_lib.pretrained import InitFromConfig
from train_lib.randaugment import RandAugmentConfig


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
  """One dataset: where its records are and how clips and views are cut from it.

  Attributes:
    dir: Folder with `manifest.json` and the shards.
    clip: Frames, stride, size and geometric augmentation.
    benchmark: Name in `datasets.catalogue`, whose nominal class counts `tools.summary` and
      `--mode=init` use while no data is there. Empty: none.
    train_split: Split to train on.
    eval_split: Split to evaluate on.
    temporal_views: Clips cut from a video in evaluation.
    spatial_views: Crops of each clip in evaluation, 1 (centre) or 3 (along the longer side).
    max_bad_records: Records of a split that may be unusable before a run stops; in a run of several
      processes each counts those it finds.
  """

  dir: str
  clip: ClipConfig
  benchmark: str = ''
  train_split: str = 'train'
  eval_split: str = 'test'
  temporal_views: int = 4
  spatial_views: int = 1
  max_bad_records: int = 10

  def __post_init__(self) -> None:
    _at_least(0, self, 'max_bad_records')
    check_views(self.clip, self.temporal_views, self.spatial_views)


@dataclasses.dataclass(frozen=True)
class TaskConfig:
  """A head, its labels and its loss.

  Attributes:
    dataset: Key in `datasets` whose examples carry the labels.
    labels: Label group in that dataset's manifest.
    head: The head module; it is given `num_classes`.
    loss: `'softmax'` for one label a clip, `'sigmoid'` for several.
    label_smoothing: lambda of ViViT Eq. 11, in [0, 1).
    weight: Factor of this task's loss in the objective.
  """

  dataset: str
  labels: str
  head: Component
  loss: Literal['softmax', 'sigmoid'] = 'softmax'
  label_smoothing: float = 0.0
  weight: float = 1.0

  def __post_init__(self) -> None:
    if not 0 <= self.label_smoothing < 1:
      raise ConfigError(f'`label_smoothing` must be in [0, 1), got {self.label_smoothing}.')
    if self.weight < 0:
      raise ConfigError(f'`weight` of a task must not be negative, got {self.weight}.')


@dataclasses.dataclass(frozen=True)
class PixelConfig:
  """How uint8 pixels become the model's input: `(x / 255 - mean) / std` per channel."""

  mean: tuple[float, float, float]
  std: tuple[float, float, float]

  def __post_init__(self) -> None:
    if min(self.std) <= 0:
      raise ConfigError(f'`std` must be positive in every channel, got {self.std}.')


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
  """Augmentation inside the compiled step, in this order; erasing and mixing after normalisation.

  Zero probability, layers or alphas switch a part off.
  """

  color_jitter: ColorJitterConfig
  rand_augment: RandAugmentConfig
  random_erasing: RandomErasingConfig
  mix: MixConfig


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """The update rule.

  Attributes:
    rule: An optax transformation that turns gradients into a direction, such as
      `optax:trace` (momentum) or `optax:scale_by_adam`.
    learning_rate: Peak learning rate.
    warmup: Duration of the linear warm-up from zero.
    schedule: What follows the warm-up until the end of training.
    max_grad_norm: Global-norm clipping threshold; 0 is off. The norm is that of the mean gradient
      over the global batch.
    weight_decay: Decoupled decay, added to the direction before the learning rate.
    no_decay: Regular expressions; parameters whose path one of them matches do not decay.
  """

  rule: Component
  learning_rate: float
  warmup: str
  schedule: Literal['cosine', 'constant'] = 'cosine'
  max_grad_norm: float = 0.0
  weight_decay: float = 0.0
  no_decay: tuple[str, ...] = ()

  def __post_init__(self) -> None:
    for name in ('learning_rate', 'max_grad_norm', 'weight_decay'):
      _at_least(0, self, name)
    if self.rule.accepts('learning_rate'):
      raise ConfigError(
        f'`rule` {self.rule.name} takes a learning rate of its own: name the direction only, such as '
        '`optax:trace` or `optax:scale_by_adam`, and set `optimizer.learning_rate`.'
      )


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
  """When and how to evaluate.

  Attributes:
    every: Interval, or `'never'`; training always ends with an evaluation.
    batch_size: Global number of videos a batch (each holds all its views).
    joint_tasks: Metric name -> tasks whose top-scoring combination must be right, such as
      `{'action': ('verb', 'noun')}` of Epic Kitchens.
    pictures: Whether to write the confusion matrix and the contact sheet.
  """

  every: str
  batch_size: int
  joint_tasks: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
  pictures: bool = True

  def __post_init__(self) -> None:
    _at_least(1, self, 'batch_size')


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """When to save and what to keep.

  Attributes:
    every: Interval, or `'never'` (the end of training is always saved).
    keep: Number of newest checkpoints kept.
    best_metric: Metric of the evaluation whose best checkpoint is kept too; empty: none.
  """

  every: str
  keep: int = 2
  best_metric: str = ''

  def __post_init__(self) -> None:
    _at_least(1, self, 'keep')


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices along each axis of the mesh; one of them may be -1, which takes the rest."""

  data: int = -1
  fsdp: int = 1
  tensor: int = 1


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Everything a run is made of. See `configs/vivit/demo.py` for a commented example.

  Attributes:
    batch_size: Global number of clips a step.
    duration: Length of training, `'N steps'` or `'N epochs'`.
    compute_dtype: Type of activations; parameters and statistics stay float32.
    grad_accumulation: Equal parts a batch is split into, whose gradients are averaged. Mixup and
      CutMix pair examples of one part.
    ema_decay: Decay of the parameters' exponential moving average, which evaluation then uses;
      0 is off. The average starts at the initial parameters: with 0.999, runs of a few thousand
      steps still remember them.
    log_every: Interval of progress lines and metric writes.
    host_patches: Whether batches come from the hosts cut into the trunk's tubelets, so that a TPU
      need not rearrange frames. Augmentation that needs frames must then be off, or on the host.
    log_examples: Whether to list the examples of every step in `examples.jsonl`.
    max_skipped_steps: Updates that may be left out because a loss or norm was not finite; one more
      stops the run. 0: the first one does.
    loader_threads: Threads that read and decode clips, of each worker if there are any.
    loader_processes: Worker processes that make batches; 0: none.
  """

  name: str
  seed: int
  batch_size: int
  duration: str
  datasets: Mapping[str, DatasetConfig]
  tasks: Mapping[str, TaskConfig]
  trunk: Component
  objective: Component
  pixels: PixelConfig
  augment: AugmentConfig
  optimizer: OptimizerConfig
  evaluation: EvaluationConfig
  checkpoint: CheckpointConfig
  init_from: InitFromConfig
  log_every: str
  mesh: MeshConfig = MeshConfig()
  compute_dtype: Literal['float32', 'bfloat16'] = 'float32'
  grad_accumulation: int = 1
  ema_decay: float = 0.0
  host_patches: bool = False
  loader_threads: int = 4
  loader_processes: int = 0
  log_examples: bool = False
  max_skipped_steps: int = 0

  def __post_init__(self) -> None:
    for name in ('batch_size', 'grad_accumulation', 'loader_threads'):
      _at_least(1, self, name)
    for name in ('seed', 'loader_processes', 'max_skipped_steps'):
      _at_least(0, self, name)
    if self.batch_size % self.grad_accumulation:
      raise ConfigError(
        f'`batch_size` {self.batch_size} does not divide into `grad_accumulation` '
        f'{self.grad_accumulation} equal parts.'
      )
    if not 0 <= self.ema_decay < 1:
      raise ConfigError(f'`ema_decay` must be in [0, 1), got {self.ema_decay}.')
    if len(self.datasets) != 1:
      raise ConfigError(
        f'`datasets` must name exactly one dataset, got {sorted(self.datasets)}: '
        'mixtures are not implemented yet.'
      )
    self._check_tasks()
    if self.host_patches:
      self._check_host_patches()

  def _check_tasks(self) -> None:
    if not self.tasks:
      raise ConfigError('`tasks` is empty: name at least one head to train.')
    for name, task in self.tasks.items():
      if task.dataset not in self.datasets:
        raise ConfigError(
          f'`tasks.{name}.dataset` is {task.dataset!r}, but `datasets` has {sorted(self.datasets)}.'
        )
    best = self.checkpoint.best_metric
    if best and best not in self.eval_metrics:
      raise ConfigError(
        f'`checkpoint.best_metric` is {best!r}, but the evaluation gives {self.eval_metrics}.'
      )
    for metric, names in self.evaluation.joint_tasks.items():
      if metric in self.tasks:
        raise ConfigError(
          f'`evaluation.joint_tasks.{metric}` has the name of a task: choose another.'
        )
      for name in names:
        if name not in self.tasks or self.tasks[name].loss != 'softmax':
          raise ConfigError(
            f'`evaluation.joint_tasks.{metric}` names {name!r}, which is not a softmax task; '
            f'`tasks` has {sorted(self.tasks)}.'
          )

  def _check_host_patches(self) -> None:
    if 'tubelet' not in self.trunk.arguments:
      raise ConfigError(
        f'`host_patches`: {self.trunk.name} has no `trunk.tubelet` to cut: unset it.'
      )
    augment = self.augment
    needs_frames = {
      "color_jitter (where='host' will do)": augment.color_jitter.active('device'),
      'rand_augment': augment.rand_augment.num_layers > 0,
      'random_erasing': augment.random_erasing.prob > 0,
      'mix.cutmix_alpha': augment.mix.cutmix_alpha > 0,
    }
    on = [f'augment.{name}' for name, active in needs_frames.items() if active]
    if on:
      raise ConfigError(
        f'`host_patches` is set, but {", ".join(on)} needs whole frames on the device. Switch it off, '
        'or unset `host_patches`.'
      )

  @property
  def host_patch(self) -> tuple[int, int, int] | None:
    """(t, h, w) of the patches that hosts make; None where batches hold frames."""
    return self.trunk.arguments['tubelet'] if self.host_patches else None

  @property
  def eval_metrics(self) -> list[str]:
    """Names of the metrics that an evaluation gives."""
    names = []
    for task, config in self.tasks.items():
      top = ('top1', 'top5') if config.loss == 'softmax' else ('hit1',)
      names += [f'{metric}/{task}' for metric in ('loss', *top)]
    return names + [f'top{k}/{joint}' for joint in self.evaluation.joint_tasks for k in (1, 5)]

  @property
  def dataset(self) -> tuple[str, DatasetConfig]:
    """Name and config of the dataset."""
    return next(iter(self.datasets.items()))


@dataclasses.dataclass(frozen=True)
class DataFacts:
  """What an experiment learns from its data.

  Attributes:
    train_examples: Examples in the training split.
    class_names: Task -> names of its classes, in label order.
    source: Where the facts come from, for people.
  """

  train_examples: int
  class_names: Mapping[str, tuple[str, ...]]
  source: str

  def describe(self) -> str:
    """Classes per task and where they are from, for people."""
    classes = ', '.join(f'{task} {len(names)}' for task, names in self.class_names.items())
    return f'{classes}  (from {self.source})'

  def num_classes(self, task: str) -> int:
    """Number of classes of a task."""
    return len(self.class_names[task])


@dataclasses.dataclass(frozen=True)
class Lengths:
  """The experiment's durations in steps; an interval of 0 is never."""

  total: int
  warmup: int
  log: float
  evaluate: float
  checkpoint: float
  epoch: float


def parse(config: Any) -> Experiment:
  """Checks a config (an `ml_collections.ConfigDict` or nested mappings) and types it.

  Raises:
    ConfigError: Naming the first unknown, missing, mistyped or contradictory key.
  """
  experiment: Experiment = configuration.parse(Experiment, _plain(config), '')
  return experiment


def lengths(experiment: Experiment, train_examples: int) -> Lengths:
  """Converts every duration of the experiment to steps.

  Raises:
    ConfigError: A duration cannot be read, or the warm-up is longer than the training.
  """
  clock = Clock(train_examples, experiment.batch_size)
  result = Lengths(
    total=clock.steps(experiment.duration, 'duration'),
    warmup=clock.steps(experiment.optimizer.warmup, 'optimizer.warmup'),
    log=clock.interval(experiment.log_every, 'log_every'),
    evaluate=clock.interval(experiment.evaluation.every, 'evaluation.every'),
    checkpoint=clock.interval(experiment.checkpoint.every, 'checkpoint.every'),
    epoch=train_examples / experiment.batch_size,
  )
  if result.warmup >= result.total:
    raise ConfigError(
      f'`optimizer.warmup` {experiment.optimizer.warmup!r} is {result.warmup} steps, but '
      f'`duration` {experiment.duration!r} is only {result.total}. Shorten the warm-up.'
    )
  return result


def to_json(config: Any) -> str:
  """The resolved config as indented JSON, to be kept with the run."""
  return json.dumps(_plain(config), indent=2) + '\n'


def _plain(config: Any) -> Any:
  """Nested dicts; a ConfigDict is no Mapping, and may hold references."""
  return config.to_dict() if hasattr(config, 'to_dict') else config


def _at_least(least: float, owner: Any, name: str) -> None:
  value = getattr(owner, name)
  if not (math.isfinite(value) and value >= least):
    raise ConfigError(f'`{name}` must be at least {least}, got {value}.')
