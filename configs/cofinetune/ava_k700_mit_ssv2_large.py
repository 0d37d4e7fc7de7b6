"""Co-finetuning on AVA, Kinetics-700, MiT and Something-Something v2, ViViT-L at 512 px.

Table 6: 32.8 mAP on AVA.

  python main.py --config=configs/cofinetune/ava_k700_mit_ssv2_large.py --workdir=runs/ava_k700_mit_ssv2_large \
      --config.init_from.path=ViT-L_16.npz
"""

from ml_collections import ConfigDict

from configs.cofinetune import common
from configs.common import parse_arg


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `side=...` in px."""
  choice = parse_arg(arg, side=512)
  return common.experiment(
    'ava_k700_mit_ssv2_large', ('ava', 'kinetics700', 'moments_in_time', 'ssv2'), 'L', **choice
  )
