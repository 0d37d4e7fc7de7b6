"""What differs between two resolved configs."""

from collections.abc import Mapping
from typing import Any


class _Absent:
  """Stands for the value of a key that a config lacks."""

  def __repr__(self) -> str:
    return 'absent'


ABSENT = _Absent()
Change = tuple[str, Any, Any]


def config_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
  """Compares two resolved configs.

  Args:
    old: Nested mappings, as read from a `config.json`.
    new: Likewise.

  Returns:
    (key, old value, new value) by dotted key, in alphabetical order, wherever they differ; the value
    is `ABSENT` where one lacks the key.
  """
  before, after = flat(old), flat(new)
  values = [
    (key, before.get(key, ABSENT), after.get(key, ABSENT))
    for key in sorted(before.keys() | after.keys())
  ]
  return [(key, a, b) for key, a, b in values if a != b]


def describe(changes: list[Change]) -> list[str]:
  """`key: old -> new` for each."""
  return [f'{key}: {old!r} -> {new!r}' for key, old, new in changes]


def flat(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Nested mappings as one, keys joined by dots; an empty one stays as it is."""
  leaves: dict[str, Any] = {}
  for key, value in tree.items():
    nested = isinstance(value, Mapping) and value
    leaves.update(flat(value, f'{prefix}{key}.') if nested else {f'{prefix}{key}': value})
  return leaves
