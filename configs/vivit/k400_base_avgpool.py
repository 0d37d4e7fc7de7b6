"""ViViT-B/16x2, average-pool baseline (Model 2 without a temporal encoder), on Kinetics-400.

Table 2: top-1 75.8, 283.9 GFLOPs a view, 86.7 M parameters.

  python main.py --config=configs/vivit/k400_base_avgpool.py --workdir=runs/k400_base_avgpool \
      --config.init_from.path=ViT-B_16.npz
"""

from ml_collections import ConfigDict

from configs.vivit import common


def get_config() -> ConfigDict:
  """The experiment."""
  return common.experiment(
    'k400_base_avgpool', 'kinetics400', 'B', 'factorised_encoder', temporal_layers=0
  )
