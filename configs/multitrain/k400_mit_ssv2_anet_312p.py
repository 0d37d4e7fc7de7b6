"""MultiTrain on Kinetics-400, MiT, Something-Something v2 and ActivityNet, 312 px.

Table 1: K400 83.2 %, MiT 43.1, SSv2 69.3, ActivityNet 88.2.

  python main.py --config=configs/multitrain/k400_mit_ssv2_anet_312p.py --workdir=runs/multitrain_k400_312p \
      --config.init_from.path=runs/k400_32x3
"""

from ml_collections import ConfigDict

from configs.common import parse_arg
from configs.multitrain import common


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `variant=paper` or `released`."""
  choice = parse_arg(arg, variant='paper')
  return common.experiment('k400_mit_ssv2_anet_312p', common.K400, side=312, **choice)
