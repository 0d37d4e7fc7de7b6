"""What the co-finetuning experiments share: arXiv:2207.03807, sections 4.1 and A.1."""

from typing import Any

from ml_collections import ConfigDict

from configs import common
from configs.vivit import common as vivit

# Epochs of all models, and of models finetuned on one detection dataset (A.1).
EPOCHS, FINETUNE_EPOCHS = 15, 20

DETECTION: dict[str, dict[str, Any]] = {
  # Boxes of the Faster R-CNN of Long-Term Feature Banks.
  'ava': {'train': 'detected', 'train_min_score': 0.8, 'eval_min_score': 0.8},
  # Boxes of the CenterNet of the AVA-Kinetics paper.
  'ava_kinetics': {'train': 'annotated', 'eval_min_score': 0.2},
}


def experiment(
  name: str,
  datasets: tuple[str, ...],
  size: str = 'B',
  side: int = 224,
  sampling: str = 'weighted',
  epochs: int = EPOCHS,
) -> ConfigDict:
  """A ViViT Factorised Encoder trained on the datasets together.

  Args:
    name: of the config file.
    datasets: names in `datasets.catalogue`; those in `DETECTION` train a head on boxes.
    size: of the trunk, a key of `common.VIT_SIZES`.
    side: px of the longer side of the input; the shorter one is padded with zeros (section A.2).
    sampling: how minibatches are drawn (section 3.2, Table 4).
    epochs: one is the sum of the sizes of all datasets (section 4.1).
  """
  config = ConfigDict()
  config.name = f'cofinetune/{name}'
  config.seed = 0
  config.batch_size = 128
  config.duration = f'{epochs} epochs'
  config.compute_dtype = 'bfloat16'
  config.trunk = vivit.trunk(size, 'factorised_encoder', stochastic_depth=0.2)
  # A box, and the mean of all tokens, see time only if the tokens do (projects/cofinetune/README.md).
  config.trunk.temporal_context = 'frame'
  config.datasets = {dataset: _dataset(dataset, side) for dataset in datasets}
  config.tasks = {dataset: _task(dataset) for dataset in datasets}
  config.objective = common.weighted_sum_objective()
  config.pixels = common.CENTRED_PIXELS
  config.augment = common.no_augmentation()
  config.optimizer = common.sgd_momentum(0.2, warmup='2.5 epochs')
  config.evaluation = common.evaluation('1 epoch', batch_size=64)
  first = datasets[0]
  best = f'mAP/{first}' if first in DETECTION else f'top1/{first}'
  config.checkpoint = {'every': '2000 steps', 'keep': 2, 'best_metric': best}
  config.log_every = '100 steps'
  config.init_from = common.from_scratch()
  config.update(common.machinery(loader_threads=16))
  config.mixture.sampling = sampling
  return config


def _dataset(name: str, side: int) -> dict[str, Any]:
  # 32 frames at stride 2, one view. Flips are ours: the paper names scale jitter and, for boxes, box
  # jitter alone. Something-Something v2 is not flipped: six of its classes say left or right.
  clip = common.clip(
    32,
    2,
    side,
    side,
    fit='pad',
    scale_jitter=(0.65, 1.1),
    flip_prob=0.0 if name == 'ssv2' else 0.5,
  )
  dataset = {
    'dir': f'data/{name}',
    'benchmark': name,
    'batch_size': 0,
    'weight': 0.0,
    'train_split': 'train',
    'eval_split': 'validation',
    'temporal_views': 1,
    'spatial_views': 1,
    'max_bad_records': 10,
    'clip': clip,
  }
  if name in DETECTION:
    clip.update({'sampling': 'keyframe', 'short_clip': 'hold'})
    dataset['boxes'] = common.boxes(64, jitter=0.15, **DETECTION[name])
  return dataset


def _task(name: str) -> ConfigDict:
  if name in DETECTION:
    # Trained on all 80 classes, evaluated on AVA's 60.
    return common.detection_task(
      name, label_smoothing=0.1, class_groups='ava', evaluated_classes='ava'
    )
  task = common.linear_task(name, label_smoothing=0.1)
  task.head.pooling = 'mean'  # Section 3.1: the mean of all encoded tokens.
  return task
