import dataclasses
from collections.abc import Mapping
from typing import Literal

import pytest

from errors import ConfigError
from train_lib import configuration
from train_lib.configuration import Component


@dataclasses.dataclass(frozen=True)
class Inner:
  rate: float
  sizes: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Outer:
  count: int
  inner: Inner
  kind: Literal['a', 'b'] = 'a'
  maybe: tuple[float, float] | None = None
  many: Mapping[str, Inner] = dataclasses.field(default_factory=dict)
  part: Component | None = None


def make_part(width: int, scale: float = 1.0, *, injected: str = '') -> tuple:
  return width, scale, injected


def parse(**values):
  return configuration.parse(Outer, {'count': 1, 'inner': {'rate': 0.5}, **values}, '')


def test_values_become_typed():
  outer = parse(inner={'rate': 1, 'sizes': [1, 2]}, maybe=(1, 2), many={'x': {'rate': 3.0}})
  assert outer == Outer(1, Inner(1.0, (1, 2)), 'a', (1.0, 2.0), {'x': Inner(3.0)})
  assert isinstance(outer.inner.rate, float)


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ({'cuont': 2}, r'Unknown config key `cuont`. Did you mean `count`\?'),
    ({'inner': {'rate': 1.0, 'sise': 2}}, r'`inner.sise`. Did you mean `sizes`\?'),
    ({'inner': {}}, r'The config lacks `inner.rate`'),
    ({'inner': 3}, r'`inner` must be a group of keys, got 3 \(int\)'),
    ({'count': 1.5}, r'`count` must be int, got 1.5 \(float\)'),
    ({'count': True}, r'`count` must be int, got True \(bool\)'),
    ({'count': '1'}, r"`count` must be int, got '1' \(str\)"),
    ({'kind': 'c'}, r"`kind` must be one of `a`, `b`, got 'c'"),
    ({'maybe': (1.0,)}, r'`maybe` must have 2 entries, got 1'),
    ({'inner': {'rate': 1.0, 'sizes': (1, 'x')}}, r"`inner.sizes\[1\]` must be int, got 'x'"),
    ({'many': {'x': {'rat': 1.0}}}, r'`many.x.rat`. Did you mean `rate`\?'),
  ],
)
def test_mistakes_name_the_key(values, message):
  with pytest.raises(ConfigError, match=message):
    parse(**values)


def test_component_is_checked_and_built():
  name = f'{__name__}:make_part'
  part = parse(part={'name': name, 'width': 4}).part
  assert part.build(injected='yes', unknown_to_the_target=1) == (4, 1.0, 'yes')


@pytest.mark.parametrize(
  ('part', 'message'),
  [
    ({'name': 'models.vivit:ViVT'}, r'models.vivit has no .ViVT.. Did you mean `ViViT`\?'),
    ({'name': 'models.nothing:X'}, r"`part.name`: cannot import 'models.nothing'"),
    ({'name': 'models.vivit'}, r"must be an import path 'package.module:attribute'"),
    ({'width': 3}, r'lacks `part.name`'),
    ({'name': f'{__name__}:make_part', 'witdh': 4}, r'`part.witdh`. Did you mean `width`\?'),
    ({'name': f'{__name__}:make_part', 'width': 'x'}, r"`part.width` must be int, got 'x'"),
  ],
)
def test_component_mistakes(part, message):
  with pytest.raises(ConfigError, match=message):
    parse(part=part)


def test_component_without_a_required_argument_fails_when_built():
  part = parse(part={'name': f'{__name__}:make_part'}).part
  with pytest.raises(ConfigError, match=r'`part`: .* needs `width`.*Add `part.width`'):
    part.build()


def test_flax_modules_are_components():
  values = {'name': 'models.heads:LinearHead', 'num_clases': 3}
  with pytest.raises(ConfigError, match=r'Did you mean `num_classes`\?'):
    parse(part=values)
