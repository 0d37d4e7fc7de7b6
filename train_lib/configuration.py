"""Turns nested config values into frozen dataclasses, strictly: one mistake, one error that names it."""

import collections.abc
import dataclasses
import difflib
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

from errors import ConfigError

# Filled in by the code that builds a component, never by a config.
_MODULE_INTERNALS = ('parent', 'name')


@dataclasses.dataclass(frozen=True)
class Component:
  """A class or function named by import path, with the arguments the config gives it.

  Attributes:
    name: `'package.module:attribute'`.
    arguments: Keyword arguments, checked against the target's signature and annotations.
    path: Where in the config this stands, for messages.
  """

  name: str
  arguments: Mapping[str, Any]
  path: str = ''

  @property
  def target(self) -> Any:
    """The class or function."""
    return import_target(self.name, self.path)

  def accepts(self, argument: str) -> bool:
    """Whether the target has a parameter of this name."""
    return argument in (_parameters(self.target) or {})

  def build(self, **injected: Any) -> Any:
    """Calls the target with the config's arguments and those of `injected` that it takes.

    Raises:
      ConfigError: A required argument is in neither, or the config sets an injected one.
    """
    target = self.target
    accepted = _parameters(target)
    values = {k: v for k, v in injected.items() if accepted is None or k in accepted}
    twice = sorted(values.keys() & self.arguments.keys())
    if twice:
      raise ConfigError(f'`{self.path}.{twice[0]}` follows from the rest of the config: remove it.')
    values.update(self.arguments)
    missing = [
      key
      for key, (_, required) in (accepted or {}).items()
      if required and key not in values and key not in _MODULE_INTERNALS
    ]
    if missing:
      raise ConfigError(
        f'`{self.path}`: {self.name} needs {_quoted(missing)}, which the config does not give. '
        f'Add `{self.path}.{missing[0]}`.'
      )
    return target(**values)


def import_target(name: str, path: str) -> Any:
  """Imports `'package.module:attribute'`.

  Raises:
    ConfigError: The string has no colon, or the module or attribute does not exist.
  """
  module_name, colon, attribute = name.partition(':')
  if not colon or not attribute:
    raise ConfigError(
      f"`{path}.name` must be an import path 'package.module:attribute', got {name!r}."
    )
  try:
    module = importlib.import_module(module_name)
  except ModuleNotFoundError as error:
    raise ConfigError(f'`{path}.name`: cannot import {module_name!r} ({error}).') from error
  if not hasattr(module, attribute):
    raise ConfigError(
      f'`{path}.name`: {module_name} has no {attribute!r}.{_did_you_mean(attribute, dir(module))}'
    )
  return getattr(module, attribute)


def parse(kind: Any, value: Any, path: str) -> Any:
  """Checks `value` against the type `kind` and converts it.

  Args:
    kind: A dataclass, `Component`, or an annotation built from bool, int, float, str, tuple,
      Mapping, Literal, None and unions. Other annotations accept anything.
    value: What the config holds.
    path: The field's full name in the config, for messages.

  Raises:
    ConfigError: Unknown or missing keys, a wrong type or a value outside the allowed ones.
  """
  if kind is Component:
    return _parse_component(value, path)
  if dataclasses.is_dataclass(kind) and isinstance(kind, type):
    return _parse_dataclass(kind, value, path)
  origin = typing.get_origin(kind)
  if origin in (typing.Union, types.UnionType):
    return _parse_union(kind, value, path)
  if origin is Literal:
    return _parse_literal(typing.get_args(kind), value, path)
  if origin is tuple:
    return _parse_tuple(typing.get_args(kind), value, path)
  if origin is collections.abc.Sequence:
    return _parse_tuple((*typing.get_args(kind), ...), value, path)
  if isinstance(origin, type) and issubclass(origin, Mapping):
    _expect_mapping(value, path)
    item = typing.get_args(kind)[1]
    return {str(k): parse(item, v, f'{path}.{k}') for k, v in value.items()}
  return _parse_scalar(kind, value, path)


def _parse_dataclass(kind: type, value: Any, path: str) -> Any:
  _expect_mapping(value, path)
  hints = typing.get_type_hints(kind)
  fields = {f.name: f for f in dataclasses.fields(kind) if f.init}
  _reject_unknown(value, fields, path)
  missing = [
    name
    for name, field in fields.items()
    if name not in value
    and field.default is dataclasses.MISSING
    and field.default_factory is dataclasses.MISSING
  ]
  if missing:
    raise ConfigError(f'The config lacks {_quoted(_join(path, name) for name in missing)}.')
  values = {k: parse(hints[k], v, _join(path, k)) for k, v in value.items()}
  try:
    return kind(**values)
  except ConfigError as error:  # A value out of range: say in which group of the config.
    raise ConfigError(f'In `{path}`: {error}' if path else str(error)) from error


def _parse_component(value: Any, path: str) -> Component:
  _expect_mapping(value, path)
  if 'name' not in value:
    raise ConfigError(f"The config lacks `{path}.name`: an import path 'package.module:attribute'.")
  name = parse(str, value['name'], f'{path}.name')
  arguments = {k: v for k, v in value.items() if k != 'name'}
  accepted = _parameters(import_target(name, path))
  if accepted is not None:
    _reject_unknown(arguments, accepted, path)
    arguments = {k: parse(accepted[k][0], v, f'{path}.{k}') for k, v in arguments.items()}
  return Component(name, arguments, path)


def _parameters(target: Callable[..., Any]) -> dict[str, tuple[Any, bool]] | None:
  """Name -> (annotation, required) of what `target` accepts; None when it accepts anything."""
  signature = inspect.signature(target)
  kinds = [p.kind for p in signature.parameters.values()]
  if inspect.Parameter.VAR_KEYWORD in kinds:
    return None
  try:
    hints = typing.get_type_hints(target)
  except (NameError, TypeError):  # Annotations some libraries write cannot be resolved.
    hints = {}
  return {
    name: (hints.get(name, Any), parameter.default is inspect.Parameter.empty)
    for name, parameter in signature.parameters.items()
    if name not in _MODULE_INTERNALS
  }


def _parse_union(kind: Any, value: Any, path: str) -> Any:
  options = typing.get_args(kind)
  if value is None and type(None) in options:
    return None
  failures = []
  for option in options:
    if option is type(None):
      continue
    try:
      return parse(option, value, path)
    except ConfigError as error:
      failures.append(error)
  raise failures[0]


def _parse_literal(options: tuple[Any, ...], value: Any, path: str) -> Any:
  if value not in options:
    raise ConfigError(
      f'`{path}` must be one of {_quoted(options)}, got {value!r}.{_did_you_mean(value, options)}'
    )
  return value


def _parse_tuple(kinds: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
  if not isinstance(value, (tuple, list)):
    raise ConfigError(f'`{path}` must be a tuple, got {value!r} ({type(value).__name__}).')
  if len(kinds) == 2 and kinds[1] is Ellipsis:
    kinds = (kinds[0],) * len(value)
  if len(kinds) != len(value):
    raise ConfigError(f'`{path}` must have {len(kinds)} entries, got {len(value)}: {value!r}.')
  return tuple(parse(k, v, f'{path}[{i}]') for i, (k, v) in enumerate(zip(kinds, value)))


def _parse_scalar(kind: Any, value: Any, path: str) -> Any:
  if kind is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if kind not in (bool, int, float, str):
    return value
  if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
    raise ConfigError(f'`{path}` must be {kind.__name__}, got {value!r} ({type(value).__name__}).')
  return value


def _reject_unknown(value: Mapping[str, Any], known: Mapping[str, Any], path: str) -> None:
  for key in value:
    if key not in known:
      raise ConfigError(
        f'Unknown config key `{_join(path, key)}`.{_did_you_mean(key, known)} '
        f'Known here: {", ".join(sorted(known))}.'
      )


def _expect_mapping(value: Any, path: str) -> None:
  if not isinstance(value, Mapping):
    raise ConfigError(f'`{path}` must be a group of keys, got {value!r} ({type(value).__name__}).')


def _did_you_mean(key: Any, known: Any) -> str:
  close = difflib.get_close_matches(str(key), [str(k) for k in known], n=1, cutoff=0.5)
  return f' Did you mean `{close[0]}`?' if close else ''


def _quoted(names: Any) -> str:
  return ', '.join(f'`{name}`' for name in names)


def _join(path: str, key: str) -> str:
  return f'{path}.{key}' if path else key
