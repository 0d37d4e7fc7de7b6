"""Helpers that configs share: image ViT sizes and the parts every experiment has."""

import re
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

# Size -> width, depth, heads and MLP width of the image ViTs (arXiv:2010.11929, Table 1; Ti and S
# from arXiv:2012.12877).
VIT_SIZES = {
  'Ti': {'hidden_size': 192, 'num_layers': 12, 'num_heads': 3, 'mlp_dim': 768},
  'S': {'hidden_size': 384, 'num_layers': 12, 'num_heads': 6, 'mlp_dim': 1536},
  'B': {'hidden_size': 768, 'num_layers': 12, 'num_heads': 12, 'mlp_dim': 3072},
  'L': {'hidden_size': 1024, 'num_layers': 24, 'num_heads': 16, 'mlp_dim': 4096},
  'H': {'hidden_size': 1280, 'num_layers': 32, 'num_heads': 16, 'mlp_dim': 5120},
}


# Parameters that weight decay leaves alone, as regular expressions over their paths.
NO_DECAY = ('/bias$', '/scale$', 'pos_embedding$', '(^|/)cls', '(^|/)log_sigma')


def parse_arg(arg: str, **defaults: Any) -> dict[str, Any]:
  """Reads the `key=value,key=value` after the colon of `--config=FILE:...`.

  Raises:
    ValueError: A key that is not among `defaults`, or a value of another type than its default.
  """
  values = dict(defaults)
  for item in filter(None, arg.split(',')):
    key, _, value = item.partition('=')
    if key not in defaults:
      raise ValueError(f'Unknown config argument {key!r}; known: {sorted(defaults)}.')
    kind = type(defaults[key])
    try:
      values[key] = kind(value)
    except ValueError:
      raise ValueError(f'{key}={value}: expected a value of type {kind.__name__}.') from None
  return values


def sgd_momentum(learning_rate: float, warmup: str) -> ConfigDict:
  """Synchronous SGD with momentum 0.9, cosine schedule and clipping at norm 1."""
  return ConfigDict(
    {
      'rule': {'name': 'optax:trace', 'decay': 0.9, 'nesterov': False},
      'learning_rate': learning_rate,
      'min_learning_rate': 0.0,
      'warmup': warmup,
      'schedule': 'cosine',
      'inactive_heads': 'freeze',
      'max_grad_norm': 1.0,
      'weight_decay': 0.0,
      'no_decay': NO_DECAY,
      'frozen': (),
      'layer_decay': 1.0,
      'multipliers': (),  # (pattern, factor of the learning rate)
    }
  )


def adamw(learning_rate: float, warmup: str, weight_decay: float) -> ConfigDict:
  """AdamW with cosine schedule and clipping at norm 1."""
  return ConfigDict(
    {
      'rule': {'name': 'optax:scale_by_adam', 'b1': 0.9, 'b2': 0.999, 'eps': 1e-8},
      'learning_rate': learning_rate,
      'min_learning_rate': 0.0,
      'warmup': warmup,
      'schedule': 'cosine',
      'inactive_heads': 'freeze',
      'max_grad_norm': 1.0,
      'weight_decay': weight_decay,
      'no_decay': NO_DECAY,
      'frozen': (),
      'layer_decay': 1.0,
      'multipliers': (),  # (pattern, factor of the learning rate)
    }
  )


def no_augmentation() -> ConfigDict:
  """Every augmentation of the compiled step, switched off."""
  return ConfigDict(
    {
      'color_jitter': {
        'prob': 0.0,
        'brightness': 32 / 255,
        'contrast': 0.4,
        'saturation': 0.4,
        'hue': 0.2,
        'grayscale_prob': 0.0,
        'where': 'device',  # or 'host'
      },
      'rand_augment': {
        'num_layers': 0,
        'magnitude': 0.0,
        'policy': 'autoaugment',
        'magnitude_std': 0.0,
        'op_prob': 1.0,
        'cutout_const': 40.0,
        'translate_const': 100.0,
      },
      'random_erasing': {
        'prob': 0.0,
        'mode': 'pixel',
        'area': (0.02, 1 / 3),
        'aspect': (0.3, 1 / 0.3),
        'count': 1,
      },
      'mix': {'mixup_alpha': 0.0, 'cutmix_alpha': 0.0, 'switch_prob': 0.5, 'prob': 1.0},
    }
  )


def rand_augment_from(text: str) -> dict[str, Any]:
  """RandAugment in timm's notation, to `update` `augment.rand_augment` with.

  `'rand-m7-n4-mstd0.5-inc1'` (MViTv2, UniFormerV2): magnitude 7 (default 10), 4 layers (default 2),
  deviation 0.5 of the magnitude (default 0), the operations that grow stronger with it. Only these
  parts are known, and `inc1` must be one of them.

  Raises:
    ValueError: Anything else.
  """
  name, *parts = text.split('-')
  values = {'m': '10', 'n': '2', 'mstd': '0', 'inc': '0'}
  for part in parts:
    found = re.fullmatch(r'([a-z]+)(\d+(?:\.\d+)?)', part)
    if not found or found[1] not in values:
      raise ValueError(f'Unknown part {part!r} in {text!r}; known: {sorted(values)} and a number.')
    values[found[1]] = found[2]
  if name != 'rand' or values['inc'] != '1':
    raise ValueError(f"{text!r} must begin with 'rand-' and contain 'inc1'.")
  return {
    'num_layers': int(values['n']),
    'magnitude': float(values['m']),
    'policy': 'increasing',
    'magnitude_std': float(values['mstd']),
    'op_prob': 0.5,
  }


def clip(frames: int, stride: int, resize: int, crop: int, **changes: Any) -> ConfigDict:
  """What to cut from a video: the whole clip group, so that every key can be overridden.

  Raises:
    ValueError: `changes` has a key that the group has not.
  """
  group = ConfigDict(
    {
      'frames': frames,
      'stride': stride,
      'resize': resize,
      'crop': crop,
      'sampling': 'dense',
      'fps': 0.0,
      'fit': 'crop',
      'resize_jitter': placeholder(tuple),
      'scale_jitter': placeholder(tuple),
      'scale_jitter_prob': 1.0,
      'random_crop': 'uniform',
      'crop_area': (0.08, 1.0),
      'crop_aspect': (3 / 4, 4 / 3),
      'flip_prob': 0.0,
      'flip_swap': (),
      'repeats': 1,
      'short_clip': 'loop',
    }
  )
  return changed(group, changes, 'clip')


def changed(group: ConfigDict, changes: dict[str, Any], name: str) -> ConfigDict:
  """The group with changes.

  Raises:
    ValueError: `changes` has a key that the group has not.
  """
  unknown = set(changes) - set(group)
  if unknown:
    raise ValueError(f'Unknown {name} keys {sorted(unknown)}; known: {sorted(group)}.')
  group.update(changes)
  return group


def linear_task(dataset: str, labels: str = 'label', label_smoothing: float = 0.0) -> ConfigDict:
  """A linear classifier trained with a softmax loss."""
  return ConfigDict(
    {
      'dataset': dataset,
      'labels': labels,
      'head': {
        'name': 'models.heads:LinearHead',
        'pooling': 'trunk',  # 'mean': over the tokens
        'representation_size': placeholder(int),  # width of a tanh layer before the classes
        'dropout_rate': 0.0,
        'kernel_init': 'zeros',
        'bias_init': 0.0,
      },
      'loss': 'softmax',
      'label_smoothing': label_smoothing,
      'weight': 1.0,
    }
  )


def detection_task(
  dataset: str,
  labels: str = 'label',
  label_smoothing: float = 0.0,
  class_groups: str = '',
  evaluated_classes: str = '',
) -> ConfigDict:
  """A classifier of the actions of people in boxes, scored as AVA is."""
  return ConfigDict(
    {
      'dataset': dataset,
      'labels': labels,
      'head': {
        'name': 'models.heads:DetectionHead',
        'output_size': (7, 7),
        'sampling_ratio': 0,
        'aligned': True,
        'pool': 'max',
        'representation_size': placeholder(int),
        'dropout_rate': 0.0,
        'kernel_init': 'zeros',
        'bias_init': 0.0,
      },
      'loss': 'sigmoid',
      'label_smoothing': label_smoothing,
      'weight': 1.0,
      'protocol': {
        'name': 'projects.cofinetune.frame_map:FrameMAP',
        'iou': 0.5,
        'class_groups': class_groups,
        'evaluated_classes': evaluated_classes,
      },
    }
  )


def boxes(max_boxes: int, **changes: Any) -> ConfigDict:
  """Which boxes of a keyframe are trained on and evaluated: the whole group.

  Raises:
    ValueError: `changes` has a key that the group has not.
  """
  group = ConfigDict(
    {
      'max_boxes': max_boxes,
      'train': 'detected',
      'train_min_score': 0.8,
      'eval_min_score': 0.8,
      'min_iou': 0.5,
      'jitter': 0.15,
    }
  )
  return changed(group, changes, 'boxes')


def evaluation(every: str, batch_size: int) -> ConfigDict:
  """When to evaluate and how: the whole group, so that every key can be overridden."""
  return ConfigDict(
    {
      'every': every,
      'batch_size': batch_size,
      'average': 'logits',  # or 'probabilities', over a video's views
      'joint_tasks': {},
      'pictures': True,
    }
  )


def weighted_sum_objective() -> ConfigDict:
  """The weighted sum of the tasks' losses."""
  return ConfigDict({'name': 'train_lib.objective:WeightedSum'})


def machinery(loader_threads: int) -> ConfigDict:
  """How a run is laid out, fed and watched, whatever it trains: the whole set, to be overridden."""
  return ConfigDict(
    {
      'mixture': {'sampling': 'weighted', 'allow_overlap': False},
      'mesh': {'data': -1, 'fsdp': 1, 'tensor': 1},
      'grad_accumulation': 1,
      'ema_decay': 0.0,
      'host_patches': False,
      'loader_threads': loader_threads,
      'loader_processes': 0,
      'log_examples': False,
      'max_skipped_steps': 0,
    }
  )


def from_scratch() -> ConfigDict:
  """No weights to start from; set `init_from.path` to a file."""
  return ConfigDict(
    {
      'path': '',
      'kernel_inflation': 'central_frame',
      'position_embedding': 'auto',
      'position_resize': 'scenic',
      'class_token': 'copy',
      'init_temporal_attention': False,
      'load_head': False,
      'unmatched_classes': 'error',  # or 'new': those without a row start at random
      'class_synonyms': '',  # csv name,label: what the checkpoint calls otherwise
      'allow_new': (),
      'allow_skipped': (),
    }
  )


# Inputs in [-1, 1], as ViT and ViViT take them.
CENTRED_PIXELS = {'mean': (0.5, 0.5, 0.5), 'std': (0.5, 0.5, 0.5)}
