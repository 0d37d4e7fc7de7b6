"""ViViT-B/16x2, spatio-temporal attention (Model 1), on Kinetics-400.

Table 2: top-1 80.0, 455.2 GFLOPs a view, 88.9 M parameters.

  python main.py --config=configs/vivit/k400_base_spacetime.py --workdir=runs/k400_base_spacetime \
      --config.init_from.path=ViT-B_16.npz

Table 1 compares ways to make 8 temporal tokens: `:encoding=uniform_frames` (78.5), `random` (73.2),
`average` (77.6, Eq. 8) and `central_frame` (79.2, Eq. 9).
"""

from ml_collections import ConfigDict

from configs.common import parse_arg
from configs.vivit import common


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `encoding=...` (Table 1)."""
  encoding = parse_arg(arg, encoding='')['encoding']
  config = common.experiment('k400_base_spacetime', 'kinetics400', 'B', 'spacetime')
  if encoding:
    common.set_encoding(config, encoding)
  return config
