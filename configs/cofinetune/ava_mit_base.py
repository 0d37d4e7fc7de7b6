"""Co-finetuning on AVA and Moments in Time, ViViT-B at 224 px.

Table 1(b): 26.1 mAP on AVA, 38.1 % on MiT.

  python main.py --config=configs/cofinetune/ava_mit_base.py --workdir=runs/ava_mit_base \
      --config.init_from.path=ViT-B_16.npz
"""

from ml_collections import ConfigDict

from configs.cofinetune import common
from configs.common import parse_arg


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `sampling=...` (Table 4) and `side=...` in px (Table 8)."""
  choice = parse_arg(arg, sampling='weighted', side=224)
  return common.experiment('ava_mit_base', ('ava', 'moments_in_time'), **choice)
