"""What a person reads while a run goes: plain lines from the first process; and commands of projects."""

import signal
import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

import jax
from absl import app, logging
from rich.progress import track

from errors import TubeletError

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


def run_command(main: Callable[[], None]) -> None:
  """Parses absl's flags and calls `main`; a named error ends with a message and its exit code."""

  def run(argv: list[str]) -> None:
    if len(argv) > 1:
      sys.exit(f'Unexpected argument {argv[1]!r}: every option is --name=value. See --help.')
    if not any(argument.lstrip('-').startswith('verbosity') for argument in sys.argv):
      logging.set_verbosity(logging.WARNING)  # absl's own default lets libraries chatter.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Ends quietly where nobody reads on: `| head`.
    try:
      main()
    except TubeletError as error:
      print(f'{type(error).__name__}: {error}', file=sys.stderr)
      sys.exit(error.exit_code)

  app.run(run)


def progress(items: Iterable[T], title: str, total: int) -> Iterable[T]:
  """A progress bar with ETA around `items`, where a person is watching: on a terminal."""
  watched = sys.stdout.isatty() and jax.process_index() == 0
  return track(items, title, total=total, transient=True, disable=not watched)
