"""ViViT-B/16x2, factorised encoder (Model 2), on Kinetics-400.

Table 2: top-1 78.8, 284.4 GFLOPs a view, 115.1 M parameters.

  python main.py --config=configs/vivit/k400_base_fe.py --workdir=runs/k400_base_fe \
      --config.init_from.path=ViT-B_16.npz

Table 3 varies the temporal encoder: `:temporal_layers=1` (78.6), 4 (78.8), 8 (78.8), 12 (78.9).
"""

from ml_collections import ConfigDict

from configs.common import parse_arg
from configs.vivit import common


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `temporal_layers=...`, the depth of the temporal encoder."""
  layers = parse_arg(arg, temporal_layers=4)['temporal_layers']
  return common.experiment(
    'k400_base_fe', 'kinetics400', 'B', 'factorised_encoder', temporal_layers=layers
  )
