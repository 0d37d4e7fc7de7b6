"""UniFormerV2 on Moments in Time v1 (Tables 3 and 17).

  python main.py --config=configs/uniformerv2/mit.py --workdir=runs/mit \
      --config.init_from.path=runs/k400

Rows of Table 3, top-1: `b16_8x3x4` 42.7, `l14_8x3x4` 47.0, `l14_336_8x3x4` 47.8. These start from the
run on Kinetics-710 that was finetuned on Kinetics-400; without its head.
"""

from ml_collections import ConfigDict

from configs.common import parse_arg
from configs.uniformerv2 import common


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `row=...`, see `common.row`."""
  which = common.row(parse_arg(arg, row='b16_8x3x4')['row'])
  return common.experiment('mit', ('moments_in_time',), which, 'run')
