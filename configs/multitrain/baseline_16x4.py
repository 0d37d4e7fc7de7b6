"""MViTv2 of 16 frames at stride 4 on one dataset, from scratch.

Supplement, Table 3: K400 78.8 % after 200 epochs.

  python main.py --config=configs/multitrain/baseline_16x4.py --workdir=runs/k400_16x4
"""

from ml_collections import ConfigDict

from configs.common import parse_arg
from configs.multitrain import common


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `dataset=...` and `epochs=...`."""
  choice = parse_arg(arg, dataset='kinetics400', epochs=200)
  return common.baseline('baseline_16x4', '16x4', drop_path=0.2, **choice)
