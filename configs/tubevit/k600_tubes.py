"""TubeViT-B on Kinetics-600 with other tubes, 50,000 steps.

Table 5: a tube is a kernel, a letter, and a stride, a Roman number; the default is the best
row, 88.9.

  python main.py --config=configs/tubevit/k600_tubes.py:tubes=a+iv,d+v,e+iv,f+v \
      --workdir=runs/k600_tubes

Trained on clips alone: three of the eight rows have no tube that fits an image.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.tubevit import common

KERNELS = {
  'a': (1, 16, 16),
  'b': (4, 32, 32),
  'c': (4, 4, 4),
  'd': (4, 12, 12),
  'e': (8, 8, 8),
  'f': (16, 4, 4),
  'g': (16, 16, 16),
  'h': (32, 8, 8),
}
STRIDES = {
  'i': (4, 16, 16),
  'ii': (8, 8, 8),
  'iii': (8, 32, 32),
  'iv': (16, 16, 16),
  'v': (32, 32, 32),
}
ROWS = (
  'a+iv,b+v,f+iv',
  'c+iv,e+v,g+iv',
  'c+iv,c+iv,c+iv',
  'a+iv,e+v,g+iv',
  'b+iv,e+v,g+iv',
  'a+iv,d+v,e+iv,b+v',
  'a+iv,b+v,c+iv,h+v',
  'a+iv,d+v,e+iv,f+v',
)
"""Table 5, from above; the copy at hand has seven numbers, one of the second and third is lost."""


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `tubes=KERNEL+STRIDE,...`, a row of Table 5 or another.

  Raises:
    ValueError: another argument, an unknown kernel or stride.
  """
  key, _, row = (arg or f'tubes={ROWS[-1]}').partition('=')
  if key != 'tubes':
    raise ValueError(f"Unknown config argument {key!r}; known: 'tubes'.")
  tubes = _tubes(row)
  return common.experiment('k600_tubes', 'kinetics600', tubes=tubes, steps=50_000)


def _tubes(row: str) -> dict[str, dict[str, Any]]:
  """Tubes named after their kernel and their place in the row."""
  tubes = {}
  for place, item in enumerate(row.split(','), 1):
    kernel, _, stride = item.strip('()').partition('+')
    if kernel not in KERNELS or stride not in STRIDES:
      raise ValueError(
        f'Unknown tube {item!r} in {row!r}: expected a kernel of {", ".join(KERNELS)} and a '
        f"stride of {', '.join(STRIDES)}, as 'a+iv'."
      )
    tubes[f'{kernel}{place}'] = {'kernel': KERNELS[kernel], 'stride': STRIDES[stride]}
  return tubes
