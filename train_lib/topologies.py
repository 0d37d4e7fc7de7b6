"""TPU slices by name, such as `v5e:16x16`: their chips, and devices to compile for."""

import dataclasses
import difflib
import importlib.util
import itertools
import math
import re
from collections.abc import Sequence

import jax
from jax.experimental.topologies import get_topology_desc

from errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Chip:
  """One generation of TPU.

  Attributes:
    hbm: Bytes of memory that the compiler lets a program use, a little below the chip's memory.
    flops: Peak bf16 operations a second; a multiply-add is two.
    hbm_bandwidth: Bytes a second.
    link_bandwidth: Bytes a second of one interconnect link in one direction.
    clock: Cycles a second, by which the compiler's estimates become seconds. Not published: what
      makes its estimate of a matrix product of size 8192 88 to 93 % of the peak; v6e, 70 %, is
      the least certain.
    config: libtpu's name of how the chip's cores are used.
  """

  hbm: float
  flops: float
  hbm_bandwidth: float
  link_bandwidth: float
  clock: float
  config: str = 'default'


_GIB, _TERA, _GIGA = 2.0**30, 1e12, 1e9

# Memory: as libtpu 0.0.42 reports it when a program does not fit. Peaks and bandwidths:
# cloud.google.com/tpu/docs, pages v4, v5e, v5p, v6e (two directions of 4 links, or 6 where the torus
# has three dimensions); links of v4: Jouppi et al. 2023, arXiv:2304.01433, Table 4.
# A v4 chip has two cores, which programs use as one (megacore).
CHIPS = {
  'v4': Chip(30.75 * _GIB, 275 * _TERA, 1200 * _GIGA, 50 * _GIGA, 1.05e9, 'megacore'),
  'v5e': Chip(15.75 * _GIB, 197 * _TERA, 819 * _GIGA, 50 * _GIGA, 1.5e9),
  'v5p': Chip(95.73 * _GIB, 459 * _TERA, 2765 * _GIGA, 100 * _GIGA, 1.75e9),
  'v6e': Chip(31.24 * _GIB, 918 * _TERA, 1638 * _GIGA, 100 * _GIGA, 1.75e9),
}

_Shape = tuple[int, ...]
_FLAT: tuple[_Shape, ...] = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_SMALL_CUBOIDS: tuple[_Shape, ...] = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))
# Of the generations whose slices have three dimensions.
_MAX_CHIPS = {'v4': 4096, 'v5p': 6144}


@dataclasses.dataclass(frozen=True)
class Topology:
  """A slice of TPU chips that all reach each other over the interconnect."""

  name: str
  chip: Chip
  shape: _Shape

  @property
  def chips(self) -> int:
    """Number of chips, which is that of JAX devices."""
    return math.prod(self.shape)

  def devices(self) -> list[jax.Device]:
    """Devices that can be compiled for and hold no arrays, one a chip.

    Raises:
      ConfigError: libtpu is not installed.
    """
    if importlib.util.find_spec('libtpu') is None:
      raise ConfigError(
        'Compiling for a TPU needs the package libtpu (Linux on x86-64 only), which is not '
        'installed. `make install` installs it there; elsewhere in a virtual environment: '
        '`pip install "libtpu==0.0.42.*"`, the extra `tpu-aot` of pyproject.toml.'
      )
    # A machine holds the 8 chips of a small flat slice, or 2 x 2 of any other.
    host = (*self.shape, 1)[:3] if self.chips <= 8 and len(self.shape) == 2 else (2, 2, 1)
    description = get_topology_desc(
      platform='tpu',
      topology_name=self.name,
      chip_config_name=self.chip.config,
      chips_per_host_bounds=host,
    )
    return list(description.devices)


def topology(name: str) -> Topology:
  """The slice of a name.

  Raises:
    ConfigError: There is no such slice; says which there are and which is nearest.
  """
  generation = name.partition(':')[0]
  for shape in shapes(generation) if generation in CHIPS else ():
    if name == _name(generation, shape):
      return Topology(name, CHIPS[generation], shape)
  generations = [generation] if generation in CHIPS else list(CHIPS)
  known = '\n'.join(f'  {g}:  {_known(g)}' for g in generations)
  raise ConfigError(
    f'--topology={name} is no TPU slice. Did you mean {_nearest(name)}? Slices are named '
    f'GENERATION:SHAPE; shapes in chips:\n{known}'
  )


def shapes(generation: str) -> Sequence[_Shape]:
  """The shapes in which slices of a generation exist, smallest first."""
  if generation not in _MAX_CHIPS:
    return _FLAT
  sizes = list(itertools.combinations_with_replacement(range(4, 25, 4), 3))
  cuboids = [s for s in sizes if math.prod(s) <= _MAX_CHIPS[generation]]
  return [*_SMALL_CUBOIDS, *sorted(cuboids, key=math.prod)]


def _known(generation: str) -> str:
  """The shapes of a generation for people."""
  if generation not in _MAX_CHIPS:
    return ' '.join('x'.join(map(str, s)) for s in _FLAT)
  small = ' '.join('x'.join(map(str, s)) for s in _SMALL_CUBOIDS)
  return (
    f'{small}, or AxBxC of multiples of 4 with A <= B <= C <= 24 and at most '
    f'{_MAX_CHIPS[generation]:,} chips'
  )


def _name(generation: str, shape: Sequence[int]) -> str:
  return f'{generation}:{"x".join(map(str, shape))}'


def _nearest(name: str) -> str:
  """The slice of this generation with the most similar number of chips, or the nearest name."""
  generation, *numbers = re.findall(r'^[^:-]*|\d+', name)
  generation = {'v5litepod': 'v5e'}.get(generation, generation)
  chips = float(math.prod(map(int, numbers)))
  if '-' in name and generation in _MAX_CHIPS:
    chips /= 2  # Products such as v4-128 are named by their cores.
  if generation in CHIPS and numbers and chips:
    best = min(shapes(generation), key=lambda s: abs(math.log(math.prod(s) / chips)))
    return _name(generation, best)
  names = [_name(g, s) for g in CHIPS for s in shapes(g)]
  return difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
