"""Vanilla multi-dataset training: heads on one trunk, cross-entropy alone.

Table 3: K400 80.1 %, MiT 33.4, SSv2 60.8, ActivityNet 86.5; with `:epochs=200` 80.6, 35.1, 56.8, 86.3.

  python main.py --config=configs/multitrain/vanilla.py --workdir=runs/vanilla \
      --config.init_from.path=runs/k400_32x3
"""

from ml_collections import ConfigDict

from configs.common import parse_arg
from configs.multitrain import common


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `variant=...` and `epochs=...`."""
  choice = parse_arg(arg, variant='paper', epochs=common.EPOCHS)
  return common.experiment('vanilla', common.K400, 'vanilla', **choice)
