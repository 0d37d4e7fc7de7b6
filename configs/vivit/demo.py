"""A small ViViT (factorised encoder, Model 2) on the procedural demo data; two CPU cores suffice.

  python -m tools.make_demo_data --out=data/demo
  python main.py --config=configs/vivit/demo.py --workdir=runs/demo

`make demo` runs both. The argument picks another variant on the same data:
`configs/vivit/demo.py:attention=spacetime`, or `:temporal_layers=0` for the average-pool baseline.
"""

from ml_collections import ConfigDict

from configs import common
from configs.vivit import common as vivit


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `attention=...` and `temporal_layers=...`."""
  choice = common.parse_arg(arg, attention='factorised_encoder', temporal_layers=2)
  config = ConfigDict()
  config.name = 'vivit/demo'
  config.seed = 0
  config.batch_size = 32  # clips a step, over all devices
  config.duration = '1600 steps'  # or '32 epochs': every duration takes either
  config.log_every = '100 steps'
  config.compute_dtype = 'float32'  # 'bfloat16' on a GPU or TPU

  # Pixels -> tokens -> features. The name is an import path; the rest are its arguments.
  config.trunk = vivit.trunk('Ti', choice['attention'], choice['temporal_layers'])
  config.trunk.update(
    {'hidden_size': 64, 'num_layers': 3, 'num_heads': 4, 'mlp_dim': 128, 'tubelet': (4, 8, 8)}
  )

  # Where clips come from. Counts and class names are in the folder's manifest.
  config.datasets = {
    'demo': {
      'dir': 'data/demo',
      'benchmark': 'demo',
      'batch_size': 0,  # the experiment's
      'weight': 0.0,
      'train_split': 'train',
      'eval_split': 'test',
      'temporal_views': 4,
      'spatial_views': 1,
      'max_bad_records': 0,
      # No flips: one would turn "moves left" into "moves right".
      'clip': common.clip(8, 3, 32, 32, scale_jitter=(1.0, 1.15)),
    }
  }
  config.tasks = {'motion': common.linear_task('demo', 'motion')}
  config.objective = common.weighted_sum_objective()
  config.pixels = common.CENTRED_PIXELS
  config.augment = common.no_augmentation()
  config.optimizer = common.adamw(2e-3, warmup='50 steps', weight_decay=0.05)
  config.evaluation = common.evaluation('400 steps', batch_size=16)
  config.checkpoint = {'every': '400 steps', 'keep': 2, 'best_metric': 'top1/motion'}
  config.init_from = common.from_scratch()
  config.update(common.machinery(loader_threads=2))
  return config
