"""Class names that differ in case and symbols only are the same (UniFormerV2, appendix F)."""

import difflib
import unicodedata
from collections.abc import Callable, Iterable

# Some copies of a class list escape apostrophes and quotes, others drop them.
_DROPPED = str.maketrans('', '', '\'"`\\\u2019')


def normalise_class_name(name: str) -> str:
  """The name in lower case, with one space for each run of symbols, and nothing for an apostrophe.

  `"massaging person's head"` and `'Massaging_persons_head'` both become `'massaging persons head'`. A name
  without letters and digits stays as it is: `'+'` is not `'-'`.
  """
  plain = unicodedata.normalize('NFKC', name).casefold().translate(_DROPPED)
  kinds = [unicodedata.category(c)[0] for c in plain]  # Letters, marks on them, numbers, others.
  if not {'L', 'N'} & set(kinds):
    return name.strip()
  spaced = (c if kind in 'LMN' else ' ' for c, kind in zip(plain, kinds, strict=True))
  return ' '.join(''.join(spaced).split())


def nearest_in(known: Iterable[str]) -> Callable[[str], str]:
  """From a name to `"; nearest: 'NAME'"`, the most similar known one; '' where none is similar."""
  by_plain = {normalise_class_name(other): other for other in known}

  def nearest(name: str) -> str:
    close = difflib.get_close_matches(normalise_class_name(name), by_plain, n=1)
    return f'; nearest: {by_plain[close[0]]!r}' if close else ''

  return nearest
