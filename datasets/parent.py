"""Worker processes that end with the process that started them."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
  """In a worker process: ends it once its parent has ended, even by a signal that none can catch."""
  threading.Thread(target=_wait_and_end, daemon=True).start()


def _wait_and_end() -> None:
  parent = multiprocessing.parent_process()
  if parent is not None:
    parent.join()
    os._exit(1)
