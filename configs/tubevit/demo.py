"""TubeViT in small: images and clips that show the same things, trained jointly.

  python -m tools.make_demo_data --kind=tubes --out=data/demo_tubes
  python main.py --config=configs/tubevit/demo.py --workdir=runs/tubevit

`make demo-tubevit` compares it with training on the clips alone, `:mode=video`, in as many steps of clips.
`:mode=dense` cuts clips into dense tubelets instead, without images; `benchmarks.tubevit` trains it with
as much compute.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common
from configs.tubevit import trunks

EPOCHS = 32  # of the clips
CLIPS = 320  # of training, as tools.make_demo_data writes them
BATCH = 16
SIDE = 48  # px
DATA = 'data/demo_tubes'

# The kernels of Table 3 with an image's patches of 8 x 8, for a clip of 16 x 48 x 48.
TUBES: dict[str, dict[str, Any]] = {
  'a': {'kernel': (8, 8, 8), 'stride': (8, 16, 16)},
  'b': {
    'kernel': (16, 4, 4),
    'stride': (16, 16, 16),
    'offset': (0, 4, 4),
    'space_to_depth': (1, 2, 2),
  },
  'c': {'kernel': (4, 12, 12), 'stride': (8, 16, 16)},
  'd': {'kernel': (1, 8, 8), 'stride': (8, 8, 8)},
}
DENSE = {'dense': {'kernel': (2, 8, 8), 'stride': (2, 8, 8)}}

MODES = {
  'joint': (('clips', 'images'), TUBES),
  'video': (('clips',), TUBES),
  'dense': (('clips',), DENSE),
}
"""Name -> datasets that take turns, and tubes."""


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `mode=...`, and `epochs=...` of the clips.

  Raises:
    ValueError: another mode, less than one epoch.
  """
  choice = common.parse_arg(arg, mode='joint', epochs=EPOCHS)
  if choice['mode'] not in MODES:
    raise ValueError(f'Unknown mode {choice["mode"]!r}; known: {sorted(MODES)}.')
  if choice['epochs'] < 1:
    raise ValueError(f'`epochs` is {choice["epochs"]}: expected at least 1.')
  names, tubes = MODES[choice['mode']]
  config = ConfigDict()
  config.name = f'tubevit/demo_{choice["mode"]}'
  config.seed = 0
  config.batch_size = BATCH
  config.log_every = '50 steps'
  config.compute_dtype = 'float32'
  sizes = {'hidden_size': 64, 'num_layers': 3, 'num_heads': 4, 'mlp_dim': 128}
  config.trunk = trunks.tubevit('Ti', tubes, **sizes)
  config.datasets = {name: _dataset(name) for name in names}
  config.tasks = {
    name: common.linear_task(name, 'action' if name == 'clips' else 'appearance') for name in names
  }
  config.objective = common.weighted_sum_objective()
  config.pixels = common.CENTRED_PIXELS
  config.augment = common.no_augmentation()
  config.optimizer = common.adamw(2e-3, warmup='', weight_decay=0.05)
  config.evaluation = common.evaluation('never', batch_size=16)
  config.checkpoint = {'every': '500 steps', 'keep': 1, 'best_metric': ''}
  config.init_from = common.from_scratch()
  config.update(common.machinery(loader_threads=2))
  config.mixture.sampling = 'alternating'
  set_steps(config, choice['epochs'] * CLIPS // BATCH)
  return config


def set_steps(config: ConfigDict, steps: int) -> None:
  """Trains on so many minibatches of clips, and on as many of images where there are any."""
  total = steps * len(config.datasets)
  config.duration = f'{total} steps'
  config.optimizer.warmup = f'{total // 20} steps'


def _dataset(name: str) -> dict[str, Any]:
  clips = name == 'clips'
  # No flips: one would turn "moves left" into "moves right". 16 frames at 8 a second span a clip of 25.
  changes = {'fps': 8.0, 'scale_jitter': (0.9, 1.1)} if clips else {}
  return {
    'dir': f'{DATA}/{name}',
    'benchmark': '',
    'batch_size': BATCH if clips else 2 * BATCH,
    'weight': 0.0,
    'train_split': 'train',
    'eval_split': 'test',
    'temporal_views': 1,
    'spatial_views': 1,
    'max_bad_records': 0,
    'clip': common.clip(16 if clips else 1, 1, SIDE, SIDE, fit='pad', **changes),
  }
