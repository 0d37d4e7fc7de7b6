"""Which video an example is of, told by its key: the ids of YouTube's videos mean the same everywhere."""

import re

from datasets.annotations import IMAGE_SUFFIXES, VIDEO_SUFFIXES

_ID = r'[A-Za-z0-9_-]{11}'
# Keys as `build_records` and published lists have them: ID_000010_000020 and v_ID, as the name of a file
# or not, and ID,SECONDS of AVA; perhaps with the times of a clip of it behind: @START-END.
_FORMS = re.compile(rf'({_ID})_\d+_\d+|v_({_ID})|({_ID}),\d+(?:\.\d+)?')
# An id alone could be any name of 11 characters. Ids are 64 bits, so their last character is one of 16,
# and all but 1 in 100 mix upper and lower case and do not end in a number.
_ALONE = re.compile(
  r'(?=.*[a-z])(?=.*[A-Z])(?!.*\d{3}$)[A-Za-z0-9_-]{10}[AEIMQUYcgkosw048]', re.ASCII
)
_TIMES = re.compile(r'@[\d.e+-]+$')
_SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES


def youtube_id(key: str) -> str | None:
  """The YouTube id in the key of an example: of its last part, without a file's ending and times.

  None for keys that hold none; of ids that stand alone, `NAME.mp4` or a plain key, 1 in 100 is not
  recognised.
  """
  name = _stem(_TIMES.sub('', key).rpartition('/')[2])
  found = _FORMS.fullmatch(name)
  if found:
    return found[1] or found[2] or found[3]
  return name if _ALONE.fullmatch(name) else None


def is_path(key: str) -> bool:
  """Whether a key is a path of a file, which may be another one below another folder."""
  name = _TIMES.sub('', key)
  return '/' in name or name != _stem(name)


def _stem(name: str) -> str:
  """Without the ending of a video or image."""
  stem, dot, suffix = name.rpartition('.')
  return stem if dot and f'.{suffix.lower()}' in _SUFFIXES else name
