"""Class lists in pbtxt: both spellings, and what is refused."""

import pytest

from datasets import label_map
from errors import DataError


def test_both_spellings(tmp_path):
  path = tmp_path / 'map.pbtxt'
  path.write_text(
    '# AVA\nitem {\n  name: "stand"\n  id: 12\n}\nlabel {\n  name: "touch (e.g., \'x\' {y})"\n'
    '  label_id: 3\n  label_type: PERSON_MOVEMENT\n}\nitem { name: \'say \\"a\\"\' id: 80 }\n'
  )
  assert list(label_map.read(path).items()) == [
    (3, "touch (e.g., 'x' {y})"),
    (12, 'stand'),
    (80, 'say "a"'),
  ]


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', r'map\.pbtxt: no classes; expected blocks like item'),
    ('item { name: "a" id: 1 } item { name: "b" }', r"block 2 holds \{'name': '\"b\"'\}"),
    ('item { id: 1 }', 'block 1 holds'),
    ('item { name: "a" id: one }', 'block 1 holds'),
    ('item { name: "a" id: 1 } item { name: "b" id: 1 }', 'of its own'),
    ('item { name: "a" id: 1 } item { name: "a" id: 2 }', r"class names repeat: \['a'\]"),
  ],
)
def test_mistakes(tmp_path, text, message):
  path = tmp_path / 'map.pbtxt'
  path.write_text(text)
  with pytest.raises(DataError, match=message):
    label_map.read(path)
