"""Label maps in text form (pbtxt): blocks with a class' name and number, as AVA's class lists."""

import os
import re

from datasets.annotations import checked_classes, read_text
from errors import DataError

_TOKEN = re.compile(
  r'#[^\n]*|(?P<field>\w+)\s*:\s*(?P<value>"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|[\w.+-]+)|\}'
)


def read(path: str | os.PathLike[str]) -> dict[int, str]:
  """Class number -> name, ascending, of blocks with a `name` and an `id` or `label_id`.

  Raises:
    DataError: the file cannot be read, a block lacks one of them, or names or numbers repeat.
  """
  names: dict[int, str] = {}
  block: dict[str, str] = {}
  for token in _TOKEN.finditer(read_text(path)):
    if token['field']:
      block[token['field']] = token['value']
    elif token[0] == '}':
      number = block.get('id', block.get('label_id', ''))
      quoted = block.get('name', '')[:1] in ('"', "'")
      if not number.isdecimal() or not quoted or int(number) in names:
        raise DataError(
          f'{path}: block {len(names) + 1} holds {block}; expected a "name" in quotes and an '
          '`id` or `label_id` of its own.'
        )
      names[int(number)] = re.sub(r'\\(.)', r'\1', block['name'][1:-1])
      block = {}
  if not names:
    raise DataError(f'{path}: no classes; expected blocks like item {{ name: "stand" id: 12 }}.')
  checked_classes(path, list(names.values()))
  return dict(sorted(names.items()))
