"""Scores a detections csv against a ground-truth csv by AVA's official rules.

  python -m projects.cofinetune.evaluate_ava --groundtruth=ava_val_v2.2.csv --detections=mine.csv \\
      --labelmap=projects/cofinetune/ava_v2.2_evaluated.pbtxt \\
      --exclusions=ava_val_excluded_timestamps_v2.2.csv [--json] [--out=scores]

Rows are video,seconds,x1,y1,x2,y2,class[,score], coordinates fractions of the frame. Prints the
protocol, then mAP overall and for head, mid and tail classes, and a line per class; with --json one
JSON object instead. An mAP of 0 comes with what was compared with what. --out=DIR writes ava.json,
ap.png (AP of each class) and rejected.csv (every row with a flaw, whether it counts or not).
"""

import json
from collections.abc import Mapping
from pathlib import Path

from absl import flags

from datasets import label_map
from errors import ConfigError
from projects.cofinetune import ava, ava_chart, ava_csv, ava_report
from train_lib.console import run_command
from train_lib.files import write_atomically

_GROUNDTRUTH = flags.DEFINE_string(
  'groundtruth',
  None,
  'Annotated boxes; their keyframes are those evaluated.',
  required=True,
  allow_override=True,
)
_DETECTIONS = flags.DEFINE_string(
  'detections', None, 'Detections with scores.', required=True, allow_override=True
)
_LABELMAP = flags.DEFINE_string(
  'labelmap', None, 'Classes to evaluate (pbtxt).', required=True, allow_override=True
)
_EXCLUSIONS = flags.DEFINE_string(
  'exclusions', None, 'Keyframes to leave out of both, video,seconds.', allow_override=True
)
_CLASS_GROUPS = flags.DEFINE_string(
  'class_groups',
  '',
  "Head, mid and tail classes: csv label,group,train_labels. Default: AVA v2.2's for its classes.",
  allow_override=True,
)
_JSON = flags.DEFINE_bool(
  'json', False, 'Print one JSON object instead of a report.', allow_override=True
)
_OUT = flags.DEFINE_string(
  'out', None, 'Folder for ava.json, ap.png and rejected.csv.', allow_override=True
)


def main() -> None:
  """Reads, scores, writes and prints."""
  names = label_map.read(_LABELMAP.value)
  groups = ava_csv.class_groups(_CLASS_GROUPS.value, names.values())
  excluded = ava_csv.read_keyframes(_EXCLUSIONS.value) if _EXCLUSIONS.value else frozenset()
  groundtruth = ava_csv.read_boxes(_GROUNDTRUTH.value, with_scores=False)
  detections = ava_csv.read_boxes(_DETECTIONS.value)
  result = ava.evaluate(groundtruth, detections, names, excluded=excluded)
  boxes = ava_report.boxes_found(result)
  content = json.dumps(ava_report.as_json(result, groups, boxes), indent=2, ensure_ascii=False)
  parts = [ava_report.full(result, groups, boxes)]
  if ava_report.nothing_found(result):
    parts.append(ava_report.comparison(result, groundtruth, detections, names))
  if _OUT.value:
    rejected = ava_report.flawed_csv(result, groundtruth, detections)
    texts = {'ava.json': content + '\n', 'rejected.csv': rejected}
    parts.append('\n'.join(_write(Path(_OUT.value), texts, result, groups)))
  elif flawed := ava_report.flawed(result, groundtruth, detections):
    parts.append(f'Rows to look at; all of them with --out=DIR:\n{flawed}')
  print(content if _JSON.value else '\n\n'.join(parts))


def _write(
  folder: Path,
  texts: dict[str, str],
  result: ava.Evaluation,
  groups: Mapping[str, ava_csv.ClassGroup],
) -> list[str]:
  """Writes the files and says which."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
      write_atomically(folder / name, text)
    ava_chart.class_chart_png(folder / 'ap.png', result, groups, Path(_DETECTIONS.value).name)
  except OSError as error:
    raise ConfigError(f'--out={folder}: cannot be written: {error.strerror}.') from error
  return [f'Written: {folder / name}' for name in (*texts, 'ap.png')]


if __name__ == '__main__':
  run_command(main)
