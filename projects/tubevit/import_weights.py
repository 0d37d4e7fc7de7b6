"""Turns a checkpoint of the public TubeViT into a file that `init_from.path` reads.

  python -m projects.tubevit.import_weights --checkpoint=public.safetensors --out=tubevit.npz \
      --num_heads=12

The checkpoint holds the model's state dict by its PyTorch names, as .npz or .safetensors. The trunk
to load it into has the tubes of Table 3 without space-to-depth, `shared_kernel=(8, 8, 8)`,
`interpolation='trilinear'`, `pooling='attention'` and `gelu='erf'`.
"""

from absl import flags

from projects.tubevit import weights
from train_lib import import_weights
from train_lib.console import run_command

_HEADS = flags.DEFINE_integer(
  'num_heads', 12, 'Attention heads, which the file does not tell.', allow_override=True
)
_TUBES = flags.DEFINE_list(
  'tubes', ['a', 'b', 'c', 'd'], 'Names of its tubes, in its order.', allow_override=True
)


def main() -> None:
  """Reads, converts, writes and says what was written."""
  import_weights.convert(
    lambda official: weights.from_official(official, _TUBES.value, _HEADS.value)
  )


if __name__ == '__main__':
  run_command(main)
