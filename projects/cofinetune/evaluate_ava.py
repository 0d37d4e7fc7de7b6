"""Scores a detections csv against a ground-truth csv by AVA's official rules.

  python -m projects.cofinetune.evaluate_ava --groundtruth=ava_val_v2.2.csv --detections=mine.csv \\
      --labelmap=ava_action_list_v2.2_for_activitynet_2019.pbtxt \\
      --exclusions=ava_val_excluded_timestamps_v2.2.csv --json=scores.json --out=scores

Rows are video,seconds,x1,y1,x2,y2,class[,score], coordinates fractions of the frame. Prints the
protocol, then mAP overall and for head, mid and tail classes, and a line per class. An mAP of 0
comes with what was compared with what.
"""

import json
import os
import sys
from pathlib import Path

from absl import app, flags

from datasets import label_map
from errors import TubeletError
from projects.cofinetune import ava, ava_chart, ava_csv, ava_report
from train_lib.files import write_atomically

_GROUNDTRUTH = flags.DEFINE_string(
  'groundtruth', None, 'Annotated boxes; their keyframes are those evaluated.', required=True
)
_DETECTIONS = flags.DEFINE_string('detections', None, 'Detections with scores.', required=True)
_LABELMAP = flags.DEFINE_string('labelmap', None, 'Classes to evaluate (pbtxt).', required=True)
_EXCLUSIONS = flags.DEFINE_string(
  'exclusions', None, 'Keyframes to leave out of both, video,seconds.'
)
_CLASS_GROUPS = flags.DEFINE_string(
  'class_groups',
  '',
  "Head, mid and tail classes: csv label,group,train_labels. Default: AVA v2.2's for its classes.",
)
_JSON = flags.DEFINE_string('json', None, 'File to write everything to.')
_OUT = flags.DEFINE_string('out', None, 'Folder to draw ap.png in: AP of each class.')


def main() -> None:
  """Reads, scores, writes and prints."""
  names = label_map.read(_LABELMAP.value)
  groups = ava_csv.class_groups(_CLASS_GROUPS.value, names.values())
  excluded = ava_csv.read_keyframes(_EXCLUSIONS.value) if _EXCLUSIONS.value else frozenset()
  groundtruth = ava_csv.read_boxes(_GROUNDTRUTH.value, with_scores=False)
  detections = ava_csv.read_boxes(_DETECTIONS.value)
  result = ava.evaluate(groundtruth, detections, names, excluded=excluded)
  boxes = ava_report.boxes_found(result)
  report = ava_report.full(result, groups, boxes)
  if ava_report.nothing_found(result):
    report += '\n\n' + ava_report.comparison(groundtruth, detections, names)
  if _JSON.value:
    content = ava_report.as_json(result, groups, boxes)
    write_atomically(Path(_JSON.value), json.dumps(content, indent=1, ensure_ascii=False) + '\n')
  if _OUT.value:
    picture = Path(_OUT.value) / 'ap.png'
    picture.parent.mkdir(parents=True, exist_ok=True)
    ava_chart.class_chart_png(picture, result, groups, Path(_DETECTIONS.value).name)
    report += f'\n\nPicture: {picture}'
  print(report, flush=True)


def _run(argv: list[str]) -> None:
  if len(argv) > 1:
    sys.exit(f'Unexpected argument {argv[1]!r}: every option is --name=value. See --help.')
  try:
    main()
  except TubeletError as error:
    print(f'{type(error).__name__}: {error}', file=sys.stderr)
    sys.exit(error.exit_code)
  except BrokenPipeError:  # As after `| head`; what the buffer holds would fail again at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)
  except OSError as error:
    sys.exit(f'{error.filename}: cannot be written: {error.strerror}. See --json and --out.')


if __name__ == '__main__':
  app.run(_run)
