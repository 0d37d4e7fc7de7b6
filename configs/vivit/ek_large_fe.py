"""ViViT-L/16x2, factorised encoder (Model 2), on Epic Kitchens-100.

Table 6d, ViViT-L/16x2 factorised encoder, from Kinetics-400 weights.

  python main.py --config=configs/vivit/ek_large_fe.py --workdir=runs/ek_large_fe \
      --config.init_from.path=runs/k400_large_fe
"""

from ml_collections import ConfigDict

from configs.common import parse_arg
from configs.vivit import common


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `temporal_layers=...`, the depth of the temporal encoder."""
  layers = parse_arg(arg, temporal_layers=4)['temporal_layers']
  return common.experiment(
    'ek_large_fe',
    'epic_kitchens',
    'L',
    'factorised_encoder',
    temporal_layers=layers,
    spatial_views=3,
  )
