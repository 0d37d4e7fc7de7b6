"""UniFormerV2 in small: a little image ViT learns from stills, and is armed for video.

  python -m tools.make_demo_data --kind=scenes --out=data/demo_scenes
  python main.py --config=configs/uniformerv2/demo.py:data=stills --workdir=runs/stills
  python main.py --config=configs/uniformerv2/demo.py:data=motions,row=both --workdir=runs/motions \
    --config.init_from.path=runs/stills

`data` may also be `scenes`. The rows are those of Table 9a: `none` (the mean of the frames' class tokens),
`global`, `local`, `both`, and `both_tdown`, which sees twice the frames at half the resolution in time.
`make demo-uniformerv2` compares some of them.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common
from configs.uniformerv2 import trunks

CLIPS = 640  # of training, in either dataset of clips, as tools.make_demo_data writes them
IMAGES = 2400
BATCH = 16
SIDE = 32  # px
FRAMES = 8
DATA = 'data/demo_scenes'
EPOCHS = {'stills': 20, 'scenes': 16, 'motions': 16}

_LOCAL = {'temporal_module': 'local_mhra', 'local_repeats': 2}
_GLOBAL = {'global_layers': 2, 'output': 'fused'}
ROWS: dict[str, dict[str, Any]] = {
  'none': {},
  'global': _GLOBAL,
  'local': _LOCAL,
  'both': {**_LOCAL, **_GLOBAL},
  'both_tdown': {**_LOCAL, **_GLOBAL, 'temporal_downsampling': True},
}
"""Row of Table 9a -> what it has besides the image ViT."""

NEW = ('trunk/SpatialTransformer/*/local_*', 'trunk/global_*', 'trunk/query', 'trunk/fusion_*')
"""What an image ViT has no weights for."""


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `data=...`, `row=...` and `epochs=...` (0: the demo's).

  Raises:
    ValueError: other data, another row, a row for stills, or a negative number of epochs.
  """
  choice = common.parse_arg(arg, data='motions', row='both', epochs=0)
  data, row = choice['data'], choice['row']
  stills = data == 'stills'
  config = ConfigDict()
  config.name = f'uniformerv2/demo_{data}_{row}'
  config.seed = 0
  config.batch_size = 2 * BATCH if stills else BATCH
  config.duration = f'{choice["epochs"] or EPOCHS[data]} epochs'
  config.log_every = '20 steps'
  config.compute_dtype = 'float32'
  config.trunk = _trunk({} if stills else ROWS[row])
  config.datasets = {
    data: _dataset(data, 1 if stills else 2 * FRAMES if 'tdown' in row else FRAMES)
  }
  config.tasks = {data: common.linear_task(data, 'label')}
  config.objective = common.weighted_sum_objective()
  config.pixels = common.CENTRED_PIXELS
  config.augment = common.no_augmentation()
  config.optimizer = common.adamw(2e-3 if stills else 1e-3, warmup='1 epochs', weight_decay=0.05)
  config.evaluation = common.evaluation('never', batch_size=16)
  config.checkpoint = {'every': '500 steps', 'keep': 1, 'best_metric': ''}
  config.init_from = common.from_scratch()
  config.init_from.allow_new = NEW
  config.update(common.machinery(loader_threads=2))
  return config


def _trunk(changes: dict[str, Any]) -> ConfigDict:
  """The image ViT, and what arms it."""
  vit = {'hidden_size': 64, 'num_layers': 4, 'num_heads': 4, 'mlp_dim': 128, 'patch_size': 8}
  alone = {'global_layers': 0, 'output': 'class', 'global_dropout_rate': 0.0}
  return trunks.uniformerv2('Ti', **{**vit, **alone, **changes})


def _dataset(name: str, frames: int) -> dict[str, Any]:
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
    # No flips: one would turn "go left" into "go right".
    'clip': common.clip(
      frames, 1, SIDE, SIDE, sampling='segments', fit='pad', scale_jitter=(0.9, 1.1)
    ),
  }
