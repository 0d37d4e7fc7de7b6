"""Where a run's wall time goes: compiled steps, and everything that keeps the device from them."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, Self

import jax

from train_lib.console import duration

# What a run spends time on. `data` is waiting for a batch while the device has nothing to do,
# `starting` is reading the data's index, weights or a checkpoint.
KINDS = ('steps', 'data', 'evaluating', 'saving', 'compiling', 'starting')

# JAX's own measurements of what precedes the first run of a compiled function.
_COMPILING = (
  '/jax/core/compile/jaxpr_trace_duration',
  '/jax/core/compile/jaxpr_to_mlir_module_duration',
  '/jax/core/compile/backend_compile_duration',
)
_CACHE_HIT = '/jax/compilation_cache/cache_hits'


class Goodput:
  """Adds up the seconds of each kind from its creation on; use it as a context.

  Compiling within a span of another kind counts as compiling alone. Whatever is in no span, such as
  writing metrics, is the rest to the wall time.

  Attributes:
    cache_hits: Programs read from the persistent compilation cache instead of being compiled.
  """

  def __init__(self) -> None:
    self._seconds = dict.fromkeys(KINDS, 0.0)
    self._begin = time.monotonic()
    self._compiling = 0.0
    self._last = (self._begin, dict(self._seconds))
    self.cache_hits = 0

  def __enter__(self) -> Self:
    jax.monitoring.register_event_duration_secs_listener(self._on_duration)
    jax.monitoring.register_event_listener(self._on_event)
    return self

  def __exit__(self, *_: Any) -> None:
    jax.monitoring.unregister_event_duration_listener(self._on_duration)
    jax.monitoring.unregister_event_listener(self._on_event)

  def _on_duration(self, event: str, duration_secs: float, **_: Any) -> None:
    if event in _COMPILING:
      self._compiling += duration_secs

  def _on_event(self, event: str, **_: Any) -> None:
    self.cache_hits += event == _CACHE_HIT

  @contextlib.contextmanager
  def spend(self, kind: str) -> Iterator[None]:
    """Counts the time of the block as `kind`, but for the compiling within. Spans do not nest."""
    begin, self._compiling = time.monotonic(), 0.0
    try:
      yield
    finally:
      elapsed = time.monotonic() - begin
      compiling = min(self._compiling, elapsed)
      self._seconds['compiling'] += compiling
      self._seconds[kind] += elapsed - compiling

  def wait_for_data(self, stream: Iterator[Any], device_is_idle: Any) -> Any:
    """The stream's next batch. The wait counts as `data` only if the device had run dry by its end;
    otherwise the device was working meanwhile, and it counts as `steps`."""
    begin = time.monotonic()
    batch = next(stream)
    elapsed = time.monotonic() - begin
    self._seconds['data' if device_is_idle() else 'steps'] += elapsed
    return batch

  def shares(self) -> dict[str, float]:
    """Share of each kind in the wall time since the last call, as `time/KIND`, in [0, 1]."""
    now, (then, before) = time.monotonic(), self._last
    self._last = (now, dict(self._seconds))
    elapsed = max(now - then, 1e-9)
    return {f'time/{k}': (v - before[k]) / elapsed for k, v in self._seconds.items()}

  @property
  def seconds(self) -> Mapping[str, float]:
    """Seconds of each kind so far."""
    return dict(self._seconds)

  def summary(self) -> str:
    """The whole wall time and the share of each kind, in one line."""
    wall = max(time.monotonic() - self._begin, 1e-9)
    shares = [(kind, seconds / wall) for kind, seconds in self._seconds.items()]
    shares.append(('other', max(0.0, 1 - sum(share for _, share in shares))))
    parts = ', '.join(f'{kind} {100 * share:.1f} %' for kind, share in shares)
    hits = f' ({self.cache_hits} programs from the compilation cache)' if self.cache_hits else ''
    return f'{duration(wall)}: {parts}{hits}'
