"""ViViT-B/16x2, average-pool baseline (Model 2 without a temporal encoder), on Epic Kitchens-100.

Table 2: action top-1 38.8 (all regularisers of Table 4), from Kinetics-400 weights.

  python main.py --config=configs/vivit/ek_base_avgpool.py --workdir=runs/ek_base_avgpool \
      --config.init_from.path=runs/k400_base_avgpool
"""

from ml_collections import ConfigDict

from configs.vivit import common


def get_config() -> ConfigDict:
  """The experiment."""
  return common.experiment(
    'ek_base_avgpool', 'epic_kitchens', 'B', 'factorised_encoder', temporal_layers=0
  )
