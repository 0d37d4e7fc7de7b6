"""UniFormerV2 on Something-Something v2 (Tables 4 and 18), straight from CLIP.

  python main.py --config=configs/uniformerv2/ssv2.py --workdir=runs/ssv2 \
      --config.init_from.path=CLIP-ViT-B-16.safetensors

Rows of Table 4, top-1: `b16_16x3x1` 69.5, `b16_32x3x1` 70.7, `l14_16x3x1` 72.1, `l14_32x3x1` 73.0.
Clips are not flipped, for six classes say left or right.
"""

from ml_collections import ConfigDict

from configs.common import parse_arg
from configs.uniformerv2 import common


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `row=...`, see `common.row`."""
  which = common.row(parse_arg(arg, row='b16_16x3x1')['row'])
  return common.experiment('ssv2', ('ssv2',), which, 'image')
