"""A ViViT on your own videos: records of `tools.build_records`, or a folder of videos as it is.

  python main.py --config=configs/vivit/own_videos.py --workdir=runs/own \
      --config.datasets.own.dir=data/own --config.init_from.path=ViT-B_16.npz

`configs/vivit/own_videos.py:size=Ti` is small enough for a CPU. Class names and counts come from
the data. Training starts from random parameters unless `init_from.path` names weights: with few
videos, name some. docs/data.md shows the way here.
"""

from ml_collections import ConfigDict

from configs import common
from configs.vivit import common as vivit


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `size=Ti|S|B|L`, `frames=...` and `crop=...` (px)."""
  choice = common.parse_arg(arg, size='B', frames=16, crop=224)
  frames, crop = choice['frames'], choice['crop']
  config = ConfigDict()
  config.name = 'vivit/own_videos'
  config.seed = 0
  config.batch_size = 8
  config.duration = '20 epochs'
  config.log_every = '1 epoch'
  config.compute_dtype = 'bfloat16'
  config.trunk = vivit.trunk(choice['size'], 'factorised_encoder')
  config.datasets = {
    'own': {
      'dir': 'data/own',
      'benchmark': '',
      'batch_size': 0,
      'weight': 0.0,
      'train_split': 'train',
      'eval_split': 'test',
      'temporal_views': 4,
      'spatial_views': 1,
      'max_bad_records': 10,
      'clip': common.clip(
        frames, 2, round(crop * 8 / 7), crop, scale_jitter=(0.9, 1.33), flip_prob=0.5
      ),
    }
  }
  config.tasks = {'label': common.linear_task('own')}
  config.objective = common.weighted_sum_objective()
  config.pixels = common.CENTRED_PIXELS
  config.augment = common.no_augmentation()
  config.augment.color_jitter.prob = 0.8
  config.optimizer = common.adamw(1e-4, warmup='1 epoch', weight_decay=0.05)
  config.evaluation = common.evaluation('5 epochs', batch_size=8)
  config.checkpoint = {'every': '5 epochs', 'keep': 2, 'best_metric': 'top1/label'}
  config.init_from = common.from_scratch()
  config.update(common.machinery(loader_threads=4))
  return config
