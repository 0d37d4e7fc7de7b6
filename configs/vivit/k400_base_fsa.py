"""ViViT-B/16x2, factorised self-attention (Model 3), on Kinetics-400.

Table 2: top-1 77.4, 372.3 GFLOPs a view, 117.3 M parameters.

  python main.py --config=configs/vivit/k400_base_fsa.py --workdir=runs/k400_base_fsa \
      --config.init_from.path=ViT-B_16.npz
"""

from ml_collections import ConfigDict

from configs.vivit import common


def get_config() -> ConfigDict:
  """The experiment."""
  return common.experiment('k400_base_fsa', 'kinetics400', 'B', 'factorised_self_attention')
