"""Stage 2 of transfer learning: AVA from a model trained on another dataset, ViViT-B at 224 px.

Table 1(a): 23.4 mAP on AVA from Kinetics-400 (`k400_base.py`), in 20 epochs (section A.1).

  python main.py --config=configs/cofinetune/ava_base.py --workdir=runs/ava_base \
      --config.init_from.path=runs/k400_base
"""

from ml_collections import ConfigDict

from configs.cofinetune import common
from configs.common import parse_arg


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `side=...` in px (Table 8)."""
  choice = parse_arg(arg, side=224)
  return common.experiment('ava_base', ('ava',), epochs=common.FINETUNE_EPOCHS, **choice)
