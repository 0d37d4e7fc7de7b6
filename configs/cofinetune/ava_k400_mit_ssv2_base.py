"""Co-finetuning on AVA, K400, MiT and Something-Something v2, ViViT-B at 224 px.

Table 3: 26.8 mAP on AVA. Table 6: 31.2 with `:side=512`.

  python main.py --config=configs/cofinetune/ava_k400_mit_ssv2_base.py --workdir=runs/ava_k400_mit_ssv2_base \
      --config.init_from.path=ViT-B_16.npz
"""

from ml_collections import ConfigDict

from configs.cofinetune import common
from configs.common import parse_arg


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `sampling=...` (Table 4) and `side=...` in px (Table 8)."""
  choice = parse_arg(arg, sampling='weighted', side=224)
  return common.experiment(
    'ava_k400_mit_ssv2_base', ('ava', 'kinetics400', 'moments_in_time', 'ssv2'), **choice
  )
