"""MViTv2 of 32 frames at stride 3 on one dataset, from scratch: what the others start from.

Table 1, "Ours-baseline": K400 79.8 %; `:dataset=kinetics700` 74.1 (Table 2), `moments_in_time` 38.6,
`ssv2` 67.0, `activitynet` 81.5.

  python main.py --config=configs/multitrain/baseline_32x3.py --workdir=runs/k400_32x3
"""

from ml_collections import ConfigDict

from configs.common import parse_arg
from configs.multitrain import common


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `dataset=...` and `epochs=...`."""
  choice = parse_arg(arg, dataset='kinetics400', epochs=200)
  return common.baseline('baseline_32x3', '32x3', drop_path=0.3, **choice)
