"""The errors a user can meet, each message with what, where, expected, got and what to do; and checks
of numbers that raise them."""


class TubeletError(Exception):
  """Base of every error raised on purpose; `main.py` prints it without a traceback.

  Attributes:
    exit_code: What the command that meets it exits with.
  """

  exit_code = 1


class ConfigError(TubeletError):
  """A config field is unknown, missing, of the wrong type, or contradicts another field."""


class DataError(TubeletError):
  """Records, a manifest or a video cannot be used as asked."""


class CheckpointMismatchError(TubeletError):
  """Stored parameters do not fit the model: the message lists the paths."""


class ExportError(TubeletError):
  """A model cannot be written in a format, or what was written does not compute what the model does."""


class CheckpointError(TubeletError):
  """A checkpoint cannot be written, or another trainer writes to the same workdir."""


class ShardingError(TubeletError):
  """An array or a batch cannot be laid out on the mesh as asked."""


class DoesNotFitError(TubeletError):
  """A program needs more memory than its devices have."""


class ProcessError(TubeletError):
  """The processes of a run on several hosts are not all there, or not alike."""


class TrainingDivergedError(TubeletError):
  """The loss, or a norm that is watched, is no longer finite."""


class SweepError(TubeletError):
  """Runs of a sweep have failed or could not be started."""


class PreemptedError(TubeletError):
  """The run was asked to stop (SIGTERM), and what it had was saved: start it again to go on."""

  exit_code = 75  # EX_TEMPFAIL of sysexits.h: a failure that goes away when tried again.


def check_range(owner: str, field: str, value: float, low: float, high: float) -> None:
  """Raises ConfigError unless `low <= value <= high`; `owner` and `field` name the place."""
  number = isinstance(value, int | float) and not isinstance(value, bool)
  if not number or not low <= value <= high:
    raise ConfigError(f'{owner}.{field}: expected a number in [{low}, {high}], got {value!r}')


def check_integer(owner: str, field: str, value: int, low: int, high: int) -> None:
  """Raises ConfigError unless `value` is an integer and `low <= value <= high`."""
  if not isinstance(value, int):
    raise ConfigError(f'{owner}.{field}: expected an integer, got {value!r}')
  check_range(owner, field, value, low, high)
