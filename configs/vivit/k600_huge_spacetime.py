"""ViViT-H/16x2, spatio-temporal attention (Model 1), on Kinetics-600.

Section 4.3: top-1 85.8 (from a JFT image model, which is not public; the
public ViT-H has patches of 14, for which set `--config.trunk.tubelet='(2,14,14)'`).

  python main.py --config=configs/vivit/k600_huge_spacetime.py --workdir=runs/k600_huge_spacetime \
      --config.init_from.path=VIT_H_16.npz
"""

from ml_collections import ConfigDict

from configs.vivit import common


def get_config() -> ConfigDict:
  """The experiment."""
  return common.experiment('k600_huge_spacetime', 'kinetics600', 'H', 'spacetime', spatial_views=3)
