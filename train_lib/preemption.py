"""Being asked to stop: SIGTERM, as preempted machines and batch systems send it, or Ctrl-C."""

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

  The first Ctrl-C is raised here too, as `KeyboardInterrupt`: raised wherever Python happens to be,
  it would be lost in a callback of the garbage collector. A second one ends the run at once.
  """

  def __init__(self) -> None:
    self._received = False
    self._interrupted = False
    self._calls = 0
    self._previous: dict[int, Any] = {}
    # Python runs signal handlers in the main thread only; elsewhere, as in a notebook's
    # background thread, the signal keeps its meaning. With several processes JAX listens itself.
    main = threading.current_thread() is threading.main_thread()
    self._listens = main and jax.process_count() == 1

  def __enter__(self) -> Self:
    if self._listens:
      self._previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._on_signal)
      if (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
      ):  # Not one told to ignore it.
        self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._on_signal)
    return self

  def __exit__(self, *_: Any) -> None:
    for signum, handler in self._previous.items():
      signal.signal(signum, handler)
    self._previous = {}

  def _on_signal(self, signum: int, frame: FrameType | None) -> None:
    del frame
    if signum == signal.SIGINT:
      self._interrupted = True
      signal.signal(signum, self._previous.pop(signum))
    else:
      self._received = True

  def __call__(self) -> bool:
    """Whether to stop here.

    Raises:
      KeyboardInterrupt: Ctrl-C was pressed.
    """
    if self._interrupted:
      raise KeyboardInterrupt
    if jax.process_count() > 1:
      self._calls += 1
      self._received |= multihost_utils.reached_preemption_sync_point(self._calls)
    return self._received
