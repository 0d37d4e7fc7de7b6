"""MultiTrain on Kinetics-700, MiT, Something-Something v2 and ActivityNet, 312 px.

Table 2: K700 76.3 %, MiT 43.5, SSv2 70.4, ActivityNet 89.1.

  python main.py --config=configs/multitrain/k700_mit_ssv2_anet_312p.py --workdir=runs/multitrain_k700_312p \
      --config.init_from.path=runs/k700_32x3
"""

from ml_collections import ConfigDict

from configs.common import parse_arg
from configs.multitrain import common


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `variant=paper` or `released`."""
  choice = parse_arg(arg, variant='paper')
  return common.experiment('k700_mit_ssv2_anet_312p', common.K700, side=312, **choice)
