"""TubeViT-L on Charades: several labels a clip, mean average precision.

Table 4: 66.2 with the interpolated kernels of section 2; with `:kernels=core`, those of Table 3,
61.8. Table 1, column Charades. It starts from the run on Kinetics-600 and ImageNet:

  python main.py --config=configs/tubevit/k600.py:size=L --workdir=runs/tubevit_k600_large
  python main.py --config=configs/tubevit/charades.py --workdir=runs/tubevit_charades \
      --config.init_from.path=runs/tubevit_k600_large

The interpolated kernels have as many parameters and tokens as those they are made from, so the same
run starts both.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.common import parse_arg
from configs.tubevit import common, trunks

# Tube of Table 3 -> its kernel in section 2.
GROWN = {'a': (16, 16, 16), 'b': (32, 8, 8), 'c': (4, 32, 32)}


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `kernels=grown` or `core`, and `size=Ti`, `S`, `B`, `L` or `H`.

  Raises:
    ValueError: other kernels.
  """
  choice = parse_arg(arg, kernels='grown', size='L')
  return common.experiment('charades', 'charades', choice['size'], _tubes(choice['kernels']))


def _tubes(kernels: str) -> dict[str, dict[str, Any]]:
  if kernels == 'core':
    return trunks.TABLE3
  if kernels != 'grown':
    raise ValueError(f"Unknown kernels {kernels!r}: 'grown' or 'core'.")
  grown = {
    name: {'kernel': kernel, 'grown_from': trunks.TABLE3[name]['kernel']}
    for name, kernel in GROWN.items()
  }
  return {name: {**tube, **grown.get(name, {})} for name, tube in trunks.TABLE3.items()}
