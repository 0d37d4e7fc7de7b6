"""Co-finetuning on AVA and Kinetics-400, ViViT-B at 224 px.

Table 1(a): 25.2 mAP on AVA, 76.2 % on K400. Table 8: `:side=352`, 416 and 512.

  python main.py --config=configs/cofinetune/ava_k400_base.py --workdir=runs/ava_k400_base \
      --config.init_from.path=ViT-B_16.npz
"""

from ml_collections import ConfigDict

from configs.cofinetune import common
from configs.common import parse_arg


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `sampling=...` (Table 4) and `side=...` in px (Table 8)."""
  choice = parse_arg(arg, sampling='weighted', side=224)
  return common.experiment('ava_k400_base', ('ava', 'kinetics400'), **choice)
