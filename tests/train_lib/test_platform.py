import pytest

from errors import ConfigError
from train_lib import platform


@pytest.fixture
def machine(monkeypatch):
  """Sets what JAX was told, what it came up on, and what the machine has."""

  def machine_(found='cpu', told='', chips=0, gpu=False):
    monkeypatch.setattr(platform, '_asked_of_jax', lambda: told)
    monkeypatch.setattr(platform.jax, 'default_backend', lambda: found)
    hardware = platform.hardware_utils
    monkeypatch.setattr(hardware, 'num_available_tpu_chips_and_device_id', lambda: (chips, None))
    monkeypatch.setattr(hardware, 'has_visible_nvidia_gpu', lambda: gpu)

  return machine_


@pytest.mark.parametrize(
  ('asked', 'setting', 'message'),
  [
    ('tpu', {}, r'--platform=tpu, but JAX finds only 1 x cpu. This machine has no accelerator'),
    (
      'gpu',
      {'gpu': True},
      r'only 1 x cpu. This machine has an NVIDIA GPU; it needs "jax\[cuda12\]"',
    ),
    ('auto', {'gpu': True}, r'This machine has an NVIDIA GPU, but JAX came up on the CPU'),
    ('auto', {'chips': 4}, r'has 4 TPU chips, but JAX came up on the CPU.* say --platform=cpu'),
    ('cpu', {'found': 'gpu'}, r'--platform=cpu, but JAX finds only'),
  ],
)
def test_the_cpu_never_stands_in(machine, asked, setting, message):
  machine(**setting)
  with pytest.raises(ConfigError, match=message):
    platform.check(asked)


def test_a_platform_that_fails_to_come_up_is_a_config_error(machine, monkeypatch):
  machine()

  def fails():
    raise RuntimeError("Unable to initialize backend 'tpu'")

  monkeypatch.setattr(platform.jax, 'default_backend', fails)
  with pytest.raises(ConfigError, match=r"--platform=tpu does not come up: Unable .* 'tpu'"):
    platform.check('tpu')


@pytest.mark.parametrize(
  ('asked', 'setting'),
  [('auto', {}), ('auto', {'gpu': True, 'told': 'cpu'}), ('cpu', {'chips': 4, 'told': 'cpu'})],
)
def test_the_cpu_is_used_where_it_was_meant(machine, capsys, asked, setting):
  machine(**setting)
  platform.check(asked)
  assert capsys.readouterr().out == 'Devices: 1 x cpu.\n'
