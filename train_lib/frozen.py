"""Frozen parameters: which ones a pattern names, and a tree of parameters without them."""

import re
from collections.abc import Callable
from typing import Any

import flax

from errors import ConfigError
from train_lib.state import PyTree


def matcher(patterns: tuple[str, ...], field: str) -> Callable[[str], bool]:
  """A function of a parameter's path, such as `trunk/cls`: whether one of the patterns is in it.

  Args:
    patterns: Regular expressions.
    field: The config key they are from, for messages.

  Raises:
    ConfigError: A pattern is not a regular expression.
  """
  try:
    compiled = [re.compile(p) for p in patterns]
  except re.error as error:
    raise ConfigError(f'`{field}` {patterns}: {error}.') from error
  return lambda path: any(p.search(path) for p in compiled)


def split(params: PyTree, patterns: tuple[str, ...]) -> tuple[PyTree, PyTree]:
  """The parameters that train and those that the patterns freeze, two trees without empty branches.

  Args:
    params: Nested dicts; leaves may be boxed.
    patterns: `optimizer.frozen`.

  Raises:
    ConfigError: A pattern matches no parameter, or nothing is left to train.
  """
  if not patterns:
    return params, {}
  flat: dict[str, Any] = flax.traverse_util.flatten_dict(params, sep='/')
  for pattern in patterns:
    if not any(map(matcher((pattern,), 'optimizer.frozen'), flat)):
      raise ConfigError(
        f'`optimizer.frozen`: {pattern!r} matches no parameter. There are {sorted(flat)[:3]} and '
        f'{len(flat) - 3} more; without it, `--mode=init` prints them all. Correct or remove the pattern.'
      )
  matches = matcher(patterns, 'optimizer.frozen')
  trainable = {path: leaf for path, leaf in flat.items() if not matches(path)}
  if not trainable:
    raise ConfigError(
      f'`optimizer.frozen` {patterns} matches every parameter: nothing is left to train.'
    )
  frozen = {path: leaf for path, leaf in flat.items() if matches(path)}
  return _nested(trainable), _nested(frozen)


def merge(trainable: PyTree, frozen: PyTree) -> PyTree:
  """The tree that `split` has taken apart."""
  if not frozen:
    return trainable
  parts = [flax.traverse_util.flatten_dict(tree, sep='/') for tree in (trainable, frozen)]
  return _nested({**parts[0], **parts[1]})


def _nested(flat: dict[str, Any]) -> PyTree:
  return flax.traverse_util.unflatten_dict(flat, sep='/')
