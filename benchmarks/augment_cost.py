"""Measures what each augmentation of the compiled step costs on this machine's device.

  python -m benchmarks.augment_cost
  python -m benchmarks.augment_cost --batch_size=64 --frames=32 --size=224

Each is compiled alone and run in turn in each round, as is a pass that only turns the batch into
normalised float32. An augmentation's cost is its time over that pass's, both of the same round; the
median over rounds is reported.
"""

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from configs.common import CENTRED_PIXELS, rand_augment_from
from datasets.color import ColorJitterConfig
from tools import command
from train_lib.augment import augment, example_keys, normalize
from train_lib.erasing import RandomErasingConfig, erase
from train_lib.mixing import MixConfig, mix
from train_lib.randaugment import RandAugmentConfig

_BATCH_SIZE = flags.DEFINE_integer('batch_size', 8, 'Clips in a batch.', allow_override=True)
_FRAMES = flags.DEFINE_integer('frames', 8, 'Frames in a clip.', allow_override=True)
_SIZE = flags.DEFINE_integer('size', 112, 'Height and width in pixels.', allow_override=True)
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Rounds.', allow_override=True)

JITTER_OFF, POLICY_OFF = ColorJitterConfig(), RandAugmentConfig()
ERASING_OFF, MIX_OFF = RandomErasingConfig(), MixConfig()


def compiled(
  batch: jax.Array, jitter=JITTER_OFF, policy=POLICY_OFF, erasing=ERASING_OFF, mixing=MIX_OFF
) -> Callable[[], None]:
  """Compiles a preparation of `batch` and returns a call that runs it to its end."""

  def prepare(inputs: jax.Array) -> jax.Array:
    keys = example_keys(jax.random.key(0), jnp.arange(len(inputs)))
    video = normalize(augment(keys, inputs, jitter, policy), **CENTRED_PIXELS)
    video = erase(keys, video, erasing)
    return mix(jax.random.key(1), video, {}, {'task': jnp.ones(len(inputs))}, mixing)[0]

  program = jax.jit(prepare).lower(batch).compile()
  return lambda: program(batch).block_until_ready()


def milliseconds(run: Callable[[], None], clips: int) -> float:
  """Time of one run, a clip."""
  start = time.perf_counter()
  run()
  return 1e3 * (time.perf_counter() - start) / clips


def main() -> None:
  """Prints the table."""
  shape = (_BATCH_SIZE.value, _FRAMES.value, _SIZE.value, _SIZE.value, 3)
  batch = jnp.asarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
  runs = {
    'normalise alone': compiled(batch),
    'colour jitter': compiled(batch, jitter=ColorJitterConfig(prob=0.8, grayscale_prob=0.1)),
    'RandAugment, 2 layers': compiled(batch, policy=RandAugmentConfig(2, 15.0)),
    'rand-m7-n4-mstd0.5-inc1': compiled(
      batch, policy=RandAugmentConfig(**rand_augment_from('rand-m7-n4-mstd0.5-inc1'))
    ),
    'random erasing': compiled(batch, erasing=RandomErasingConfig(prob=0.25)),
    'mixup': compiled(batch, mixing=MixConfig(mixup_alpha=0.3)),
    'mixup or CutMix': compiled(batch, mixing=MixConfig(mixup_alpha=0.8, cutmix_alpha=1.0)),
  }
  for run in runs.values():
    run()
  rounds = [
    {name: milliseconds(run, _BATCH_SIZE.value) for name, run in runs.items()}
    for _ in range(_ROUNDS.value)
  ]
  device = jax.devices()[0].device_kind
  print(f'{_BATCH_SIZE.value} clips of {_FRAMES.value} x {_SIZE.value} x {_SIZE.value}, {device}')
  for name in runs:
    own = statistics.median(r[name] for r in rounds)
    ratio = statistics.median(r[name] / r['normalise alone'] for r in rounds)
    print(f'{name:<26}{own:9.2f} ms a clip{ratio:9.1f} x')


if __name__ == '__main__':
  command.run(main)
