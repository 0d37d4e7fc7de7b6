"""What in an experiment must fit together, checked before anything is opened or compiled."""

import typing
from collections.abc import Mapping

from errors import ConfigError

if typing.TYPE_CHECKING:
  from train_lib.experiment import AugmentConfig, Experiment


def check(experiment: 'Experiment') -> None:
  """Raises ConfigError naming the first contradiction between keys of different groups."""
  if not experiment.datasets:
    raise ConfigError('`datasets` is empty: name at least one dataset.')
  _check_batches(experiment)
  _check_tasks(experiment)
  _check_boxes(experiment)
  _check_mixture(experiment)
  _check_metrics(experiment)
  if experiment.host_patches:
    _check_host_patches(experiment)


def check_start(experiment: 'Experiment') -> None:
  """Raises ConfigError if a run without a checkpoint of its own is to load heads from nowhere.

  Not part of `check`: configs of finetuning are read without weights too, as by `tools.summary`.
  """
  if experiment.init_from.load_head and not experiment.init_from.path:
    raise ConfigError(
      '`init_from.load_head` is set, but `init_from.path` is empty: name the file or the folder of '
      'the run to start from, or set `init_from.load_head=False` to start from scratch.'
    )


def _check_batches(experiment: 'Experiment') -> None:
  parts = experiment.grad_accumulation
  sizes = {'batch_size': experiment.batch_size}
  sizes |= {f'datasets.{n}.batch_size': d.batch_size for n, d in experiment.datasets.items()}
  for name, size in sizes.items():
    if size % parts:
      raise ConfigError(
        f'`{name}` {size} does not divide into `grad_accumulation` {parts} equal parts.'
      )


def _check_tasks(experiment: 'Experiment') -> None:
  if not experiment.tasks:
    raise ConfigError('`tasks` is empty: name at least one head to train.')
  for name, task in experiment.tasks.items():
    if task.dataset not in experiment.datasets:
      raise ConfigError(
        f'`tasks.{name}.dataset` is {task.dataset!r}, but `datasets` has '
        f'{sorted(experiment.datasets)}.'
      )
  for name in experiment.datasets:
    if not experiment.tasks_of(name):
      raise ConfigError(
        f'`datasets.{name}` has no task: its batches would train nothing. Add one to `tasks`, or '
        'leave the dataset out.'
      )


def _check_boxes(experiment: 'Experiment') -> None:
  for name, dataset in experiment.datasets.items():
    on_boxes = [task for task, c in experiment.tasks_of(name).items() if c.on_boxes]
    if on_boxes and dataset.boxes is None:
      raise ConfigError(
        f'`tasks.{on_boxes[0]}` has a head on boxes, but `datasets.{name}.boxes` is not set: say '
        'which boxes to train and evaluate on.'
      )
    if dataset.boxes is None:
      continue
    if not on_boxes:
      raise ConfigError(f'`datasets.{name}.boxes` is set, but no task of it has a head on boxes.')
    if dataset.clip.sampling != 'keyframe':
      raise ConfigError(
        f'`datasets.{name}.clip.sampling` is {dataset.clip.sampling!r}, but boxes are known on the '
        "keyframe alone: set 'keyframe'."
      )
    _check_box_augment(f'datasets.{name}', dataset.augment or experiment.augment)


def _check_box_augment(path: str, augment: 'AugmentConfig') -> None:
  moving = {
    'rand_augment': augment.rand_augment.num_layers > 0,
    'mix.mixup_alpha': augment.mix.mixup_alpha > 0,
    'mix.cutmix_alpha': augment.mix.cutmix_alpha > 0,
  }
  on = [name for name, active in moving.items() if active]
  if on:
    raise ConfigError(
      f'`{path}` has boxes, but its augmentation has {", ".join(on)} on, which boxes do not follow. '
      f'Give it an augmentation of its own in `{path}.augment`.'
    )


def _check_mixture(experiment: 'Experiment') -> None:
  sampling, weights = experiment.mixture.sampling, experiment.weights
  if weights and set(weights) != set(experiment.datasets):
    raise ConfigError(
      f'`weight` is set for {sorted(weights)} of the datasets {sorted(experiment.datasets)}: give '
      'each one a weight, or none.'
    )
  if weights and sampling not in ('weighted', 'mixed'):
    raise ConfigError(
      f'The datasets have weights, {weights}, but `mixture.sampling` {sampling!r} has no use for '
      "them: leave them out, or set 'weighted' or 'mixed'."
    )
  if not experiment.mixture.mixed:
    return
  first, *others = experiment.datasets
  for name in others:
    for key in ('frames', 'crop', 'repeats'):
      a, b = (getattr(experiment.datasets[n].clip, key) for n in (first, name))
      if a != b:
        raise ConfigError(
          f"`mixture.sampling` is 'mixed', but `datasets.{first}.clip.{key}` is {a} and "
          f'`datasets.{name}.clip.{key}` {b}: clips of one batch have one shape.'
        )
  for name, dataset in experiment.datasets.items():
    for key in ('batch_size', 'augment', 'boxes'):
      if getattr(dataset, key):
        raise ConfigError(
          f"`datasets.{name}.{key}` is set, but with `mixture.sampling='mixed'` a batch has "
          'examples of all datasets: unset it.'
        )


def _check_metrics(experiment: 'Experiment') -> None:
  best = experiment.checkpoint.best_metric
  if best and best not in experiment.eval_metrics:
    raise ConfigError(
      f'`checkpoint.best_metric` is {best!r}, but the evaluation gives {experiment.eval_metrics}.'
    )
  for metric, names in experiment.evaluation.joint_tasks.items():
    _check_joint(experiment, metric, names)


def _check_joint(experiment: 'Experiment', metric: str, names: tuple[str, ...]) -> None:
  path = f'evaluation.joint_tasks.{metric}'
  if metric in experiment.tasks:
    raise ConfigError(f'`{path}` has the name of a task: choose another.')
  for name in names:
    if name not in experiment.tasks or experiment.tasks[name].loss != 'softmax':
      raise ConfigError(
        f'`{path}` names {name!r}, which is not a softmax task; `tasks` has '
        f'{sorted(experiment.tasks)}.'
      )
  owners = {experiment.tasks[name].dataset for name in names}
  if len(owners) > 1:
    raise ConfigError(f'`{path}` joins tasks of several datasets, {sorted(owners)}.')


def _check_host_patches(experiment: 'Experiment') -> None:
  if 'tubelet' not in experiment.trunk.arguments:
    raise ConfigError(
      f'`host_patches`: {experiment.trunk.name} has no `trunk.tubelet` to cut: unset it.'
    )
  for path, augment in _augmentations(experiment).items():
    needs_frames = {
      "color_jitter (where='host' will do)": augment.color_jitter.active('device'),
      'rand_augment': augment.rand_augment.num_layers > 0,
      'random_erasing': augment.random_erasing.prob > 0,
      'mix.cutmix_alpha': augment.mix.cutmix_alpha > 0,
    }
    on = [f'{path}.{name}' for name, active in needs_frames.items() if active]
    if on:
      raise ConfigError(
        f'`host_patches` is set, but {", ".join(on)} needs whole frames on the device. Switch it '
        'off, or unset `host_patches`.'
      )


def _augmentations(experiment: 'Experiment') -> Mapping[str, 'AugmentConfig']:
  """Path in the config -> augmentation, of all there are."""
  own = {
    f'datasets.{name}.augment': d.augment for name, d in experiment.datasets.items() if d.augment
  }
  return {'augment': experiment.augment, **own}
