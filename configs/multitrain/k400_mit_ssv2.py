"""MultiTrain without ActivityNet: Kinetics-400, MiT and Something-Something v2.

Table 3, last row: K400 81.4 %, MiT 41.3, SSv2 68.7.

  python main.py --config=configs/multitrain/k400_mit_ssv2.py --workdir=runs/multitrain_no_anet \
      --config.init_from.path=runs/k400_32x3
"""

from ml_collections import ConfigDict

from configs.common import parse_arg
from configs.multitrain import common


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `variant=paper` or `released`."""
  choice = parse_arg(arg, variant='paper')
  return common.experiment('k400_mit_ssv2', common.K400[:3], **choice)
