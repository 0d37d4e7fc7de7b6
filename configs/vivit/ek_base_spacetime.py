"""ViViT-B/16x2, spatio-temporal attention (Model 1), on Epic Kitchens-100.

Table 2: action top-1 43.1 (all regularisers of Table 4), from Kinetics-400 weights.

  python main.py --config=configs/vivit/ek_base_spacetime.py --workdir=runs/ek_base_spacetime \
      --config.init_from.path=runs/k400_base_spacetime
"""

from ml_collections import ConfigDict

from configs.vivit import common


def get_config() -> ConfigDict:
  """The experiment."""
  return common.experiment('ek_base_spacetime', 'epic_kitchens', 'B', 'spacetime')
