"""ViViT-L/16x2, factorised encoder (Model 2), on Kinetics-400.

Table 6a, ViViT-L/16x2 factorised encoder.

  python main.py --config=configs/vivit/k400_large_fe.py --workdir=runs/k400_large_fe \
      --config.init_from.path=ViT-L_16.npz
"""

from ml_collections import ConfigDict

from configs.common import parse_arg
from configs.vivit import common


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `temporal_layers=...`, the depth of the temporal encoder."""
  layers = parse_arg(arg, temporal_layers=4)['temporal_layers']
  return common.experiment(
    'k400_large_fe',
    'kinetics400',
    'L',
    'factorised_encoder',
    temporal_layers=layers,
    spatial_views=3,
  )
