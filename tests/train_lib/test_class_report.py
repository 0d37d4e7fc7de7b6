"""Top-1 by class from the predictions of an evaluation."""

import json

from train_lib import class_report

NAMES = ('run', 'sit down', 'never there', 'wave')


def write(path, pairs):
  lines = [
    {'id': str(i), 'label': {'label': label, 'top5': [{'class': best}, {'class': label}]}}
    for i, (label, best) in enumerate(pairs)
  ]
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  return path


def test_worst_first_and_of_equals_the_larger(tmp_path):
  pairs = [(0, 0), (1, 1), (1, 0), (3, 3), (3, 3)]
  file = write(tmp_path / 'predictions.jsonl', pairs)
  assert class_report.report(file, {'label': NAMES}) == (
    '  top1/label by class, worst first\n'
    '    sit down   50.0%  (1 of 2)\n'
    '    wave      100.0%  (2 of 2)\n'
    '    run       100.0%  (1 of 1)'
  )
  assert class_report.report(file, {}) == ''
  assert class_report.report(tmp_path / 'none.jsonl', {'label': NAMES}) == ''


def test_of_many_classes_the_worst(tmp_path):
  names = tuple(f'c{i}' for i in range(20))
  file = write(tmp_path / 'predictions.jsonl', [(i, 0 if i < 15 else i) for i in range(20)])
  lines = class_report.report(file, {'label': names}).splitlines()
  assert len(lines) == 12
  assert lines[1] == '    c1     0.0%  (0 of 1)' and lines[-1] == '    ... 10 classes more'
