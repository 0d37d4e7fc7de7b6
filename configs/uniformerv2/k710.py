"""UniFormerV2 on Kinetics-710 (Table 11, column K710): what the Kinetics models are finetuned from.

  python main.py --config=configs/uniformerv2/k710.py --workdir=runs/k710_b16 \
      --config.init_from.path=CLIP-ViT-B-16.safetensors

Post-pretraining has 8 frames (section 4), whatever the finetuning has. Rows are `b16_8x3x4`,
`l14_8x3x4`, `l14_336_8x3x4` and `l14_336_frozen_8x3x4`. `projects.uniformerv2.kinetics710` merges the
lists of the videos.
"""

from ml_collections import ConfigDict

from configs.common import parse_arg
from configs.uniformerv2 import common


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `row=...`, see `common.row`."""
  which = common.row(parse_arg(arg, row='b16_8x3x4')['row'])
  return common.experiment('k710', ('kinetics710',), which, 'image')
