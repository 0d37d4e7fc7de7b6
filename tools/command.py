"""How every command of the project starts and fails: one line for a mistake, no traceback."""

import os
import re
import sys
from collections.abc import Callable

from absl import app, flags, logging

from errors import TubeletError

# Libraries that would print their own start-up notes between the lines of a run.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')


def run(main: Callable[[], None]) -> None:
  """Parses flags and calls `main`; named errors and flag mistakes end with exit code 1 or 2."""
  app.run(lambda argv: _checked(main, argv), flags_parser=_parse)


def _checked(main: Callable[[], None], argv: list[str]) -> None:
  if len(argv) > 1:
    sys.exit(f'Unexpected argument {argv[1]!r}: every option is --name=value. See --help.')
  _check_config()
  if not any(a.lstrip('-').startswith('verbosity') for a in sys.argv):
    logging.set_verbosity(logging.WARNING)  # absl's own default lets libraries chatter.
  try:
    main()
  except TubeletError as error:
    sys.exit(f'{type(error).__name__}: {error}')


def _check_config() -> None:
  """`ml_collections` reports a config file it cannot read only when the config is first used."""
  if 'config' in flags.FLAGS:
    try:
      flags.FLAGS.config.to_dict()
    except OSError as error:
      reason = ' '.join(str(error).split('Attempted')[-1].split())
      sys.exit(f'ConfigError: --config cannot be loaded: {reason}')


def _parse(argv: list[str]) -> list[str]:
  """A misspelt `--config.KEY`, or a value of the wrong type, is one line too."""
  try:
    rest: list[str] = app.parse_flags_with_usage(argv)
    return rest
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    hint = re.search(r'Did you mean "(.+?)" instead of "(.+?)"', str(error))
    if hint:
      sys.exit(f'ConfigError: --config has no key {hint[2]!r}. Did you mean {hint[1]!r}?')
    sys.exit(f'ConfigError: a --config.KEY does not exist or takes another type: {error}')
