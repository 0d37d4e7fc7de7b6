"""Builds the shards of a plan in a pool of processes that end with it, and shows the progress."""

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from datasets.build import Plan, ShardTask, build_shard
from datasets.parent import end_with_parent
from errors import DataError

LINE_EVERY_SECONDS = 30.0
_POLL_SECONDS = 0.2


def run_processes(plan: Plan, tasks: Sequence[ShardTask], workers: int | None = None) -> None:
  """Builds the shards in `workers` processes (default: as many as cores), each with a core's work.

  Raises:
    DataError: a worker process died, or a shard could not be written. What other workers finished
      is kept.
  """
  workers = min(workers or os.cpu_count() or 1, len(tasks))
  context = multiprocessing.get_context('spawn')
  # Written and rejected rows of each task, then whether to stop. Each word has one writer: no lock
  # that a killed worker could hold for ever.
  board = context.RawArray('q', 2 * len(tasks) + 1)
  pool = ProcessPoolExecutor(workers, context, _start_worker, (board,))
  total = sum(len(task.rows) for task in tasks)
  try:
    futures = {pool.submit(_work, task, i) for i, task in enumerate(tasks)}
    with _progress(plan, total) as show:
      while futures:
        done, futures = wait(futures, _POLL_SECONDS, FIRST_COMPLETED)
        for future in done:
          future.result()
        show(sum(board[:-1:2]), sum(board[1:-1:2]))
  except BrokenProcessPool as error:
    raise _death(tasks) from error
  finally:
    board[-1] = 1
    pool.shutdown(cancel_futures=True)


_BOARD: Any = None  # in a worker, what its parent gave it


class _Stopped(Exception):
  """The parent asked to stop."""


def _start_worker(board: Any) -> None:
  """Leaves Ctrl-C to the parent, and ends with it."""
  global _BOARD
  _BOARD = board
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  end_with_parent()


def _work(task: ShardTask, number: int) -> None:
  def report(written: bool) -> None:
    _BOARD[2 * number + (not written)] += 1
    if _BOARD[-1]:
      raise _Stopped

  build_shard(task, report)


def _death(tasks: Sequence[ShardTask]) -> DataError:
  """The error for a worker that died: it names what was being converted."""
  videos = []
  for task in tasks:
    with contextlib.suppress(FileNotFoundError):
      videos.append(task.current.read_text(encoding='utf-8'))
  return DataError(
    'a worker process was ended by the system (out of memory?) or by a crash while these videos '
    f'were converted: {videos}. The same command goes on from the finished shards; if it ends at the '
    'same video again, move that file away (its row is then rejected), or give fewer --workers.'
  )


@contextlib.contextmanager
def _progress(plan: Plan, total: int) -> Iterator[Callable[[int, int], None]]:
  """Gives a function to call with (written, rejected): a bar on terminals, else a line at times."""
  console = Console()
  there = f'{plan.num_rows - total:,} rows done before, ' if total < plan.num_rows else ''
  print(f'{plan.split}: {there}{total:,} rows to convert ...', flush=True)
  if not console.is_terminal:
    yield _Lines(plan.split, total)
    return
  columns = (TextColumn('{task.description}'), BarColumn(), TextColumn('{task.fields[count]}'))
  with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
    item = bar.add_task(plan.split, total=total, count='')

    def show(written: int, rejected: int) -> None:
      count = f'{written:,} written, {rejected:,} rejected of {total:,}'
      bar.update(item, completed=written + rejected, count=count)

    yield show


class _Lines:
  """Prints a line of progress every half minute."""

  def __init__(self, split: str, total: int):
    self._split = split
    self._total = total
    self._begin = self._last = time.monotonic()

  def __call__(self, written: int, rejected: int) -> None:
    now = time.monotonic()
    done = written + rejected
    if now - self._last < LINE_EVERY_SECONDS or not done:
      return
    self._last = now
    left = (now - self._begin) / done * (self._total - done)
    print(
      f'{self._split}: {written:,} written, {rejected:,} rejected of {self._total:,}, '
      f'ETA {left / 60:.0f} min',
      flush=True,
    )
