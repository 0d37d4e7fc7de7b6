"""How every command of the project starts and fails: a mistake is one message, no traceback."""

import difflib
import os
import select
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from errors import ConfigError, TubeletError
from train_lib import libtpu

# Libraries that would print their own start-up notes between the lines of a run.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
libtpu.quiet_without_tpu()

INTERRUPTED = 130


def run(
  main: Callable[..., None],
  arguments: Sequence[str] = (),
  optional: Sequence[str] = (),
  *,
  more: bool = False,
  interrupted: str = '',
) -> None:
  """Parses flags and calls `main`; a named error ends with its exit code, a flag mistake with 1.

  Args:
    main: Given the command's arguments that are not flags, as strings.
    arguments: Names of these arguments, for messages.
    optional: Names of those that may follow them.
    more: Whether any number of further ones may follow.
    interrupted: What becomes of the work after Ctrl-C, as a sentence.
  """

  def checked(argv: list[str]) -> None:
    try:
      _checked(main, arguments, optional, argv[1:], more)
    except KeyboardInterrupt:
      print(f'\nInterrupted. {interrupted}'.rstrip(' '), file=sys.stderr)
      sys.exit(INTERRUPTED)

  try:
    try:
      app.run(checked, flags_parser=_parse)
    finally:
      sys.stdout.flush()
  except BrokenPipeError:
    if not _output_is_cut():
      raise
    # What is still in the buffer would fail once more when the interpreter exits.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)


def _output_is_cut() -> bool:
  """Whether nobody reads standard output any more, as after `| head`."""
  poll = select.poll()
  poll.register(sys.stdout.fileno(), 0)  # Reports errors and hang-ups only.
  return bool(poll.poll(0))


def _checked(
  main: Callable[..., None],
  names: Sequence[str],
  optional: Sequence[str],
  given: list[str],
  more: bool = False,
) -> None:
  most = len(names) + len(optional)
  if len(given) > most and not more:
    extra = given[most]
    sys.exit(f'Unexpected argument {extra!r}: every option is --name=value. See --help.')
  if len(given) < len(names):
    sys.exit(f'The argument {names[len(given)]} is missing. See --help.')
  if not any(a.lstrip('-').startswith('verbosity') for a in sys.argv):
    logging.set_verbosity(logging.WARNING)  # absl's own default lets libraries chatter.
  try:
    main(*given)
  except TubeletError as error:
    print(f'{type(error).__name__}: {error}', file=sys.stderr)
    sys.exit(error.exit_code)


def _parse(argv: list[str]) -> list[str]:
  """Parses flags; whatever a config file or a `--config.KEY` gets wrong is one message."""
  try:
    rest: list[str] = flags.FLAGS(argv)
    # `ml_collections` reports a missing file only when the config is used: use it now.
    if 'config' in flags.FLAGS and flags.FLAGS['config'].value is not None:
      flags.FLAGS.config.to_dict()
    return rest
  except BrokenPipeError:
    raise
  except Exception as error:  # noqa: BLE001 - a config file is code: it may raise anything.
    sys.exit(_config_mistake(argv, error) or f'{error}\nSee --help.')


def _config_mistake(argv: list[str], error: BaseException) -> str | None:
  """The message for a mistake in `--config=FILE` or `--config.KEY=VALUE`, or None if elsewhere."""
  given = config_flags_given(argv)
  paths = [value for name, value in given if name == 'config']
  if not paths:
    return None
  try:
    config = load_config(paths[0]).to_dict()
  except ConfigError as without_overrides:
    return f'ConfigError: --config={without_overrides}'
  mistake = _override_mistake(config, given, error)
  return f'ConfigError: {mistake}' if mistake else None


def _override_mistake(
  config: dict[str, Any], given: Sequence[tuple[str, str]], error: BaseException
) -> str | None:
  """The message for a mistake in `--config.KEY=VALUE`, or None if it is none of these."""
  for name, value in given:
    unknown = _unknown_key(config, name.split('.')[1:])
    if unknown:
      return unknown
    if f'{name}={value}' in str(error):
      return f'--{name}={value} has another type than the config: {_innermost(error)}'
  return None


def load_config(path: str, overrides: Mapping[str, str] | None = None) -> ConfigDict:
  """The config of `FILE.py` or `FILE.py:ARGUMENT`, changed as by `--config.KEY=VALUE`.

  Raises:
    ConfigError: It cannot be loaded, then the message begins with the path; or a key does not exist or
      has another type.
  """
  changes = [(f'config.{key}', value) for key, value in (overrides or {}).items()]
  alone = ['', f'--config={path}', *(f'--{name}={value}' for name, value in changes)]
  values = flags.FlagValues()
  config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=alone)
  try:
    values(alone)
    values.config.to_dict()  # A missing file is reported only when the config is used.
  except Exception as error:
    unchanged = load_config(path).to_dict() if changes else {}
    mistake = _override_mistake(unchanged, changes, error)
    raise ConfigError(mistake or f'{path} cannot be loaded: {_innermost(error)}') from error
  return values.config


def config_flags_given(argv: list[str]) -> list[tuple[str, str]]:
  """(name, value) of `config` and `config.KEY` flags, written with `=` or with a space."""
  given = []
  for argument, following in zip(argv, [*argv[1:], '']):
    name, equals, value = argument.lstrip('-').partition('=')
    if argument.startswith('-') and name.split('.')[0] == 'config':
      given.append((name, value if equals else following))
  return given


def _unknown_key(tree: Any, keys: list[str]) -> str | None:
  """What is wrong with a dotted key, walking down from the config's root."""
  for depth, key in enumerate(keys):
    known = sorted(tree) if isinstance(tree, dict) else []
    if key not in known:
      path, parent = '.'.join(keys[: depth + 1]), f'`{".".join(keys[:depth])}`' if depth else 'it'
      close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
      hint = f' Did you mean `{".".join([*keys[:depth], close[0]])}`?' if close else ''
      return (
        f'Unknown config key `{path}`.{hint} Known in {parent}: {", ".join(known) or "nothing"}.'
      )
    tree = tree[key]
  return None


def _innermost(error: BaseException) -> str:
  """The first cause of an error, or the last line of one that only quotes a traceback."""
  while error.__cause__ or error.__context__:
    error = error.__cause__ or error.__context__  # type: ignore[assignment]
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  wanted = [line for line in lines if 'Errno' in line or 'Error:' in line] or lines[-1:]
  return wanted[-1] if wanted else type(error).__name__
