"""Which video an example is of, told by its key: the ids of YouTube's videos mean the same everywhere."""

import re

from datasets.annotations import IMAGE_SUFFIXES, VIDEO_SUFFIXES

# Ids are 64 bits, six to a character, so the last one is one of 16.
_ID = r'([A-Za-z0-9_-]{10}[AEIMQUYcgkosw048])'
_NUMBER = r'\d+(?:\.\d+)?'
# Published lists and `build_records` say ID_000010_000020, as the name of a file or not; AVA ID,SECONDS;
# ActivityNet and HACS v_ID and yt-ID.
_FORMS = re.compile(rf'(?:v_|yt-)?{_ID}(?:_\d{{6}}_\d{{6}}|,{_NUMBER})|(?:v_|yt-){_ID}', re.ASCII)
# With one or two other numbers, or alone, it could be any name.
_LOOSE = re.compile(rf'(?:v_|yt-)?{_ID}(?:_{_NUMBER}){{,2}}', re.ASCII)
# Ids mix upper and lower case, hardly ever end in a number, and are made of more than a few words.
_ALONE = re.compile(r'(?=.*[a-z])(?=.*[A-Z])(?!.*\d{2}$)', re.ASCII)
_WORD = re.compile(r'[A-Z]?[a-z]+|[A-Z]+|\d+', re.ASCII)
_MOST_WORDS = 3
_TIMES = re.compile(r'@[\d.e+-]+$')
_FORMAT = re.compile(r'\.f\d+$', re.ASCII)  # Of a part that a downloader has not joined.
_SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES


def youtube_id(key: str) -> str | None:
  """The YouTube id in the key of an example: of its last part, without a file's ending and times.

  None for keys that hold none. An id that stands alone, or with other numbers than times in six digits,
  must not look like a name: 6 in 100 do, and are not recognised.
  """
  name = _stem(_TIMES.sub('', key).rpartition('/')[2])
  if found := _FORMS.fullmatch(name):
    return found[1] or found[2]
  found = _LOOSE.fullmatch(name)
  return found[1] if found and not _is_name(found[1]) else None


def _is_name(text: str) -> bool:
  """Whether someone may have thought of it: `BoxingClass`, `Kitchen_A_8`."""
  return not _ALONE.match(text) or len(_WORD.findall(text)) <= _MOST_WORDS


def _stem(name: str) -> str:
  """Without the endings of videos and images, of which there may be several."""
  stem, dot, suffix = name.rpartition('.')
  known = dot and f'.{suffix.lower()}' in _SUFFIXES
  return _stem(_FORMAT.sub('', stem)) if known else name
