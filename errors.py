"""The errors a user can meet. Each message says what, where, expected and got, and what to do."""


class TubeletError(Exception):
  """Base of every error raised on purpose; `main.py` prints it without a traceback."""


class ConfigError(TubeletError):
  """A config field is unknown, missing, of the wrong type, or contradicts another field."""


class DataError(TubeletError):
  """Records, a manifest or a video cannot be used as asked."""


class CheckpointMismatchError(TubeletError):
  """Stored parameters do not fit the model: the message lists the paths."""


class ShardingError(TubeletError):
  """An array or a batch cannot be laid out on the mesh as asked."""


class TrainingDivergedError(TubeletError):
  """The loss, or a norm that is watched, is no longer finite."""
