"""Being asked to stop: SIGTERM, as preempted machines and batch systems send it."""

import signal
import threading
from types import FrameType
from typing import Any, Self

import jax
from jax.experimental import multihost_utils


class Preemption:
  """Whether the run has been asked to stop; use it as a context around training.

  Call it at the same places in every process: with several, JAX's preemption service agrees on one
  call at which all of them learn of it, so that all stop at the same step.
  """

  def __init__(self) -> None:
    self._received = False
    self._calls = 0
    self._previous: Any = None
    # Python runs signal handlers in the main thread only; elsewhere, as in a notebook's
    # background thread, the signal keeps its meaning. With several processes JAX listens itself.
    main = threading.current_thread() is threading.main_thread()
    self._listens = main and jax.process_count() == 1

  def __enter__(self) -> Self:
    if self._listens:
      self._previous = signal.signal(signal.SIGTERM, self._on_signal)
    return self

  def __exit__(self, *_: Any) -> None:
    if self._listens:
      signal.signal(signal.SIGTERM, self._previous)

  def _on_signal(self, signum: int, frame: FrameType | None) -> None:
    del signum, frame
    self._received = True

  def __call__(self) -> bool:
    """Whether to stop here."""
    if jax.process_count() > 1:
      self._calls += 1
      self._received |= multihost_utils.reached_preemption_sync_point(self._calls)
    return self._received
