"""MultiTrain without the informative loss, projections with losses of their own instead of added.

Table 3: K400 80.4 %, MiT 38.7, SSv2 62.6, ActivityNet 86.5.

  python main.py --config=configs/multitrain/no_projection_add.py --workdir=runs/no_projection_add \
      --config.init_from.path=runs/k400_32x3
"""

from ml_collections import ConfigDict

from configs.common import parse_arg
from configs.multitrain import common


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `variant=paper` or `released`."""
  choice = parse_arg(arg, variant='paper')
  return common.experiment('no_projection_add', common.K400, 'no_projection_add', **choice)
