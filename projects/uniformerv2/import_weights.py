"""Turns a checkpoint of the released UniFormerV2 into a file that `init_from.path` reads.

  python -m projects.uniformerv2.import_weights --checkpoint=official.pyth --out=uniformerv2.npz \\
      --class_names=classes.txt

The checkpoint holds the model's state dict by its PyTorch names, and is read as `init_from.path` is
(docs/pretrained.md): released `.pyth` files with torch. Running statistics of BatchNorm come
along. The classifier is loaded with `--config.init_from.load_head=True`, by name with --class_names: its
classes in its order, one a line, which the file does not tell.
"""

from absl import flags

from projects.uniformerv2 import weights
from train_lib import import_weights
from train_lib.console import run_command

_HEADS = flags.DEFINE_integer(
  'num_heads',
  None,
  'Attention heads, which the file does not tell; one for each 64 channels.',
  allow_override=True,
)
_GLOBAL_HEADS = flags.DEFINE_integer(
  'global_num_heads',
  None,
  'Attention heads of the global blocks; as --num_heads.',
  allow_override=True,
)


def main() -> None:
  """Reads, converts, writes and says what was written."""
  import_weights.convert(
    lambda official: weights.from_official(official, _HEADS.value, _GLOBAL_HEADS.value)
  )


if __name__ == '__main__':
  run_command(main)
