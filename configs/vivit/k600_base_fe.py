"""ViViT-B/16x2, factorised encoder (Model 2), on Kinetics-600.

Base counterpart of the Table 6 row; the paper prints no Base result here.

  python main.py --config=configs/vivit/k600_base_fe.py --workdir=runs/k600_base_fe \
      --config.init_from.path=ViT-B_16.npz
"""

from ml_collections import ConfigDict

from configs.common import parse_arg
from configs.vivit import common


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `temporal_layers=...`, the depth of the temporal encoder."""
  layers = parse_arg(arg, temporal_layers=4)['temporal_layers']
  return common.experiment(
    'k600_base_fe', 'kinetics600', 'B', 'factorised_encoder', temporal_layers=layers
  )
