"""MultiTrain on Kinetics-700, MiT, Something-Something v2 and ActivityNet, 224 px.

Table 2: K700 75.8 %, MiT 42.2, SSv2 69.1, ActivityNet 88.1.

  python main.py --config=configs/multitrain/k700_mit_ssv2_anet.py --workdir=runs/multitrain_k700 \
      --config.init_from.path=runs/k700_32x3
"""

from ml_collections import ConfigDict

from configs.common import parse_arg
from configs.multitrain import common


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `variant=paper` or `released`."""
  choice = parse_arg(arg, variant='paper')
  return common.experiment('k700_mit_ssv2_anet', common.K700, **choice)
