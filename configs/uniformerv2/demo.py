"""UniFormerV2 in small: an image ViT learns from stills, and is armed for motions and scenes.

  python -m tools.make_demo_data --kind=scenes --out=data/demo_scenes
  python main.py --config=configs/uniformerv2/demo.py:data=stills --workdir=runs/stills
  python main.py --config=configs/uniformerv2/demo.py:data=motions,row=local --workdir=runs/motions \
    --config.init_from.path=runs/stills

`data` may also be `scenes`. The rows are those of Table 9a: `none` (the mean of the frames' class tokens),
`global`, `local`, `both`, and `both_tdown`, which sees twice the frames and halves their number in the patch
embedding. `make demo-uniformerv2` compares `global` with `local`.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common
from configs.uniformerv2 import trunks

EPOCHS = 7  # of motions and scenes
STILLS_EPOCHS = 8
SIDE = 32  # px
FRAMES = 8
DATA = 'data/demo_scenes'

_LOCAL = {'temporal_module': 'local_mhra', 'local_repeats': 2}
_GLOBAL = {'global_layers': 2, 'output': 'fused', 'global_dropout_rate': 0.0}
ROWS: dict[str, dict[str, Any]] = {
  'none': {},
  'global': _GLOBAL,
  'local': _LOCAL,
  'both': {**_LOCAL, **_GLOBAL},
  'both_tdown': {**_LOCAL, **_GLOBAL, 'temporal_downsampling': True},
}
"""Row of Table 9a -> what it has besides the image ViT."""

# Dataset -> batch size, learning rate, frames.
_TRAINING = {'stills': (32, 2e-3, 1), 'motions': (16, 3e-3, FRAMES), 'scenes': (16, 3e-3, FRAMES)}


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `data=...`, and but for stills `row=...` and `epochs=...`.

  Raises:
    ValueError: other data, another row, or less than two epochs, of which one warms up.
  """
  choice = common.parse_arg(arg, data='motions', row='both', epochs=EPOCHS)
  data, row = choice['data'], choice['row']
  if data not in _TRAINING:
    raise ValueError(f'Unknown data {data!r}; known: {sorted(_TRAINING)}.')
  if row not in ROWS:
    raise ValueError(f'Unknown row {row!r}; known: {sorted(ROWS)}.')
  if choice['epochs'] < 2:
    raise ValueError(f'`epochs` is {choice["epochs"]}: expected at least 2.')
  stills = data == 'stills'
  batch_size, learning_rate, frames = _TRAINING[data]
  config = ConfigDict()
  config.name = f'uniformerv2/demo_{data}' if stills else f'uniformerv2/demo_{data}_{row}'
  config.seed = 0
  config.batch_size = batch_size
  config.duration = f'{STILLS_EPOCHS if stills else choice["epochs"]} epochs'
  config.log_every = '20 steps'
  config.compute_dtype = 'float32'
  config.trunk = _trunk(ROWS['none' if stills else row])
  name = 'stills' if stills else 'clips'  # One name for both: their programs are the same.
  config.datasets = {name: _dataset(data, frames * (1 + config.trunk.temporal_downsampling))}
  config.tasks = {name: common.linear_task(name)}
  config.objective = common.weighted_sum_objective()
  config.pixels = common.CENTRED_PIXELS
  config.augment = common.no_augmentation()
  config.optimizer = common.adamw(learning_rate, warmup='1 epochs', weight_decay=0.05)
  config.evaluation = common.evaluation('never', batch_size=16)
  config.checkpoint = {'every': '500 steps', 'keep': 1, 'best_metric': ''}
  config.init_from = common.from_scratch()
  config.update(common.machinery(loader_threads=2))
  return config


def _trunk(blocks: dict[str, Any]) -> ConfigDict:
  """The image ViT, and the blocks that arm it."""
  vit = {'hidden_size': 64, 'num_layers': 3, 'num_heads': 4, 'mlp_dim': 128, 'patch_size': 8}
  return trunks.uniformerv2('Ti', **{**vit, 'global_layers': 0, 'output': 'class', **blocks})


def _dataset(data: str, frames: int) -> dict[str, Any]:
  # No flips: one would turn "go left" into "go right". Sparse sampling, as the paper's.
  sampling = {'sampling': 'segments', 'scale_jitter': (0.9, 1.1)}
  return {
    'dir': f'{DATA}/{data}',
    'benchmark': '',
    'batch_size': 0,
    'weight': 0.0,
    'train_split': 'train',
    'eval_split': 'test',
    'temporal_views': 1,
    'spatial_views': 1,
    'max_bad_records': 0,
    'clip': common.clip(frames, 1, SIDE, SIDE, fit='pad', **sampling),
  }
