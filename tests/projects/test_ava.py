"""AVA's frame-mAP against numbers recorded from the official script, and what becomes of every row."""

import json
import math
import pathlib

import numpy as np
import pytest

from datasets import label_map
from errors import DataError
from projects.cofinetune import ava, ava_csv, ava_report
from projects.cofinetune.ava_csv import ClassGroup, KeyframeName

CASES = pathlib.Path(__file__).parents[1] / 'fixtures' / 'ava'
NAMES = sorted(path.parent.name for path in CASES.glob('*/expected.json'))


def evaluate_case(name, *, exclude):
  folder = CASES / name
  expected = json.loads((folder / 'expected.json').read_text())
  excluded = expected['files']['excluded']
  result = ava.evaluate(
    ava_csv.read_boxes(folder / 'groundtruth.csv', with_scores=False),
    ava_csv.read_boxes(folder / 'detections.csv'),
    label_map.read(folder / 'labelmap.pbtxt'),
    excluded=ava_csv.read_keyframes(folder / excluded) if excluded and exclude else (),
  )
  return result, expected


def check(result, counts, aps, mean):
  assert result.mean_ap() == pytest.approx(mean, abs=1e-9)
  scores = {str(score.class_id): score for score in result.classes}
  assert set(counts) <= set(scores)
  for class_id, score in scores.items():
    wanted = counts.get(class_id)
    if wanted is None or wanted['ap'] is None:
      assert math.isnan(score.ap) and score.annotated == 0
      continue
    assert score.ap == pytest.approx(aps[class_id], abs=1e-9)
    found = (score.annotated, score.detected, score.found)
    assert found == (wanted['num_gt'], wanted['num_det'], wanted['num_tp'])


def test_all_cases_are_there():
  assert [name.split('_')[0] for name in NAMES] == [f'case{i}' for i in range(1, 7)]


@pytest.mark.parametrize('name', NAMES)
def test_scores_as_the_official_script(name):
  result, expected = evaluate_case(name, exclude=True)
  stable = expected['official_stable_ranking']
  check(result, expected['official']['per_class'], stable['per_class'], stable['mAP'])
  if expected['tie_bounds']:
    low, high = expected['tie_bounds']['mAP']
    assert low - 1e-9 <= result.mean_ap() <= high + 1e-9


@pytest.mark.parametrize('name', ['case3_excluded_cap', 'case5_excluded_plain'])
def test_without_exclusions(name):
  result, expected = evaluate_case(name, exclude=False)
  wanted = expected['official_without_exclusions']
  aps = {class_id: entry['ap'] for class_id, entry in wanted['per_class'].items()}
  check(result, wanted['per_class'], aps, wanted['mAP'])
  assert result.excluded_keyframes == 0


def test_every_row_has_one_fate():
  result, _ = evaluate_case('case1_basic', exclude=True)
  assert dict(result.annotation_rows) == {
    'used': 30,
    'of classes outside the label map': 1,
    'in excluded keyframes': 0,
    'naming a keyframe without a box': 0,
  }
  assert list(result.detection_rows.values()) == [58, 0, 1, 6, 3, 0, 0]
  capped, _ = evaluate_case('case6_cap_ties', exclude=True)
  assert list(capped.detection_rows.values()) == [176, 70, 86, 23, 0, 0, 0]
  excluded, _ = evaluate_case('case3_excluded_cap', exclude=True)
  assert (excluded.keyframes, excluded.empty_keyframes, excluded.excluded_keyframes) == (12, 2, 4)
  assert list(excluded.annotation_rows.values()) == [42, 0, 12, 3]
  assert list(excluded.detection_rows.values()) == [240, 0, 0, 0, 0, 51, 0]


def table(text, tmp_path, *, with_scores=True):
  path = tmp_path / 'boxes.csv'
  path.write_text(text)
  return ava_csv.read_boxes(path, with_scores=with_scores)


def score(tmp_path, groundtruth, detections, names=('stand',), **options):
  return ava.evaluate(
    table(groundtruth, tmp_path, with_scores=False),
    table(detections, tmp_path),
    dict(enumerate(names, start=1)),
    **options,
  )


def test_the_detection_beyond_the_cap_needs_a_strictly_larger_score(tmp_path):
  truth = 'a,1,0.1,0.1,0.5,0.5,1\n'
  wrong = ''.join(f'a,1,0.6,0.6,0.7,0.{700 + i},1,0.5\n' for i in range(50))
  equal = score(tmp_path, truth, wrong + 'a,1,0.1,0.1,0.5,0.5,1,0.5\n')
  assert (equal.mean_ap(), equal.detection_rows['beyond the 50 of a keyframe']) == (0, 1)
  larger = score(tmp_path, truth, wrong + 'a,1,0.1,0.1,0.5,0.5,1,0.6\n')
  assert (larger.mean_ap(), larger.detection_rows['used']) == (1, 50)


def test_a_second_detection_of_a_box_is_wrong_even_if_another_box_is_free(tmp_path):
  truth = 'a,1,0.0,0.0,0.4,0.4,1\na,1,0.1,0.0,0.5,0.4,1\n'
  twice = 'a,1,0.0,0.0,0.4,0.4,1,0.9\na,1,0.04,0.0,0.44,0.4,1,0.8\n'
  result = score(tmp_path, truth, twice)
  assert (result.classes[0].found, result.mean_ap()) == (1, 0.5)


@pytest.mark.parametrize(('iou', 'found'), [(0.5, 1), (0.51, 0)])
def test_the_threshold_is_inclusive(tmp_path, iou, found):
  result = score(tmp_path, 'a,1,0.25,0.25,0.75,0.75,1\n', 'a,1,0.25,0.25,0.75,0.5,1,0.9\n', iou=iou)
  assert result.classes[0].found == found


def test_classes_without_annotated_boxes_do_not_count(tmp_path):
  truth, found = 'a,1,0,0,1,1,1\n', 'a,1,0,0,1,1,1,0.9\na,1,0,0,1,1,2,0.9\n'
  result = score(tmp_path, truth, found, ('stand', 'sit', 'walk'))
  assert result.mean_ap() == 1
  assert result.mean_ap({'sit', 'walk'}) is None
  assert [math.isnan(s.ap) for s in result.classes] == [False, True, True]
  assert ava.average_precision([], 3) == 0


def test_average_precision_is_the_area_under_the_envelope():
  # Precision 1, 1/2, 2/3, 2/4, 3/5 at the ranks; envelope 1, 2/3 and 3/5 at the three hits of four.
  assert ava.average_precision([True, False, True, False, True], 4) == pytest.approx(
    (1 + 2 / 3 + 3 / 5) / 4, abs=1e-12
  )


def test_a_reversed_annotated_box_is_an_error(tmp_path):
  with pytest.raises(DataError, match=r'boxes\.csv, line 2: annotated box x1 0\.6, .* x2 0\.5'):
    score(tmp_path, 'a,1,0,0,1,1,1\na,1,0.6,0.1,0.5,0.2,1\n', 'a,1,0,0,1,1,1\n')


def test_detections_on_annotated_boxes_are_recognised(tmp_path):
  truth = 'a,1,0.1,0.1,0.5,0.5,1\na,2,0.2,0.2,0.6,0.6,1\n'
  on = score(tmp_path, truth, 'a,1,0.1001,0.1,0.5,0.5,1,0.3\na,2,0.2,0.2,0.6,0.6,2,0.4\n')
  assert (on.on_annotated, on.detection_rows['used']) == (1, 1)
  assert ava_report.boxes_found(on).startswith('ANNOTATED BOXES (ground truth): not comparable')
  off = score(tmp_path, truth, 'a,2,0.1,0.1,0.5,0.5,1,0.3\n')
  assert ava_report.boxes_found(off) == 'detected boxes; 0.0% lie on annotated boxes to 3 decimals'


def test_header_and_groups(tmp_path):
  truth = 'a,1,0,0,1,1,1\na,2\nb,1,0,0,1,1,3\nb,1,0,0,1,1,2\n'
  found = 'a,1,0,0,1,1.1,1,0.9\na,2,0,0,1,1,1,0.8\nzz,1,0,0,1,1,1,0.9\nb,1,0,0,1,1,2,0.5\n'
  excluded = {KeyframeName.parse('b', '01.0')}
  result = score(tmp_path, truth, found, ('stand', 'sit'), excluded=excluded)
  groups = {'stand': ClassGroup('head', 20), 'sit': ClassGroup('tail', 30)}
  assert ava_report.mean_aps(result, groups) == {
    'mAP': 1.0,
    'mAP_head': 1.0,
    'mAP_mid': None,
    'mAP_tail': None,
  }
  assert ava_report.header(result, ava_report.DETECTED).splitlines() == [
    'AVA frame-mAP at IoU 0.5, at most 50 detections a keyframe',
    'boxes         detected boxes',
    'classes       2 of 3; 1 have annotated boxes',
    'keyframes     2 evaluated, 1 of them without annotated boxes of these classes; 1 excluded',
    'annotations   4 rows: 1 used, 2 in excluded keyframes, 1 naming a keyframe without a box',
    'detections    4 rows: 2 used, 1 in keyframes the ground truth does not name, '
    '1 in excluded keyframes',
    '              of those used: 1 reaching out of the frame (counted, not clipped)',
  ]
  assert ava_report.class_table(result, groups).splitlines()[1:] == [
    'sit    tail           0           0          0     n/a',
    'stand  head           1           2          1  1.0000',
  ]
  content = json.loads(json.dumps(ava_report.as_json(result, groups, 'x'), allow_nan=False))
  assert [entry['ap'] for entry in content['classes']] == [None, 1.0]
  assert content['keyframes'] == {'evaluated': 2, 'without_annotated_boxes': 1, 'excluded': 1}


def test_flawed_rows_are_listed_and_counted_as_before(tmp_path):
  (tmp_path / 'truth').mkdir()
  truth = table(
    'a,1,0,0,0.5,1,1\na,2\na,1,0,0,1,1,9\na,1,0,0,0.5,1,1\na,1,0.2,0,0.2,1,1\na,1,-0.0005,0,0.5,1,2\n',
    tmp_path / 'truth',
  )
  found = table(
    'a,1,0,0,0.5,1,1,0.5\na,1,0,0,1,1,7,0.9\na,1,0.3,0,0.3,1,1,0.9\na,1,0,-0.1,0.5,1,1,0.8\n'
    'a,1,0,0,0.5,1,2,0.9\na,1,0,0,0.5,1,1,0.7\na,1,0.5,0,0.4,1,1,0.1\nb,1,9,9,8,8,8,0.1\n'
    'a,1,0,0,1.0005,1,1,0.2\na,1,0,-0.1,0.5,1,1,0.9\n',
    tmp_path,
  )
  result = ava.evaluate(truth, found, {1: 'stand', 2: 'sit'})
  assert {flaw: lines.tolist() for flaw, lines in result.annotation_flaws.items()} == {
    ava.OTHER_CLASSES: [3],
    ava.OUT_OF_FRAME: [],
    ava.REPEATED: [4],
    ava.NO_AREA: [5],
  }
  assert {flaw: lines.tolist() for flaw, lines in result.detection_flaws.items()} == {
    ava.OTHER_CLASSES: [2],
    ava.REVERSED: [3, 7],
    ava.OUT_OF_FRAME: [4, 10],
    ava.REPEATED: [6, 10],
    ava.NO_AREA: [],
  }
  for fate in (ava.OTHER_CLASSES, ava.REVERSED):
    assert result.detection_rows[fate] == len(result.detection_flaws[fate])
  assert sum(result.annotation_rows.values()) == truth.rows == 6
  assert sum(result.detection_rows.values()) == found.rows == 10
  assert (result.annotation_rows[ava.USED], result.detection_rows[ava.USED]) == (4, 6)
  assert ava_report.header(result, 'x').splitlines()[4:] == [
    'annotations   6 rows: 4 used, 1 of classes outside the label map, 1 naming a keyframe without a '
    'box',
    '              of those used: 1 repeating a box and class of the keyframe (counted), 1 without '
    'area (counted, never found)',
    'detections    10 rows: 6 used, 1 of classes outside the label map, 2 with x1 >= x2 or y1 >= y2, '
    '1 in keyframes the ground truth does not name',
    '              of those used: 2 reaching out of the frame (counted, not clipped), 2 repeating a '
    'box and class of the keyframe (counted)',
  ]
  here = tmp_path / 'boxes.csv'
  assert ava_report.flawed(result, truth, found).splitlines()[2:5] == [
    f'{tmp_path}/truth/boxes.csv: 1 without area (counted, never found): line 5',
    f'{here}: 1 of classes outside the label map: line 2',
    f'{here}: 2 with x1 >= x2 or y1 >= y2: lines 3, 7',
  ]
  rows = ava_report.flawed_csv(result, truth, found).splitlines()
  assert (rows[0], len(rows)) == ('file,line,reason', 1 + 3 + 7)
  assert rows[5] == f'{here},3,with x1 >= x2 or y1 >= y2'


def test_classes_that_are_known_beside_the_evaluated_ones(tmp_path):
  truth = table('a,1,0,0,1,1,3\n', tmp_path)
  assert ava.evaluate(truth, truth, {1: 'stand'}, known=range(1, 81)).known_classes == 80
  assert ava.evaluate(truth, truth, {1: 'stand'}).known_classes == 2


def test_zero_says_what_was_compared(tmp_path):
  truth = table('a,0902,0,0,1,1,1\na,903,0,0,1,1,2\n', tmp_path)
  found = table('a,902.0,0,0,64,64,0,0.9\nb,904,0,0,9,9,1,0.9\n', tmp_path)
  names = {1: 'stand', 2: 'sit'}
  result = ava.evaluate(truth, found, names)
  assert ava_report.nothing_found(result)
  assert ava_report.comparison(result, truth, found, names).splitlines() == [
    'mAP is 0: no detection is right. What was compared with what:',
    '                ground truth    detections     in common',
    '  videos                   1             2             1',
    '  times (s)                2             2             1',
    '  keyframes                2             2             1',
    '  classes                  2             2             1',
    '  coordinates         0 .. 1       0 .. 64',
    '  videos only in the detections: b',
    '  times (s) only in the ground truth: 903',
    '  times (s) only in the detections: 904',
    '  keyframes only in the ground truth: a,903',
    '  keyframes only in the detections: b,904',
    '  classes only in the ground truth: 2',
    '  classes only in the detections: 0',
    '  2 classes are evaluated; boxes are x1,y1,x2,y2 as fractions of the frame.',
  ]


def test_no_detections_at_all(tmp_path):
  truth, nothing, names = table('a,1,0,0,1,1,1\n', tmp_path), table('', tmp_path), {1: 'stand'}
  result = ava.evaluate(truth, nothing, names)
  assert (result.mean_ap(), result.detection_rows['used']) == (0, 0)
  lines = ava_report.comparison(result, truth, nothing, names).splitlines()
  assert lines[6] == '  coordinates         0 .. 1      no boxes'


def test_without_annotated_boxes_there_is_no_map_rather_than_zero(tmp_path):
  truth, names = table('a,1\na,2,0,0,1,1,2\n', tmp_path), {1: 'stand'}
  result = ava.evaluate(truth, truth, names)
  assert ava_report.nothing_found(result) and result.mean_ap() is None
  assert ava_report.comparison(result, truth, truth, names).splitlines()[0] == (
    'There is no mAP: no annotated box of an evaluated class counts. What was compared with what:'
  )


def test_rounded_values_are_what_the_text_says():
  values = np.random.default_rng(0).random(2000).astype(np.float32)
  rounded = ava_csv.rounded(values, 9)
  assert rounded.tolist() == [float(f'{v:.9f}') for v in rounded]
  assert np.abs(rounded - values).max() < 5.1e-10
