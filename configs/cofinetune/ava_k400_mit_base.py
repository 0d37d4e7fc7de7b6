"""Co-finetuning on AVA, Kinetics-400 and Moments in Time, ViViT-B at 224 px.

Tables 2 to 4: 26.3 mAP on AVA, 76.7 % on K400, 38.9 % on MiT; `:sampling=alternating` 25.0, 76.4, 34.8.

  python main.py --config=configs/cofinetune/ava_k400_mit_base.py --workdir=runs/ava_k400_mit_base \
      --config.init_from.path=ViT-B_16.npz
"""

from ml_collections import ConfigDict

from configs.cofinetune import common
from configs.common import parse_arg


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `sampling=...` (Table 4) and `side=...` in px (Table 8)."""
  choice = parse_arg(arg, sampling='weighted', side=224)
  return common.experiment('ava_k400_mit_base', ('ava', 'kinetics400', 'moments_in_time'), **choice)
