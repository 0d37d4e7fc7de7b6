"""ViViT-B/16x2, factorised dot-product attention (Model 4), on Epic Kitchens-100.

Table 2: action top-1 39.5 (all regularisers of Table 4), from Kinetics-400 weights.

  python main.py --config=configs/vivit/ek_base_fdp.py --workdir=runs/ek_base_fdp \
      --config.init_from.path=runs/k400_base_fdp
"""

from ml_collections import ConfigDict

from configs.vivit import common


def get_config() -> ConfigDict:
  """The experiment."""
  return common.experiment('ek_base_fdp', 'epic_kitchens', 'B', 'factorised_dot_product')
