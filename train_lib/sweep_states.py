"""How far a run of a sweep has come, from its folder and from what it prints."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from errors import DataError
from train_lib import checkpoint
from train_lib.experiment import lengths, parse
from train_lib.sweep_runs import Run

FINISHED, INTERRUPTED, FAILED, SKIPPED, RUNNING, QUEUED = (
  'finished',
  'interrupted',
  'failed',
  'skipped',
  'running',
  'queued',
)
_STEP = re.compile(r'step ([\d,]+)/([\d,]+) \| (.*)')
_EVALUATION = re.compile(r'eval of (\S+) at [\d,]+: (.*) \| [^|]*')
_ERROR = re.compile(r'(?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b.*')
_TIME = re.compile(r'ETA (\S+)')


@dataclass(frozen=True)
class Found:
  """What is in a run's folder.

  Attributes:
    finished: Whether its newest checkpoint is of its last step, and evaluated.
    step: Of that checkpoint; 0: there is none.
    metrics: Of the evaluation at that step; empty: there was none.
  """

  finished: bool = False
  step: int = 0
  metrics: Mapping[str, float] = field(default_factory=dict)


def look(run: Run) -> Found:
  """Reads a run's newest checkpoint, without its arrays.

  A run has finished if that is of the last step of the config it was asked to train, on the data that
  it names, and says that the evaluation due was done: it is written whole or not at all, after that.

  Raises:
    DataError: The checkpoint's description cannot be read.
  """
  step = checkpoint.latest_step(run.workdir)
  if step is None:
    return Found()
  file = run.workdir / checkpoint.FOLDER / str(step) / 'meta' / 'metadata'
  try:
    meta = json.loads(file.read_text(encoding='utf-8'))
    total = lengths(parse(run.resolved), meta['position']['examples']).total
    return Found(step >= total and meta['evaluated'], step, meta['metrics'] or {})
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise DataError(f'{file} cannot be read: {error!r}. Remove that checkpoint.') from error


@dataclass
class Seen:
  """What a run has printed of its progress so far."""

  step: int = 0
  total: int = 0
  metrics: str = ''
  left: str = ''
  error: str = ''

  def read(self, lines: Iterable[str]) -> None:
    """Takes further lines."""
    for line in lines:
      if found := _STEP.match(line):
        self.step, self.total = (int(number.replace(',', '')) for number in found.groups()[:2])
        self.metrics = ' | '.join(found[3].split(' | ')[:2])
        self.left = left[1] if (left := _TIME.search(found[3])) else ''
      elif found := _EVALUATION.match(line):
        self.metrics = found[2]
      elif _ERROR.match(line):
        self.error = line.strip()


class LogTail:
  """The lines that a growing file gains, from its size now on."""

  def __init__(self, path: Path):
    self._path = path
    self._place = path.stat().st_size if path.exists() else 0
    self.last = ''

  def lines(self) -> list[str]:
    """Whole lines since the last call."""
    with self._path.open('rb') as file:
      file.seek(self._place)
      text = file.read()
    whole = text[: text.rfind(b'\n') + 1]
    self._place += len(whole)
    # A progress bar rewrites its line.
    found = [part.split('\r')[-1] for part in whole.decode(errors='replace').splitlines()]
    self.last = next((line for line in reversed(found) if line.strip()), self.last)
    return found
