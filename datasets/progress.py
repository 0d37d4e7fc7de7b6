"""A progress bar for what may take long."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.progress import Progress

T = TypeVar('T')
AFTER_SECONDS = 2.0


def with_progress(items: Iterable[T], total: int, title: str) -> Iterator[T]:
  """Passes items on and draws a bar once they have taken longer than two seconds."""
  bar = Progress(transient=True, auto_refresh=False)
  task = bar.add_task(title, total=total)
  refresh = time.monotonic() + AFTER_SECONDS
  try:
    for done, item in enumerate(items, start=1):
      yield item
      if time.monotonic() >= refresh:
        bar.start()
        bar.update(task, completed=done, refresh=True)
        refresh = time.monotonic() + 0.2
  finally:
    if bar.live.is_started:
      bar.stop()
