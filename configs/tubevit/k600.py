"""TubeViT on Kinetics-600 and ImageNet jointly, a fully connected layer each.

Table 1, column K600.

  python main.py --config=configs/tubevit/k600.py --workdir=runs/tubevit_k600

ImageNet comes from TFDS; for TFRecords or a folder of images set `datasets.imagenet.dir`. `:size=L`
and `:size=H` are the larger models of Table 2, with their own learning rate and weight decay.
"""

from ml_collections import ConfigDict

from configs.common import parse_arg
from configs.tubevit import common


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `size=Ti`, `S`, `B`, `L` or `H`."""
  size = parse_arg(arg, size='B')['size']
  return common.experiment('k600', 'kinetics600', size, images=True)
