"""What differs between two resolved configs."""

from collections.abc import Mapping
from typing import Any

ABSENT = 'absent'


def config_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
  """(key, old value, new value), by key, wherever two resolved configs differ.

  Args:
    old: Nested mappings, as read from a `config.json`.
    new: Likewise.

  Returns:
    Dotted keys in alphabetical order; the value is `ABSENT` where a config lacks the key.
  """
  before, after = _flat(old), _flat(new)
  return [
    (key, before.get(key, ABSENT), after.get(key, ABSENT))
    for key in sorted(before.keys() | after.keys())
    if key not in before or key not in after or before[key] != after[key]
  ]


def describe(changes: list[tuple[str, Any, Any]]) -> list[str]:
  """`key: old -> new`, strings quoted."""
  return [f'{key}: {_shown(old)} -> {_shown(new)}' for key, old, new in changes]


def _shown(value: Any) -> str:
  return value if value is ABSENT else repr(value)


def _flat(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  flat: dict[str, Any] = {}
  for key, value in tree.items():
    nested = isinstance(value, Mapping) and value
    flat.update(_flat(value, f'{prefix}{key}.') if nested else {f'{prefix}{key}': value})
  return flat
