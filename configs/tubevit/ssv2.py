"""TubeViT on Something-Something v2, with mixup, dropout and label smoothing.

Table 1, column SSv2. It starts from the run on Kinetics-600 and ImageNet:

  python main.py --config=configs/tubevit/k600.py --workdir=runs/tubevit_k600
  python main.py --config=configs/tubevit/ssv2.py --workdir=runs/tubevit_ssv2 \
      --config.init_from.path=runs/tubevit_k600

Clips are not flipped, for six classes say left or right.
"""

from ml_collections import ConfigDict

from configs.common import parse_arg
from configs.tubevit import common


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `size=Ti`, `S`, `B`, `L` or `H`."""
  size = parse_arg(arg, size='B')['size']
  return common.experiment('ssv2', 'ssv2', size)
