"""Measures whether a training run's host memory grows.

  python -m benchmarks.soak
  python -m benchmarks.soak --steps=2000 --warmup=500 --every=20

A tiny ViViT trains on demo data through the whole of `main.py`'s path in this process, with
evaluations and checkpoints in between. The process's own memory is read when metrics are written;
growth is that of the last quarter's median over that of the first quarter after the warm-up.
"""

import contextlib
import ctypes
import io
import statistics
import tempfile
from pathlib import Path
from unittest import mock

from absl import flags
from ml_collections import ConfigDict

from configs.vivit import demo as demo_config
from datasets import demo
from tools import command
from train_lib import metric_log, run

_STEPS = flags.DEFINE_integer('steps', 2000, 'Steps measured.', allow_override=True)
_WARMUP = flags.DEFINE_integer(
  'warmup', 500, 'Steps before, in which memory may grow.', allow_override=True
)
_EVERY = flags.DEFINE_integer(
  'every', 500, 'Steps between evaluations, and between checkpoints.', allow_override=True
)


def make_config(data: Path, steps: int) -> ConfigDict:
  """The demo's config with a model of a few thousand parameters."""
  config = demo_config.get_config()
  config.duration = f'{steps} steps'
  config.batch_size = 8
  config.log_every = '10 steps'
  config.trunk.update({'hidden_size': 16, 'num_layers': 1, 'num_heads': 2, 'mlp_dim': 16})
  config.trunk.update({'temporal_num_layers': 1, 'tubelet': (2, 8, 8)})
  config.datasets.demo.update({'dir': str(data), 'temporal_views': 2})
  config.datasets.demo.clip.frames = 4
  config.evaluation.update({'every': f'{_EVERY.value} steps', 'pictures': False})
  config.checkpoint.every = f'{_EVERY.value} steps'
  return config


def host_mib() -> float:
  """This process's own memory in MiB (Linux): not files that it maps, but what of it is swapped.

  What compiling has freed is given back first; glibc would do so at a moment of its own choice.
  """
  ctypes.CDLL(None).malloc_trim(0)
  status = Path('/proc/self/status').read_text().splitlines()
  fields = dict(line.split(':', 1) for line in status)
  return sum(int(fields[name].split()[0]) for name in ('RssAnon', 'VmSwap')) / 2**10


def measure(folder: Path, steps: int) -> list[tuple[int, float]]:
  """(step, MiB) at every log step of a run."""
  samples: list[tuple[int, float]] = []
  collect = metric_log.MetricLog.collect

  def sampled(log: metric_log.MetricLog, step: int) -> dict[str, float]:
    samples.append((step, host_mib()))
    return collect(log, step)

  demo.write(folder / 'data', train=64, test=16)
  with (
    mock.patch.object(metric_log.MetricLog, 'collect', sampled),
    contextlib.redirect_stdout(io.StringIO()),
  ):
    run.run('train', make_config(folder / 'data', steps), str(folder / 'run'))
  return samples


def main() -> None:
  """Trains and prints the growth."""
  total = _WARMUP.value + _STEPS.value
  print(f'{total:,} steps, evaluated and saved every {_EVERY.value} ...', flush=True)
  with tempfile.TemporaryDirectory() as folder:
    samples = measure(Path(folder), total)
  after = [mib for step, mib in samples if step > _WARMUP.value]
  quarter = max(len(after) // 4, 1)
  start, end = statistics.median(after[:quarter]), statistics.median(after[-quarter:])
  tenth = max(len(after) // 10, 1)
  tenths = [statistics.median(after[i : i + tenth]) for i in range(0, len(after), tenth)]
  print('MiB by tenths    ' + ' '.join(f'{mib:.1f}' for mib in tenths))
  print(
    f'host memory  {start:.1f} MiB after step {_WARMUP.value:,}, {end:.1f} MiB at step {total:,}: '
    f'growth {100 * (end / start - 1):+.2f} % over {_STEPS.value:,} steps'
  )


if __name__ == '__main__':
  command.run(main)
