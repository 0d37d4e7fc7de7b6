"""UniFormerV2 on Kinetics-400 (Tables 1 and 16), 5 epochs from the run on Kinetics-710.

  python main.py --config=configs/uniformerv2/k400.py:row=b16_8x3x4 --workdir=runs/k400 \
      --config.init_from.path=runs/k710

Rows of Table 1, top-1: `b16_8x1x3` 85.2, `b16_8x3x4` 85.6, `l14_8x3x4` 88.8, `l14_32x3x2` 89.3,
`l14_336_32x3x2` 89.7, `l14_336_64x3x2` 90.0, `l14_336_frozen_8x1x3` 87.8, `l14_336_frozen_32x3x1` 88.8.
With `,start=image` straight from the image model, by the recipe of K710 (Appendix A): Table 16,
`b16_8x3x4` 84.4, `l14_8x3x4` 87.7; and always those from ImageNet, `b16_in21k_16x3x4` 83.4, of augreg's
B_16 in its own .npz (for timm's copy add `--config.trunk.gelu=erf`), and `l16_in22k_32x3x2` 85.4, of a
BEiT: published ones have relative positions, which this trunk has not, so that their files are refused.
"""

from ml_collections import ConfigDict

from configs.common import parse_arg
from configs.uniformerv2 import common


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `row=...`, see `common.row`, and `start=image` or `k710`.

  Raises:
    ValueError: as `common.experiment`.
  """
  choice = parse_arg(arg, row='b16_8x3x4', start='')
  which = common.row(choice['row'])
  start = choice['start'] or ('image' if which.image else 'k710')
  return common.experiment('k400', ('kinetics400',), which, start)
