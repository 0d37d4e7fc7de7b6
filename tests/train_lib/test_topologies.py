import pytest

from errors import ConfigError
from train_lib import topologies
from train_lib.topologies import topology


@pytest.mark.parametrize(
  ('name', 'chips'),
  [('v4:4x4x4', 64), ('v5e:1x1', 1), ('v5e:16x16', 256), ('v5p:16x16x24', 6144), ('v6e:2x4', 8)],
)
def test_slices_have_their_chips(name, chips):
  found = topology(name)
  assert found.chips == chips
  assert found.chip is topologies.CHIPS[name[:-1].split(':')[0]]


@pytest.mark.parametrize(
  ('name', 'nearest'),
  [
    ('v5e:32x32', 'v5e:16x16'),  # libtpu itself takes it.
    ('v5e:3x5', 'v5e:4x4'),
    ('v4:8x4x4', 'v4:4x4x8'),
    ('v4:16x16x24', 'v4:16x16x16'),
    ('v4-128', 'v4:4x4x4'),
    ('v5litepod-256', 'v5e:16x16'),
    ('v7e:16x16', 'v6e:16x16'),
    ('v5e:0x4', 'v5e:4x4'),
  ],
)
def test_others_are_errors_with_the_nearest(name, nearest):
  with pytest.raises(ConfigError, match=f'--topology={name} is no TPU slice') as error:
    topology(name)
  assert f'Did you mean {nearest}?' in str(error.value)


def test_the_error_lists_what_there_is():
  with pytest.raises(ConfigError) as error:
    topology('v9:1')
  assert str(error.value).splitlines()[1:] == [
    '  v4:  2x2x1 2x2x2 2x2x4 2x4x4, or AxBxC of multiples of 4 with A <= B <= C <= 24 and at most '
    '4,096 chips',
    '  v5e:  1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16',
    '  v5p:  2x2x1 2x2x2 2x2x4 2x4x4, or AxBxC of multiples of 4 with A <= B <= C <= 24 and at most '
    '6,144 chips',
    '  v6e:  1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16',
  ]


def test_without_libtpu_the_package_is_named(monkeypatch):
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  with pytest.raises(ConfigError, match=r'pip install "libtpu==0\.0\.42\.\*"'):
    topology('v5e:2x2').devices()
