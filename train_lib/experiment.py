"""An experiment: the config file as frozen dataclasses, and the facts it needs from its data."""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from datasets.box_config import BoxConfig
from datasets.clip_config import ClipConfig
from datasets.color import ColorJitterConfig
from datasets.examples import check_views
from errors import ConfigError
from train_lib import configuration, consistency
from train_lib.configuration import Component
from train_lib.durations import Clock
from train_lib.erasing import RandomErasingConfig
from train_lib.mixing import MixConfig
from train_lib.mixture import MixtureConfig, shares
from train_lib.pretrained import InitFromConfig
from train_lib.randaugment import RandAugmentConfig


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
  """One dataset: where its records are and how clips and views are cut from it.

  Attributes:
    dir: Folder with `manifest.json` and the shards.
    clip: Frames, stride, size and geometric augmentation.
    boxes: Which boxes heads are shown, of a dataset with labels of boxes; None: no boxes.
    augment: Augmentation in place of the experiment's; None: that.
    batch_size: Clips a step in place of the experiment's; 0: that.
    weight: Relative frequency in the mixture; 0: its size decides. Of all datasets or of none.
    benchmark: Name in `datasets.catalogue`, whose nominal class counts `tools.summary` and
      `--mode=init` use while no data is there. Empty: none.
    train_split: Split to train on.
    eval_split: Split to evaluate on; empty: none.
    temporal_views: Clips cut from a video in evaluation.
    spatial_views: Crops of each clip in evaluation, 1 (centre) or 3 (along the longer side).
    max_bad_records: Records of a split that may be unusable before a run stops; in a run of several
      processes each counts those it finds.
  """

  dir: str
  clip: ClipConfig
  boxes: BoxConfig | None = None
  augment: 'AugmentConfig | None' = None
  batch_size: int = 0
  weight: float = 0.0
  benchmark: str = ''
  train_split: str = 'train'
  eval_split: str = 'test'
  temporal_views: int = 4
  spatial_views: int = 1
  max_bad_records: int = 10

  def __post_init__(self) -> None:
    for name in ('max_bad_records', 'batch_size', 'weight'):
      _at_least(0, self, name)
    check_views(self.clip, self.temporal_views, self.spatial_views)
    if self.boxes is not None and self.spatial_views > 1:
      raise ConfigError(
        f'`spatial_views` is {self.spatial_views}, but boxes belong to one view: set it to 1.'
      )


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
    protocol: How evaluations score a task on boxes, see `train_lib.protocols`; None: by the loss
      alone.
  """

  dataset: str
  labels: str
  head: Component
  loss: Literal['softmax', 'sigmoid'] = 'softmax'
  label_smoothing: float = 0.0
  weight: float = 1.0
  protocol: Component | None = None

  @property
  def on_boxes(self) -> bool:
    """Whether labels belong to boxes of the clip."""
    return bool(getattr(self.head.target, 'takes_boxes', False))

  @property
  def multi_label(self) -> bool:
    """Whether a whole clip has several labels, which evaluations score by mean average precision."""
    return self.loss == 'sigmoid' and not self.on_boxes

  def __post_init__(self) -> None:
    if self.on_boxes and self.loss != 'sigmoid':
      raise ConfigError(
        f"`loss` is {self.loss!r}, but {self.head.name} gives several labels a box: use 'sigmoid'."
      )
    if self.protocol is not None:
      if not self.on_boxes:
        raise ConfigError(
          f'`protocol` is set, but {self.head.name} is no head on boxes: remove it.'
        )
      self.protocol.build()  # Raises where an argument is out of range.
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
    min_learning_rate: What the warm-up starts from and the cosine ends at.
    warmup: Duration of the linear warm-up.
    schedule: What follows the warm-up until the end of training.
    max_grad_norm: Global-norm clipping threshold; 0 is off. The norm is that of the mean gradient
      over the global batch.
    inactive_heads: What a step does to heads whose task its batch does not carry. `'freeze'`:
      nothing. `'decay'`: the update of a gradient of zero, by which momentum and weight decay still
      move them, and moments fade. DEVIATION: what an optimiser counts, such as Adam's steps for its
      bias correction, it counts for all parameters together.
    weight_decay: Decoupled decay, added to the direction before the learning rate.
    no_decay: Regular expressions; parameters whose path one of them matches do not decay.
    frozen: Likewise, parameters that do not train: no gradient is taken for them, the optimiser
      keeps nothing of them, and norms and clipping are of the others. Statistics of a batch
      normalisation among them still follow the batches. With `ema_decay`, the average holds a copy.
    layer_decay: Factor of the learning rate from one block of the trunk to the block before it, in
      (0, 1]; 1 is off. See `train_lib.layer_rates`.
    multipliers: Pairs of a regular expression and a factor: of the learning rate of parameters whose
      path it matches. Factors of several that match are multiplied, with that of `layer_decay` too.
  """

  rule: Component
  learning_rate: float
  warmup: str
  schedule: Literal['cosine', 'constant'] = 'cosine'
  inactive_heads: Literal['freeze', 'decay'] = 'freeze'
  max_grad_norm: float = 0.0
  weight_decay: float = 0.0
  no_decay: tuple[str, ...] = ()
  frozen: tuple[str, ...] = ()
  layer_decay: float = 1.0
  multipliers: tuple[tuple[str, float], ...] = ()
  min_learning_rate: float = 0.0

  def __post_init__(self) -> None:
    for name in ('learning_rate', 'max_grad_norm', 'weight_decay', 'min_learning_rate'):
      _at_least(0, self, name)
    if self.min_learning_rate > self.learning_rate:
      raise ConfigError(
        f'`min_learning_rate` {self.min_learning_rate} is above `learning_rate` '
        f'{self.learning_rate}: lower it.'
      )
    if not 0 < self.layer_decay <= 1:
      raise ConfigError(
        f'`layer_decay` must be above 0 and at most 1, which is off; got {self.layer_decay}.'
      )
    for pattern, factor in self.multipliers:
      if not (math.isfinite(factor) and factor > 0):
        raise ConfigError(
          f'`multipliers`: the factor of {pattern!r} must be above 0, got {factor}. To keep '
          'parameters as they are, name them in `frozen`.'
        )
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
    average: What is averaged over a video's views: `'logits'`, or `'probabilities'`, after softmax or
      sigmoid.
    joint_tasks: Metric name -> tasks whose top-scoring combination must be right, such as
      `{'action': ('verb', 'noun')}` of Epic Kitchens.
    pictures: Whether to write the confusion matrix (of several labels a clip, the chart of average
      precision by class) and the contact sheet.
  """

  every: str
  batch_size: int
  average: Literal['logits', 'probabilities'] = 'logits'
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
    mixture: How training draws from the datasets.
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
  mixture: MixtureConfig = dataclasses.field(default_factory=MixtureConfig)
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
    consistency.check(self)

  @property
  def host_patch(self) -> tuple[int, int, int] | None:
    """(t, h, w) of the patches that hosts make; None where batches hold frames."""
    return self.trunk.arguments['tubelet'] if self.host_patches else None

  @property
  def eval_metrics(self) -> list[str]:
    """Names of the metrics that evaluations give."""
    names = []
    for task, config in self.tasks.items():
      if not self.datasets[config.dataset].eval_split:
        continue
      top = ('top1', 'top5') if config.loss == 'softmax' else ('hit1',)
      scored = config.protocol.target.METRICS if config.protocol else ()
      if config.multi_label:
        scored = ('mAP',)
      names += [f'{metric}/{task}' for metric in ('loss', *top, *scored)]
    return names + [f'top{k}/{joint}' for joint in self.evaluation.joint_tasks for k in (1, 5)]

  def tasks_of(self, dataset: str) -> dict[str, TaskConfig]:
    """The tasks of a dataset."""
    return {name: task for name, task in self.tasks.items() if task.dataset == dataset}

  def batch_size_of(self, dataset: str) -> int:
    """Global number of clips in a batch of a dataset."""
    return self.datasets[dataset].batch_size or self.batch_size

  def augment_of(self, tasks: Iterable[str]) -> AugmentConfig:
    """The augmentation of a batch that carries labels of these tasks."""
    own = {self.tasks[task].dataset for task in tasks}
    # Batches of several datasets are augmented alike, see `consistency`.
    return self.datasets[own.pop()].augment or self.augment

  @property
  def weights(self) -> dict[str, float]:
    """Dataset -> relative frequency in the mixture; empty where their sizes decide."""
    return {name: config.weight for name, config in self.datasets.items() if config.weight}

  @property
  def batch_sizes(self) -> dict[str, int]:
    """Dataset -> examples in a draw of the mixture."""
    if self.mixture.mixed:
      return dict.fromkeys(self.datasets, 1)
    return {name: self.batch_size_of(name) for name in self.datasets}


@dataclasses.dataclass(frozen=True)
class DataFacts:
  """What an experiment learns from its data.

  Attributes:
    train_examples: Dataset -> examples an epoch of its training split, repeats included.
    class_names: Task -> names of its classes, in label order.
    source: Where the facts come from, for people.
  """

  train_examples: Mapping[str, int]
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


def lengths(experiment: Experiment, train_examples: Mapping[str, int]) -> Lengths:
  """Converts every duration of the experiment to steps.

  An epoch is as many examples as all datasets have together (arXiv:2207.03807, section 4.1), however
  often each is drawn.

  Args:
    experiment: with the durations.
    train_examples: of `DataFacts`.

  Raises:
    ConfigError: A duration cannot be read, or the warm-up is longer than the training.
  """
  sizes = experiment.batch_sizes
  drawn = shares(experiment.mixture, train_examples, sizes, experiment.weights)
  mixed = experiment.mixture.mixed
  mean = experiment.batch_size if mixed else sum(drawn[name] * sizes[name] for name in drawn)
  clock = Clock(sum(train_examples.values()), mean)
  result = Lengths(
    total=clock.steps(experiment.duration, 'duration'),
    warmup=clock.steps(experiment.optimizer.warmup, 'optimizer.warmup'),
    log=clock.interval(experiment.log_every, 'log_every'),
    evaluate=clock.interval(experiment.evaluation.every, 'evaluation.every'),
    checkpoint=clock.interval(experiment.checkpoint.every, 'checkpoint.every'),
    epoch=clock.train_examples / mean,
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
