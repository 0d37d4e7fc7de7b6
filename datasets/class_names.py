"""Class names that differ in case and symbols only are the same (UniFormerV2, appendix F)."""

import difflib
import unicodedata
from collections.abc import Iterable

# Some copies of a class list escape apostrophes and quotes, others drop them.
_DROPPED = str.maketrans('', '', '\'"`\\\u2019')


def normalise_class_name(name: str) -> str:
  """The name in lower case, with one space for each run of symbols, and nothing for an apostrophe.

  `"massaging person's head"` and `'Massaging_persons_head'` both become `'massaging persons head'`.
  """
  plain = unicodedata.normalize('NFKC', name).casefold().translate(_DROPPED)
  return ' '.join(''.join(c if unicodedata.category(c)[0] in 'LMN' else ' ' for c in plain).split())


def nearest(name: str, known: Iterable[str]) -> str:
  """`"; nearest: 'NAME'"`, the most similar of the known names; '' where none is similar."""
  by_plain = {normalise_class_name(other): other for other in known}
  close = difflib.get_close_matches(normalise_class_name(name), by_plain, n=1)
  return f'; nearest: {by_plain[close[0]]!r}' if close else ''
