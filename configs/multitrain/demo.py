"""MultiTrain in small: three datasets whose classes overlap under other names and other looks.

  python -m tools.make_demo_data --kind=relations --out=data/demo_relations
  python main.py --config=configs/multitrain/demo.py --workdir=runs/multitrain
  python -m projects.multitrain.relations --checkpoint=runs/multitrain

`make demo-multitrain` compares it with vanilla training (`:objective=vanilla`). Other rows of Table 3
are `no_informative`, `no_projection_add` and `no_projection`; `:variant=released` is what the authors'
code does. The method takes any trunk (section 3): this one is a small ViViT, several times as fast on
CPUs as the MViTv2 of `:trunk=mvit`.
"""

from ml_collections import ConfigDict

from configs import common
from configs.multitrain import common as multitrain
from configs.multitrain import trunks
from configs.vivit import common as vivit

EPOCHS = 16
SIDE = 48  # px
DATA = 'data/demo_relations'
DATASETS = ('blocks', 'stars', 'comets')
WIDTH = 64  # of the expander and of the heads' hidden layer


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `objective=...`, `variant=...`, `trunk=...` and `epochs=...`.

  Raises:
    ValueError: Another trunk than 'vivit' and 'mvit', or another objective or variant.
  """
  choice = common.parse_arg(
    arg, objective='multitrain', variant='paper', epochs=EPOCHS, trunk='vivit'
  )
  config = ConfigDict()
  config.name = f'multitrain/demo_{choice["objective"]}'
  config.seed = 0
  config.batch_size = 24
  config.duration = f'{choice["epochs"]} epochs'
  config.log_every = '50 steps'
  config.compute_dtype = 'float32'
  config.trunk = _trunk(choice['trunk'])
  config.datasets = {name: _dataset(name) for name in DATASETS}
  config.tasks = {name: _task(name) for name in DATASETS}
  row = multitrain.row(choice['objective'])
  config.objective = multitrain.objective(choice['variant'], expander_size=WIDTH, **row)
  config.pixels = multitrain.PIXELS
  config.augment = common.no_augmentation()
  config.optimizer = multitrain.adamw(2e-3, warmup='2 epochs')
  config.evaluation = common.evaluation('never', batch_size=16)
  config.evaluation.average = 'probabilities'
  config.checkpoint = {'every': '500 steps', 'keep': 1, 'best_metric': ''}
  config.init_from = common.from_scratch()
  config.update(common.machinery(loader_threads=2))
  config.mixture.sampling = 'mixed'
  return config


def _trunk(name: str) -> ConfigDict:
  if name == 'vivit':
    trunk = vivit.trunk('Ti', 'factorised_encoder', 2)
    sizes = {
      'hidden_size': 64,
      'num_layers': 3,
      'num_heads': 4,
      'mlp_dim': 128,
      'tubelet': (4, 8, 8),
    }
    trunk.update(sizes)
    return trunk
  if name != 'mvit':
    raise ValueError(f"Unknown trunk {name!r}: 'vivit' or 'mvit'.")
  trunk = trunks.mvit('16x4')
  # Tokens of 4 x 6 x 6, then 4 x 3 x 3. XLA's 3-D convolution is slow on CPUs: few, large patches.
  trunk.update(
    {
      'hidden_sizes': (48, 96),
      'num_layers': (1, 2),
      'num_heads': (2, 4),
      'query_strides': ((1, 1, 1), (1, 2, 2)),
      'key_value_strides': ((1, 2, 2), (1, 1, 1)),
      'patch_kernel': (3, 9, 9),
      'patch_stride': (2, 8, 8),
    }
  )
  return trunk


def _dataset(name: str) -> dict:
  # No flips: one would turn "slides left" into "slides right".
  return {
    'dir': f'{DATA}/{name}',
    'benchmark': '',
    'batch_size': 0,
    'weight': 0.0,
    'train_split': 'train',
    'eval_split': 'test',
    'temporal_views': 1,
    'spatial_views': 1,
    'max_bad_records': 0,
    'clip': common.clip(8, 3, SIDE, SIDE, fit='pad', scale_jitter=(0.9, 1.1)),
  }


def _task(name: str) -> ConfigDict:
  task = multitrain.mlp_task(name, 'action')
  task.head.update({'hidden_size': WIDTH, 'dropout_rate': 0.0})
  return task
