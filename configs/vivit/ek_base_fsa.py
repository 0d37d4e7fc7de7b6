"""ViViT-B/16x2, factorised self-attention (Model 3), on Epic Kitchens-100.

Table 2: action top-1 39.1 (all regularisers of Table 4), from Kinetics-400 weights.

  python main.py --config=configs/vivit/ek_base_fsa.py --workdir=runs/ek_base_fsa \
      --config.init_from.path=runs/k400_base_fsa
"""

from ml_collections import ConfigDict

from configs.vivit import common


def get_config() -> ConfigDict:
  """The experiment."""
  return common.experiment('ek_base_fsa', 'epic_kitchens', 'B', 'factorised_self_attention')
