"""The parts of this machine that runs beside each other get, so that they do not fight over it."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_GPU_MEMORY = 0.9  # of a GPU's, for the runs that share it


@dataclass(frozen=True)
class Slot:
  """What one run at a time gets.

  Attributes:
    cores: Numbers of the CPU cores it may use; empty: all.
    environment: Variables that give it its GPUs.
  """

  cores: frozenset[int] = frozenset()
  environment: Mapping[str, str] = field(default_factory=dict)


def slots(
  parallel: int, cores: Sequence[int] | None = None, gpus: Sequence[str] | None = None
) -> list[Slot]:
  """Divides the machine into equal parts; one run alone has all of it.

  A run's cores are what XLA, OpenCV and data loaders size their thread pools by. The parts are equal,
  those of an uneven rest stay idle, because the number of threads may change a sum's last bits.
  Runs share a GPU only where there are more runs than GPUs, and each then gets a part of its memory.

  Args:
    parallel: Runs beside each other, at least 1.
    cores: Numbers of the cores; None: those of this process.
    gpus: Names of the GPUs; None: those of this machine.
  """
  if parallel == 1:
    return [Slot()]
  cores = _cores() if cores is None else cores
  gpus = _gpus() if gpus is None else gpus
  share = max(1, len(cores) // parallel)
  return [
    Slot(
      frozenset(cores[(i * share + k) % len(cores)] for k in range(share) if cores),
      _environment(i, parallel, gpus),
    )
    for i in range(parallel)
  ]


def _environment(index: int, parallel: int, gpus: Sequence[str]) -> dict[str, str]:
  if not gpus:
    return {}
  share = len(gpus) // parallel
  if share:
    return {'CUDA_VISIBLE_DEVICES': ','.join(gpus[index * share : (index + 1) * share])}
  together = -(-parallel // len(gpus))
  return {
    'CUDA_VISIBLE_DEVICES': gpus[index % len(gpus)],
    'XLA_PYTHON_CLIENT_MEM_FRACTION': f'{_GPU_MEMORY / together:.2f}',
  }


def _cores() -> list[int]:
  if not hasattr(os, 'sched_getaffinity'):  # macOS: nothing can be pinned.
    return []
  return sorted(os.sched_getaffinity(0))


def _gpus() -> list[str]:
  named = os.environ.get('CUDA_VISIBLE_DEVICES')
  if named is not None:
    return [name for name in named.split(',') if name]
  if not shutil.which('nvidia-smi'):
    return []
  listed = subprocess.run(['nvidia-smi', '-L'], capture_output=True, text=True, check=False)
  gpus = [line for line in listed.stdout.splitlines() if line.startswith('GPU ')]
  return [str(i) for i in range(len(gpus))]
