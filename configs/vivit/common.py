"""What the ViViT experiments share: trunks, and each dataset's recipe from the paper's Table 7."""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common

# Table 7 of ViViT (arXiv:2103.15691), a column a dataset. `clip_norm` and the strengths of the
# colour jitter are not in the paper; they are those of its released configs.
RECIPES: dict[str, dict[str, Any]] = {
  'kinetics400': {'learning_rate': 0.1, 'epochs': 30, 'color_jitter': 0.8},
  'kinetics600': {'learning_rate': 0.1, 'epochs': 30, 'color_jitter': 0.8},
  'moments_in_time': {'learning_rate': 0.25, 'epochs': 10, 'color_jitter': 0.8},
  'epic_kitchens': {
    'learning_rate': 0.5,
    'epochs': 50,
    'rand_augment': (2, 15),
    'stochastic_depth': 0.2,
    'label_smoothing': 0.2,
    'mixup': 0.1,
  },
  'ssv2': {
    'learning_rate': 0.5,
    'epochs': 35,
    'rand_augment': (2, 20),
    'stochastic_depth': 0.3,
    'label_smoothing': 0.3,
    'mixup': 0.3,
  },
}

# Class tokens where the published parameter and FLOP counts have them (Table 2).
_POOLING = {
  'spacetime': 'token',
  'factorised_encoder': 'token',
  'factorised_self_attention': 'mean',
  'factorised_dot_product': 'mean',
}


def trunk(
  size: str, attention: str, temporal_layers: int = 4, stochastic_depth: float = 0.0
) -> ConfigDict:
  """A ViViT trunk with 16 x 16 x 2 tubelets; `temporal_layers` is Lt of Model 2 (0: average pool).

  Raises:
    ValueError: `attention` is none of the paper's models.
  """
  if attention not in _POOLING:
    raise ValueError(f'Unknown attention {attention!r}; known: {sorted(_POOLING)}.')
  # With 24 and 32 layers a program of one block compiles several times faster, and what the backward
  # pass would keep of every layer is more than a chip has (32 GiB of a clip in ViViT-L Model 1).
  large = size in ('L', 'H')
  config = ConfigDict(
    {
      'name': 'models.vivit:ViViT',
      **common.VIT_SIZES[size],
      'tubelet': (2, 16, 16),
      'attention': attention,
      'attention_kernel': 'auto',
      'pooling': _POOLING[attention],
      'stochastic_depth_rate': stochastic_depth,
      'dropout_rate': 0.0,
      'attention_dropout_rate': 0.0,
      'tokeniser': 'tubelet',
      'num_sampled_frames': placeholder(int),
      'position_grid': placeholder(tuple),  # needed if datasets differ in frames or size
      'kernel_init_method': 'lecun_normal',
      'gelu': 'tanh',
      'layer_norm_epsilon': 1e-6,
      'remat': 'full' if large else 'none',
      'scan_layers': large,
    }
  )
  if attention == 'factorised_encoder':
    config.temporal_num_layers = temporal_layers
    config.temporal_num_heads = placeholder(int)  # None: as the spatial encoder's
    config.temporal_mlp_dim = placeholder(int)
    config.temporal_context = 'none'  # 'frame' for heads that read the tokens
  if attention == 'factorised_self_attention':
    config.attention_order = 'space_time'
    config.temporal_attention_init = 'zeros'
  return config


def experiment(
  name: str,
  dataset: str,
  size: str,
  attention: str,
  temporal_layers: int = 4,
  crop: int = 224,
  spatial_views: int = 1,
) -> ConfigDict:
  """One run of the paper: a trunk trained on a dataset by its column of Table 7."""
  recipe = RECIPES[dataset]
  config = ConfigDict()
  config.name = f'vivit/{name}'
  config.seed = 0
  config.batch_size = 64
  config.duration = f'{recipe["epochs"]} epochs'
  config.compute_dtype = 'bfloat16'
  config.trunk = trunk(size, attention, temporal_layers, recipe.get('stochastic_depth', 0.0))
  config.datasets = {dataset: _dataset(dataset, crop, spatial_views)}
  config.tasks = _tasks(dataset, recipe.get('label_smoothing', 0.0))
  config.objective = common.weighted_sum_objective()
  config.pixels = common.CENTRED_PIXELS
  config.augment = common.no_augmentation()
  config.augment.color_jitter.prob = recipe.get('color_jitter', 0.0)
  layers, magnitude = recipe.get('rand_augment', (0, 0))
  config.augment.rand_augment.update({'num_layers': layers, 'magnitude': float(magnitude)})
  config.augment.mix.mixup_alpha = recipe.get('mixup', 0.0)
  config.optimizer = common.sgd_momentum(recipe['learning_rate'], warmup='2.5 epochs')
  config.evaluation = common.evaluation('5 epochs', batch_size=64)
  main_metric = f'top1/{dataset}'
  if dataset == 'epic_kitchens':
    config.evaluation.joint_tasks = {'action': ('verb', 'noun')}
    main_metric = 'top1/action'
  config.checkpoint = {'every': '1 epoch', 'keep': 2, 'best_metric': main_metric}
  config.log_every = '100 steps'
  config.init_from = common.from_scratch()
  config.update(common.machinery(loader_threads=16))
  return config


def _dataset(name: str, crop: int, spatial_views: int) -> dict[str, Any]:
  # Clips are 32 frames at stride 2 (section 4.1); the shorter side is 256 for crops of 224.
  return {
    'dir': f'data/{name}',
    'benchmark': name,
    'batch_size': 0,
    'weight': 0.0,
    'train_split': 'train',
    'eval_split': 'validation',
    'temporal_views': 4,
    'spatial_views': spatial_views,
    'max_bad_records': 10,
    'clip': common.clip(
      32,
      2,
      round(crop * 256 / 224),
      crop,
      scale_jitter=(0.9, 1.33),
      # Table 7 flips everywhere, but six classes of Something-Something v2 say left or right.
      flip_prob=0.0 if name == 'ssv2' else 0.5,
    ),
  }


def _tasks(dataset: str, label_smoothing: float) -> dict[str, ConfigDict]:
  if dataset == 'epic_kitchens':
    return {part: common.linear_task(dataset, part, label_smoothing) for part in ('verb', 'noun')}
  return {dataset: common.linear_task(dataset, 'label', label_smoothing)}


def set_encoding(config: ConfigDict, encoding: str) -> None:
  """Chooses how a clip becomes tokens and how the kernel starts (Table 1, 8 temporal tokens).

  Args:
    config: From `experiment`; changed in place.
    encoding: `'central_frame'` or `'average'` (tubelets of 4 frames, kernel inflated from the image
      model by Eq. 9 or 8), `'random'` (the same tubelets, kernel trained from scratch), or
      `'uniform_frames'` (8 sampled frames cut into 2-D patches: as many tokens).

  Raises:
    ValueError: Another encoding.
  """
  config.trunk.tubelet = (1 if encoding == 'uniform_frames' else 4, 16, 16)
  if encoding in ('central_frame', 'average'):
    config.init_from.kernel_inflation = encoding
  elif encoding == 'random':
    config.init_from.kernel_inflation = 'none'
  elif encoding == 'uniform_frames':
    config.trunk.tokeniser = 'uniform_frames'
    config.trunk.num_sampled_frames = 8
  else:
    raise ValueError(
      f"Unknown encoding {encoding!r}: 'central_frame', 'average', 'random' or 'uniform_frames'."
    )
