"""What a person reads while a run goes: plain lines from the first process."""

import sys
from collections.abc import Iterable
from typing import TypeVar

import jax
from rich.progress import track

T = TypeVar('T')


def say(message: str) -> None:
  """Prints a line, from the first process only."""
  if jax.process_index() == 0:
    print(message, flush=True, file=sys.stdout)


def duration(seconds: float) -> str:
  """`75` -> `'1m15s'`; `9000` -> `'2h30m'`."""
  seconds = round(seconds)
  minutes, hours = seconds // 60, seconds // 3600
  if hours:
    return f'{hours}h{minutes % 60:02d}m'
  return f'{minutes}m{seconds % 60:02d}s' if minutes else f'{seconds}s'


def scalars(values: dict[str, float]) -> str:
  """`{'loss': 0.5}` -> `'loss 0.5'`, joined by bars."""
  return ' | '.join(f'{name} {value:.4g}' for name, value in values.items())


def progress(items: Iterable[T], title: str, total: int) -> Iterable[T]:
  """A progress bar with ETA around `items`, where a person is watching: on a terminal."""
  watched = sys.stdout.isatty() and jax.process_index() == 0
  return track(items, title, total=total, transient=True, disable=not watched)
