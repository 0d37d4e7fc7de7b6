"""UniFormerV2 on Something-Something v1 (Tables 5 and 18), straight from CLIP.

  python main.py --config=configs/uniformerv2/ssv1.py --workdir=runs/ssv1 \
      --config.init_from.path=CLIP-ViT-B-16.safetensors

Rows of Table 5, top-1: `b16_16x3x1` 56.8, `b16_32x3x1` 59.4, `l14_16x3x1` 60.5, `l14_32x3x1` 62.7.
Clips are not flipped, for six classes say left or right.
"""

from ml_collections import ConfigDict

from configs.common import parse_arg
from configs.uniformerv2 import common


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `row=...`, see `common.row`."""
  which = common.row(parse_arg(arg, row='b16_16x3x1')['row'])
  return common.experiment('ssv1', ('ssv1',), which, 'image')
