"""ViViT's ablations in small: an image ViT learns from stills, and ViViTs start from it on clips.

  make ablations-vivit
  python main.py --config=configs/vivit/demo_ablations.py:data=stills --workdir=runs/stills
  python main.py --config=configs/vivit/demo_ablations.py:attention=spacetime --workdir=runs/spacetime \
    --config.init_from.path=runs/stills

A run learns *motions*, those of `make demo`, which neighbouring frames tell apart, and the *scenes* of
`datasets/demo_scenes.py`, of which only frames far apart do, at once with a head for each. `attention` is one of
the paper's models; `sweeps/vivit.py` has the rows of Tables 1 to 3 and writes the data.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common
from configs.vivit import common as vivit

EPOCHS = 6  # of motions and scenes
STILLS_EPOCHS = 8
SIDE = 32  # px, 4 x 4 tokens
FRAMES = 12  # every second of a clip's 24 or 25
DATA = 'data/ablations_vivit'

_LABELS = {'stills': 'label', 'motions': 'motion', 'scenes': 'label'}


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `data=stills`, and of clips `attention=...` and `epochs=...`.

  Raises:
    ValueError: other data, or less than two epochs, of which one warms up.
  """
  choice = common.parse_arg(arg, data='clips', attention='factorised_encoder', epochs=EPOCHS)
  if choice['data'] not in ('stills', 'clips'):
    raise ValueError(f"Unknown data {choice['data']!r}; known: ['clips', 'stills'].")
  if choice['epochs'] < 2:
    raise ValueError(f'`epochs` is {choice["epochs"]}: expected at least 2.')
  stills = choice['data'] == 'stills'
  names = ('stills',) if stills else ('motions', 'scenes')
  attention = 'spacetime' if stills else choice['attention']
  config = ConfigDict()
  config.name = f'vivit/demo_ablations_{"stills" if stills else attention}'
  config.seed = 0
  config.batch_size = 32
  config.duration = f'{STILLS_EPOCHS if stills else choice["epochs"]} epochs'
  config.log_every = '20 steps'
  config.compute_dtype = 'float32'
  config.trunk = vivit.trunk('Ti', attention, temporal_layers=2)
  config.trunk.update({'hidden_size': 64, 'num_layers': 3, 'num_heads': 4, 'mlp_dim': 128})
  config.trunk.tubelet = (2, 8, 8)
  if stills:  # Patches of an image, whose kernel is one that may be inflated.
    config.trunk.update(
      {'tokeniser': 'uniform_frames', 'num_sampled_frames': 1, 'tubelet': (1, 8, 8)}
    )
  config.datasets = {name: _dataset(name, 1 if stills else FRAMES) for name in names}
  config.tasks = {name: common.linear_task(name, _LABELS[name]) for name in names}
  config.objective = common.weighted_sum_objective()
  config.pixels = common.CENTRED_PIXELS
  config.augment = common.no_augmentation()
  config.optimizer = common.adamw(2e-3, warmup='1 epochs', weight_decay=0.05)
  config.evaluation = common.evaluation('never', batch_size=16)
  config.checkpoint = {'every': '500 steps', 'keep': 1, 'best_metric': ''}
  config.init_from = common.from_scratch()
  config.update(common.machinery(loader_threads=2))
  config.mixture.sampling = 'weighted' if stills else 'mixed'  # One program for both.
  return config


def _dataset(name: str, frames: int) -> dict[str, Any]:
  # No flips: one would turn "go left" into "go right".
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
    'clip': common.clip(
      frames, 2 if frames > 1 else 1, SIDE, SIDE, fit='pad', scale_jitter=(0.9, 1.1)
    ),
  }
