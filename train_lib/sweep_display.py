"""What a person sees while a sweep runs: a live table on a terminal, otherwise a line a change."""

import time
from collections.abc import Sequence
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from train_lib.console import duration
from train_lib.sweep_local import Job
from train_lib.sweep_states import FAILED, FINISHED, RUNNING

_COLORS = {FINISHED: 'green', RUNNING: 'blue', FAILED: 'red'}
_EVERY_SECONDS = 0.5


class Display:
  """Shows jobs; use it as a context.

  Args:
    console: Where to; None: standard output.
  """

  def __init__(self, console: Console | None = None):
    self._console = console or Console()
    self._live = Live(console=self._console, auto_refresh=False, vertical_overflow='visible')
    self._said: dict[str, str] = {}
    self._drawn = 0.0

  def __enter__(self) -> Self:
    if self._console.is_terminal:
      self._live.start()
    return self

  def __exit__(self, *_: object) -> None:
    if self._console.is_terminal:
      self._live.stop()

  def show(self, jobs: Sequence[Job]) -> None:
    """Draws the table anew, or prints what has changed since the last call."""
    if not self._console.is_terminal:
      self._say_changes(jobs)
    elif time.monotonic() - self._drawn > _EVERY_SECONDS or not any(
      j.state == RUNNING for j in jobs
    ):
      self._drawn = time.monotonic()
      self._live.update(table(jobs), refresh=True)

  def _say_changes(self, jobs: Sequence[Job]) -> None:
    for number, job in enumerate(jobs, start=1):
      text = f'{job.state}: {job.why}' if job.why else job.state
      if job.before:
        text += ' before'
      before = self._said.get(str(job.run.workdir), 'queued')
      if text == before:
        continue
      self._said[str(job.run.workdir)] = text
      took = f' in {duration(job.seconds)}' if before == RUNNING else ''
      metrics = f' | {job.seen.metrics}' if job.state == FINISHED and job.seen.metrics else ''
      print(f'[{number}/{len(jobs)}] {job.run.title} {text}{took}{metrics}', flush=True)


def table(jobs: Sequence[Job]) -> Table:
  """A line a run."""
  drawn = Table(box=None, header_style='bold', pad_edge=False)
  for name in ('run', 'seed', 'state', 'step', 'last metrics', 'time', 'left'):
    drawn.add_column(name, justify='right' if name in ('seed', 'step', 'time', 'left') else 'left')
  for job in jobs:
    seen = job.seen
    steps = f'{seen.step:,}/{seen.total:,}' if seen.total else ''
    color = _COLORS.get(job.state, 'bright_black')
    drawn.add_row(
      '/'.join(filter(None, (*job.run.groups[:1], job.run.name))),
      str(job.run.seed),
      f'[{color}]{job.state}[/]',
      steps,
      job.why or seen.metrics,
      duration(job.seconds) if job.seconds > 0 else '',
      seen.left if job.state == RUNNING else '',
    )
  return drawn
