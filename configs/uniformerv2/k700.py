"""UniFormerV2 on Kinetics-700 (Tables 2 and 16), 5 epochs from the run on Kinetics-710.

  python main.py --config=configs/uniformerv2/k700.py:row=l14_32x3x2 --workdir=runs/k700 \
      --config.init_from.path=runs/k710

Rows of Table 2, top-1: `l14_336_frozen_32x3x1` 80.6, `l14_32x3x2` 81.5, `l14_336_32x3x2` 82.1,
`l14_336_64x3x2` 82.7. With `,start=image` straight from the image model, by the recipe of K710
(Appendix A): Table 16, `b16_8x3x4` 75.8.
"""

from ml_collections import ConfigDict

from configs.common import parse_arg
from configs.uniformerv2 import common


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `row=...`, see `common.row`, and `start=image` or `k710`."""
  choice = parse_arg(arg, row='l14_32x3x2', start='k710')
  which = common.row(choice['row'])
  return common.experiment('k700', ('kinetics700',), which, choice['start'])
