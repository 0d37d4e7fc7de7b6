"""MultiTrain on Kinetics-400, MiT, Something-Something v2 and ActivityNet, 224 px.

Tables 1 and 3: K400 81.9 %, MiT 41.7, SSv2 68.9, ActivityNet 87.4.

  python main.py --config=configs/multitrain/k400_mit_ssv2_anet.py --workdir=runs/multitrain_k400 \
      --config.init_from.path=runs/k400_32x3
"""

from ml_collections import ConfigDict

from configs.common import parse_arg
from configs.multitrain import common


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `variant=paper` or `released`."""
  choice = parse_arg(arg, variant='paper')
  return common.experiment('k400_mit_ssv2_anet', common.K400, **choice)
