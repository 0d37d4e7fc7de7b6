"""The environment of libtpu, the library that JAX loads to drive TPUs and to compile for them.

JAX asks it for chips wherever it is installed, and without any it complains on stderr and starts a
folder of logs. Everything here must be called before JAX makes its first array; nothing imports JAX.
"""

import glob
import os

# Read by libtpu in place of the metadata of a TPU machine; the values matter to no compilation.
_NO_TPU = {
  'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_LOG_DIR': 'disabled',
}


def has_tpu() -> bool:
  """Whether a TPU may be attached to this machine: the device files that libtpu opens."""
  return bool(glob.glob('/dev/accel[0-9]*') or glob.glob('/dev/vfio/[0-9]*'))


def quiet_without_tpu() -> None:
  """Keeps libtpu quiet where there is no TPU; where there may be one, changes nothing."""
  if not has_tpu():
    for name, value in _NO_TPU.items():
      os.environ.setdefault(name, value)


def prepare_to_compile() -> None:
  """Sets the environment for compiling for TPUs that are elsewhere, beside any other process."""
  quiet_without_tpu()
  # Even on a TPU machine arrays belong on the CPU here: the chips may be in use.
  os.environ['JAX_PLATFORMS'] = 'cpu'
  # libtpu otherwise admits one process a machine.
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
