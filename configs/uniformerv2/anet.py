"""UniFormerV2 on ActivityNet 1.3 (Tables 6 and 19): trained on segments, tested on whole videos.

  python main.py --config=configs/uniformerv2/anet.py --workdir=runs/anet \
      --config.init_from.path=runs/k400

Rows of Table 6, top-1: `l14_16x3x10` 94.3, `l14_32x3x10` 94.7; Table 19 also has 2 and 4 clips. They
start from the run on Kinetics-710 that was finetuned on Kinetics-400. Records are made with
`tools.build_records --whole_videos=validation`; frames of a clip lie evenly over all of a record.
"""

from ml_collections import ConfigDict

from configs.common import parse_arg
from configs.uniformerv2 import common


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `row=...`, see `common.row`."""
  which = common.row(parse_arg(arg, row='l14_16x3x10')['row'])
  return common.experiment('anet', ('activitynet',), which, 'run')
