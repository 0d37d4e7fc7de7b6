"""Compares two evaluations of the same videos, example by example.

  python -m tools.compare runs/a runs/b
  python -m tools.compare runs/a runs/b --dataset=kinetics400 --split=test --step=30000 --out=a_b
  python -m tools.compare runs/a/eval/k400/test/00030000 b/predictions.jsonl --intersect --json

Prints top-1 and top-5 of A and B, how sure the difference is, and which classes, confusions and videos
changed; differences are B less A. It needs only the files that evaluations write. Of a run the newest
evaluation is taken. Whether the difference could be chance is McNemar's exact test on the videos that
one alone has right; the interval is Newcombe's for paired shares. With several labels a clip or labels of
boxes, mAP is compared by class, and so are its interval and test.

Evaluations of different videos or labels are refused: then --intersect compares what they share. Classes
are matched by name, so that their order does not matter. --out writes compare.json, compare.csv (a row a
class), changed.csv (a row a video that one alone has right) and compare.png.
"""

import json
from pathlib import Path

from absl import flags

from errors import ConfigError
from tools import command

_TASK = flags.DEFINE_string(
  'task', '', 'What to compare, if the evaluations have several tasks.', allow_override=True
)
_DATASET = flags.DEFINE_string(
  'dataset', '', "Of a run's folder: the dataset.", allow_override=True
)
_SPLIT = flags.DEFINE_string('split', '', "Of a run's folder: the split.", allow_override=True)
_STEP = flags.DEFINE_integer(
  'step', None, "Of a run's folder: the step; the newest by default.", allow_override=True
)
_INTERSECT = flags.DEFINE_bool(
  'intersect', False, 'Compare what both share instead of refusing.', allow_override=True
)
_OUT = flags.DEFINE_string('out', '', 'Folder for tables and a picture.', allow_override=True)
_JSON = flags.DEFINE_bool('json', False, 'Print JSON instead of text.', allow_override=True)


def main(run_a: str, run_b: str) -> None:
  """Compares."""
  from train_lib import compare, compare_report, results

  chosen = [results.find(r, _DATASET.value, _SPLIT.value, _STEP.value) for r in (run_a, run_b)]
  found = compare.compare(*map(results.read, chosen), _TASK.value, _INTERSECT.value)
  if _JSON.value:
    print(json.dumps(compare_report.as_json(found), indent=1, ensure_ascii=False))
  else:
    print(compare_report.report(found))
  if _OUT.value:
    folder = Path(_OUT.value)
    try:
      folder.mkdir(parents=True, exist_ok=True)
      files = compare_report.write(found, folder)
    except OSError as error:
      raise ConfigError(f'--out={folder} cannot be written to: {error.strerror}.') from error
    if not _JSON.value:
      print('\n' + '\n'.join(f'  {file}' for file in files))


if __name__ == '__main__':
  command.run(main, ('RUN_A', 'RUN_B'))
