"""Which kind of device a run uses. What was asked for is used, or the run stops: never the CPU instead."""

import jax
from jax._src import hardware_utils

from errors import ConfigError
from train_lib.console import say

PLATFORMS = ('auto', 'cpu', 'gpu', 'tpu')
_JAX_NAMES = {'cpu': 'cpu', 'gpu': 'cuda,cpu', 'tpu': 'tpu,cpu'}


def select(platform: str) -> None:
  """Tells JAX which platform to use, before any device is; `'auto'` leaves it to JAX.

  Args:
    platform: one of `PLATFORMS`.
  """
  if platform != 'auto':
    jax.config.update('jax_platforms', _JAX_NAMES[platform])


def check(platform: str) -> None:
  """Brings the devices up, says what they are, and refuses any but those that `select` was told.

  With `'auto'`, the CPU is refused on a machine that has an accelerator, unless `JAX_PLATFORMS`
  names it.

  Raises:
    ConfigError: The platform is not there; says what is.
  """
  asked = _asked_of_jax()
  try:
    found = jax.default_backend()
  except (RuntimeError, AssertionError) as error:
    raise ConfigError(
      f'--platform={platform}{f" (JAX_PLATFORMS={asked})" if platform == "auto" else ""} does not '
      f'come up: {error or "no such device"}. This machine has {_hardware() or "no accelerator"}; '
      f'{_advice(platform)}'
    ) from error
  if platform not in ('auto', found):
    raise ConfigError(
      f'--platform={platform}, but JAX finds only {_devices()}. This machine has '
      f'{_hardware() or "no accelerator"}; {_advice(platform)}'
    )
  hardware = _hardware()
  if platform == 'auto' and found == 'cpu' and hardware and not asked:
    raise ConfigError(
      f'This machine has {hardware}, but JAX came up on the CPU. Install "jax[tpu]" or '
      '"jax[cuda12]" (see README, Installing), or say --platform=cpu.'
    )
  hosts = f' of {jax.process_count()} processes' if jax.process_count() > 1 else ''
  say(f'Devices: {_devices()}{hosts}.')


def _asked_of_jax() -> str:
  """What `select`, the user (`JAX_PLATFORMS`) or a TPU host has told JAX; empty: nothing."""
  return jax.config.values['jax_platforms'] or ''


def _devices() -> str:
  devices = jax.devices()
  return f'{len(devices)} x {devices[0].device_kind}'


def _hardware() -> str:
  """Accelerators whose drivers or PCI numbers this machine shows, whether JAX can use them or not."""
  # Not public; JAX keeps the list of chips for a warning of its own.
  chips, _ = hardware_utils.num_available_tpu_chips_and_device_id()
  found = [f'{chips} TPU chips'] if chips else []
  return ' and '.join(found + ['an NVIDIA GPU'] * hardware_utils.has_visible_nvidia_gpu())


def _advice(platform: str) -> str:
  packages = {'gpu': 'jax[cuda12]', 'tpu': 'jax[tpu]'}
  if platform not in packages:
    return 'choose another with --platform.'
  return f'it needs "{packages[platform]}" installed, and a device that no other program holds.'
