"""ViViT-L/16x2, factorised encoder (Model 2), on Something-Something v2.

Table 6e, ViViT-L/16x2 factorised encoder, from Kinetics-400 weights.

  python main.py --config=configs/vivit/ssv2_large_fe.py --workdir=runs/ssv2_large_fe \
      --config.init_from.path=runs/k400_large_fe

Table 7 flips every dataset with probability 0.5; here flips are off, for six classes say left or
right. To flip and exchange them, set `datasets.ssv2.clip.flip_prob` and `flip_swap` to the pairs
that `python -m tools.catalogue --name=ssv2` lists.
"""

from ml_collections import ConfigDict

from configs.common import parse_arg
from configs.vivit import common


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `temporal_layers=...`, the depth of the temporal encoder."""
  layers = parse_arg(arg, temporal_layers=4)['temporal_layers']
  return common.experiment(
    'ssv2_large_fe', 'ssv2', 'L', 'factorised_encoder', temporal_layers=layers, spatial_views=3
  )
