"""MultiTrain without projections: cross-entropy and the informative loss.

Table 3: K400 80.6 %, MiT 39.9, SSv2 61.5, ActivityNet 86.9.

  python main.py --config=configs/multitrain/no_projection.py --workdir=runs/no_projection \
      --config.init_from.path=runs/k400_32x3
"""

from ml_collections import ConfigDict

from configs.common import parse_arg
from configs.multitrain import common


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `variant=paper` or `released`."""
  choice = parse_arg(arg, variant='paper')
  return common.experiment('no_projection', common.K400, 'no_projection', **choice)
