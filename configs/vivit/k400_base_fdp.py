"""ViViT-B/16x2, factorised dot-product attention (Model 4), on Kinetics-400.

Table 2: top-1 76.3, 277.1 GFLOPs a view, 88.9 M parameters.

  python main.py --config=configs/vivit/k400_base_fdp.py --workdir=runs/k400_base_fdp \
      --config.init_from.path=ViT-B_16.npz
"""

from ml_collections import ConfigDict

from configs.vivit import common


def get_config() -> ConfigDict:
  """The experiment."""
  return common.experiment('k400_base_fdp', 'kinetics400', 'B', 'factorised_dot_product')
