"""Stage 1 of transfer learning: Kinetics-400 alone, ViViT-B at 224 px.

Table 1(a): 74.9 %. Stage 2 is `ava_base.py`.

  python main.py --config=configs/cofinetune/k400_base.py --workdir=runs/k400_base \
      --config.init_from.path=ViT-B_16.npz
"""

from ml_collections import ConfigDict

from configs.cofinetune import common


def get_config() -> ConfigDict:
  """The experiment."""
  return common.experiment('k400_base', ('kinetics400',))
