"""ViViT-L/16x2, spatio-temporal attention (Model 1), on Kinetics-400.

Table 5: top-1 80.3 / 80.7 / 81.0 and 1446 / 2919 / 3992 GFLOPs at crops 224 / 288 / 320 (`:crop=320`).

  python main.py --config=configs/vivit/k400_large_spacetime.py --workdir=runs/k400_large_spacetime \
      --config.init_from.path=ViT-L_16.npz
"""

from ml_collections import ConfigDict

from configs.common import parse_arg
from configs.vivit import common


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `crop=...` pixels (Table 5)."""
  crop = parse_arg(arg, crop=224)['crop']
  return common.experiment(
    'k400_large_spacetime', 'kinetics400', 'L', 'spacetime', crop=crop, spatial_views=3
  )
