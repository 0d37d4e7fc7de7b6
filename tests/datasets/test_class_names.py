"""Class names without case and symbols."""

import pytest

from datasets import class_names
from datasets.class_names import nearest_in, normalise_class_name


@pytest.mark.parametrize(
  ('name', 'expected'),
  [
    ("massaging person's head", 'massaging persons head'),
    ('Massaging_persons_head', 'massaging persons head'),
    ('massaging person\u2019s head', 'massaging persons head'),  # A typographic apostrophe.
    ("massaging person\\'s head", 'massaging persons head'),  # An escaped one.
    ('"a, b"', 'a b'),
    ('high\u00a0kick', 'high kick'),  # NFKC: a space that does not break,
    ('\uff32\uff35\uff2e\uff11', 'run1'),  # letters as wide as Chinese ones,
    ('e\u0301te\u0301', '\u00e9t\u00e9'),  # and accents of their own.
    ('Stra\u00dfe', 'strasse'),
    ('\u8dd1\u6b65 (\u5feb)', '\u8dd1\u6b65 \u5feb'),
    ('\u0411\u0415\u0413', '\u0431\u0435\u0433'),
    ('\u0926\u094c\u0921\u093c', '\u0926\u094c\u0921\u093c'),  # Vowel signs are marks, not symbols.
    ('-1', '1'),
    ('C++', 'c'),
    ('+', '+'),  # Without letters and digits there is nothing else to tell names by.
    (' + ', '+'),
    ('\u2764\ufe0f', '\u2764\ufe0f'),
    ('', ''),
  ],
)
def test_normalised(name, expected):
  assert normalise_class_name(name) == expected


def test_the_nearest_of_a_list_which_is_normalised_once(monkeypatch):
  seen = []

  def spy(name):
    seen.append(name)
    return normalise_class_name(name)

  monkeypatch.setattr(class_names, 'normalise_class_name', spy)
  nearest = nearest_in(['Sit_down', 'wave', '+'])
  assert [nearest(name) for name in ('sit  downs', 'xyz', '-')] == ["; nearest: 'Sit_down'", '', '']
  assert seen == ['Sit_down', 'wave', '+', 'sit  downs', 'xyz', '-']
