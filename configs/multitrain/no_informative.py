"""MultiTrain without the informative loss: cross-entropy of added projections.

Table 3: K400 13.5 %, MiT 7.3, SSv2 9.7, ActivityNet 24.8: "not trained at all".

  python main.py --config=configs/multitrain/no_informative.py --workdir=runs/no_informative \
      --config.init_from.path=runs/k400_32x3
"""

from ml_collections import ConfigDict

from configs.common import parse_arg
from configs.multitrain import common


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `variant=paper` or `released`."""
  choice = parse_arg(arg, variant='paper')
  return common.experiment('no_informative', common.K400, 'no_informative', **choice)
