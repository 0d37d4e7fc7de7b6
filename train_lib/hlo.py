"""Reads what a compiled TPU program says about itself: cycles, collectives and kernels.

The text is `jax.stages.Compiled.as_text()`: the scheduled HLO, in which nearly every operation has
`estimated_cycles`. What runs is the entry computation, and the body of each `while` as often as the
constant in its condition says; fused computations are parts of the operation that calls them.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

COLLECTIVES = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
)

_COMPUTATION = re.compile(r'(?P<entry>ENTRY )?%(?P<name>[\w.\-]+) \(.*\) -> .*\{$')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_OPERATION = re.compile(r'\s+(?:ROOT )?%[\w.\-]+ = (?P<shape>.*?) (?P<kind>[a-z][\w\-]*)\(')
_ARRAY = re.compile(r'\b(pred|[a-z]+\d+)(?:e\d+m\d+\w*)?\[([\d,]*)\]')
_CALLED = re.compile(r'\b(?:calls|to_apply)=%([\w.\-]+)')
_WHILE = re.compile(r' while\(.*\bcondition=%([\w.\-]+), body=%([\w.\-]+)')
_INTEGER = re.compile(r' = [su]32\[\]\S* constant\((\d+)\)')
_NAME = re.compile(r'%([\w.\-]+)')
_CHANNEL = re.compile(r'\bchannel_id=(\d+)')


@dataclasses.dataclass(frozen=True)
class Traffic:
  """One kind of collective in one run of a program.

  Attributes:
    count: How often it runs.
    bytes: Size of the whole arrays: what an all-gather makes, an all-reduce sums, a reduce-scatter
      takes.
  """

  count: int
  bytes: int


@dataclasses.dataclass(frozen=True)
class Schedule:
  """What one run of a program does, on one chip.

  Attributes:
    cycles: The compiler's estimate for all operations but waiting for collectives and kernels.
    collectives: Kind -> traffic; kinds that do not occur are left out.
    kernels: How often Pallas kernels run.
    loops: Number of `while` loops.
  """

  cycles: int
  collectives: Mapping[str, Traffic]
  kernels: int
  loops: int


def schedule(text: str) -> Schedule:
  """Adds up a program's operations, each as often as it runs.

  Raises:
    ValueError: The text has no entry computation.
  """
  computations, entry = _computations(text)
  cycles, kernels, loops = 0, 0, 0
  traffic: dict[str, list[int]] = {}
  for name, times in _running(computations, entry):
    lines = computations[name]
    loops += sum(bool(_WHILE.search(line)) for line in lines)
    cycles += times * sum(int(n) for line in lines for n in _CYCLES.findall(line))
    kernels += times * sum('custom_call_target="tpu_custom_call"' in line for line in lines)
    for kind, size in _collectives(computations, name):
      count, total = traffic.get(kind, (0, 0))
      traffic[kind] = [count + times, total + times * size]
  collectives = {kind: Traffic(*traffic[kind]) for kind in COLLECTIVES if kind in traffic}
  return Schedule(cycles, collectives, kernels, loops)


def array_bytes(shape: str) -> int:
  """Bytes of an HLO shape, summed over a tuple: `(f32[2,3]{1,0}, bf16[])` is 26."""
  total = 0
  for kind, sizes in _ARRAY.findall(shape):
    bits = 8 if kind == 'pred' else int(re.sub(r'\D', '', kind))
    total += math.ceil(bits * math.prod(int(n) for n in sizes.split(',') if n) / 8)
  return total


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
  """Name -> lines, and the entry's name. A kernel's metadata may hold lines of any other form."""
  computations: dict[str, list[str]] = {}
  entry, lines = '', []
  for line in text.splitlines():
    if header := _COMPUTATION.match(line):
      lines = computations.setdefault(header['name'], [])
      entry = header['name'] if header['entry'] else entry
    elif line.rstrip() == '}':
      lines = []
    else:
      lines.append(line)
  if not entry:
    raise ValueError('This is no HLO text: it has no ENTRY computation.')
  return computations, entry


def _running(
  computations: Mapping[str, list[str]], name: str, times: int = 1
) -> Iterator[tuple[str, int]]:
  """(computation, how often it runs): this one and those it runs."""
  yield name, times
  for line in computations[name]:
    if found := _WHILE.search(line):
      condition, body = found.groups()
      yield from _running(computations, body, times * _trips(computations, condition))
    elif ' call(' in line or ' conditional(' in line:
      for called in _NAME.findall(line):
        # Every branch counts: the sum is an upper bound.
        yield from _running(computations, called, times) if called in computations else ()


def _trips(computations: Mapping[str, list[str]], condition: str) -> int:
  """The bound that a loop's counter, which starts at 0, is compared with; 1 if it is computed."""
  lines = computations[condition]
  bounds = [int(n) for line in lines for n in _INTEGER.findall(line)]
  bounds += [_trips(computations, c) for line in lines for c in _CALLED.findall(line)]
  return max(bounds, default=1)


def _collectives(computations: Mapping[str, list[str]], name: str) -> Iterator[tuple[str, int]]:
  """(kind, bytes) of each collective that one run of a computation starts."""
  overlapped = set()
  for line in computations[name]:
    if own := _collective(line):
      yield own
    for called in _fused_into(line):
      for kind, size, channel in _fused(computations, called):
        # One that overlaps with computing is repeated in every fusion it overlaps with.
        if kind == 'reduce-scatter' or channel not in overlapped:
          overlapped.add(channel)
          yield kind, size


def _fused_into(line: str) -> list[str]:
  return _CALLED.findall(line) if ' fusion(' in line or ' async-start(' in line else []


def _fused(computations: Mapping[str, list[str]], name: str) -> Iterator[tuple[str, int, str]]:
  """(kind, bytes, channel) of the collectives within a fused computation."""
  for line in computations[name]:
    if found := _collective(line):
      # A reduce-scatter is an all-reduce in a computation of that name.
      kind = 'reduce-scatter' if name.startswith('all-reduce-scatter') else found[0]
      channel = _CHANNEL.search(line)
      yield kind, found[1], channel[1] if channel else line
    for called in _fused_into(line):
      yield from _fused(computations, called)


def _collective(line: str) -> tuple[str, int] | None:
  """(kind, bytes) of an operation that is a collective. An asynchronous one counts at its end, whose
  shape is that of the results alone."""
  operation = _OPERATION.match(line)
  kind = operation['kind'].removesuffix('-done') if operation else ''
  if not operation or kind not in COLLECTIVES:
    return None
  return kind, array_bytes(operation['shape'])
