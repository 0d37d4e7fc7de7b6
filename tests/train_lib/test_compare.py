"""Two evaluations, written by hand, and what is said of their difference."""

import csv
import json

import pytest
from PIL import Image

from errors import ConfigError, DataError
from train_lib import compare_report, results
from train_lib.compare import Changed, ClassChange, Confusion, compare
from train_lib.paired import Outcomes

NAMES = ('jump', 'run', 'sit', 'walk', 'lie', 'stand')


def clip(label, predicted, rank=None, order=NAMES):
  """A line of one label a clip; the numbers of the classes follow their order."""
  top = [predicted, *[name for name in order if name != predicted]][:5]
  best = [{'class': order.index(x), 'name': x, 'probability': 0.5} for x in top]
  rank = rank or (1 if predicted == label else 2)
  return {'label': order.index(label), 'name': label, 'rank': rank, 'top5': best}


def write(folder, lines, metrics=None, **files):
  """An evaluation; `lines` is id -> what was predicted of the task, or a list of pairs."""
  folder.mkdir(parents=True)
  pairs = lines.items() if isinstance(lines, dict) else lines
  text = ''.join(json.dumps({'id': key, 'act': line}) + '\n' for key, line in pairs)
  (folder / 'predictions.jsonl').write_text(text)
  (folder / 'metrics.json').write_text(
    json.dumps({'data': 'd', 'shown': '1 x 1', **(metrics or {})})
  )
  for name, content in files.items():
    (folder / f'{name}.json').write_text(json.dumps(content))
  return results.read(folder / 'predictions.jsonl')


A = {
  'v1': clip('jump', 'jump'),
  'v2': clip('jump', 'run'),
  'v3': clip('run', 'run'),
  'v4': clip('run', 'sit', 6),
  'v5': clip('sit', 'walk'),
}
B = {
  'v1': clip('jump', 'jump'),
  'v2': clip('jump', 'jump'),
  'v3': clip('run', 'sit'),
  'v4': clip('run', 'sit', 3),
  'v5': clip('sit', 'sit'),
}


def test_what_changed_between_two_evaluations(tmp_path):
  found = compare(write(tmp_path / 'a', A), write(tmp_path / 'b', B))
  assert (found.task, found.common, found.measure, found.notes) == ('act', 5, 'top-1', ())
  assert found.scores == {'top-1': Outcomes(1, 1, 2, 1), 'top-5': Outcomes(4, 0, 1, 0)}
  assert found.classes == (
    ClassChange('jump', 2, 0.5, 1.0),
    ClassChange('sit', 1, 0.0, 1.0),
    ClassChange('run', 2, 0.5, 0.0),
  )
  assert found.confusions == (
    Confusion('run', 'sit', 1, 2),
    Confusion('jump', 'run', 1, 0),
    Confusion('sit', 'walk', 1, 0),
  )
  assert found.changed == (
    Changed('v2', ('jump',), 'run', 'jump', True),
    Changed('v3', ('run',), 'run', 'sit', False),
    Changed('v5', ('sit',), 'walk', 'sit', True),
  )


def test_the_report_says_how_sure_it_is(tmp_path):
  a = write(tmp_path / 'a', A)
  b = write(tmp_path / 'b', B, {'shown': '4 x 3'})
  found = compare(a, b)
  text = compare_report.report(found)
  assert 'B has the higher top-1, but it could be chance (p = 1)' in text
  assert 'top-1              40.0%   60.0%   +20.0' in text
  assert 'of 5 videos: 1 right in A alone, 2 in B alone' in text
  assert f'A  {tmp_path}/a: 5 videos\n   shown otherwise: 1 x 1\n' in text
  assert '   shown otherwise: 4 x 3\n' in text
  assert '  v3: run, run -> sit' in text
  many = [(f'v{i}', clip('jump', 'run')) for i in range(9)]
  better = [(key, clip('jump', 'jump')) for key, _ in many]
  sure = compare(write(tmp_path / 'c', many), write(tmp_path / 'd', better))
  assert (
    compare_report.verdict(sure)
    == 'B has the higher top-1 by +100.0 points; chance rarely does that (p = 0.0039).'
  )
  assert compare_report.verdict(compare(a, a)) == 'top-1 is the same.'


def test_files(tmp_path):
  found = compare(write(tmp_path / 'a', A), write(tmp_path / 'b', B))
  files = compare_report.write(found, tmp_path)
  content = json.loads(files[0].read_text())
  assert content['scores']['top-1']['difference'] == pytest.approx(0.2)
  assert content['scores']['top-1']['only_b'] == 2
  assert content['changed'][1] == {
    'id': 'v3', 'names': ['run'], 'a': 'run', 'b': 'sit', 'gained': False,
  }  # fmt: skip
  rows = list(csv.reader(files[1].open()))
  assert rows[0] == ['class', 'n', 'top-1 of A', 'top-1 of B', 'difference']
  assert rows[3] == ['run', '2', '0.500000', '0.000000', '-0.500000']
  assert list(csv.reader(files[2].open()))[2] == ['v3', 'run', 'run', 'sit', 'lost']
  with Image.open(files[3]) as picture:
    assert picture.width > picture.height > 200


def test_other_examples_are_refused(tmp_path):
  a = write(tmp_path / 'a', A)
  less = {key: line for key, line in B.items() if key != 'v1'}
  b = write(tmp_path / 'b', {**less, 'v4': clip('sit', 'sit'), 'v9': clip('sit', 'sit')})
  with pytest.raises(DataError) as error:
    compare(a, b)
  counts = (
    "A has 5 examples, B 5, 3 in common (1 only in A, such as 'v1'; 1 only in B, such as 'v9'; "
    "1 with another label, such as 'v4')"
  )
  assert counts in str(error.value)
  assert '--intersect' in str(error.value)
  found = compare(a, b, intersect=True)
  assert found.scores['top-1'] == Outcomes(0, 1, 2, 0)
  assert found.notes == (f'Only what both have is compared: {counts}.',)
  with pytest.raises(DataError, match='0 in common'):
    compare(a, write(tmp_path / 'c', {'w': clip('run', 'run')}), intersect=True)


def test_classes_in_another_order_are_matched_by_name(tmp_path):
  order = NAMES[::-1]
  other = {
    key: clip(line['name'], line['top5'][0]['name'], line['rank'], order) for key, line in B.items()
  }
  assert other['v1']['label'] != B['v1']['label']
  found = compare(write(tmp_path / 'a', A), write(tmp_path / 'b', other, {'data': 'e'}))
  assert found.scores['top-1'] == Outcomes(1, 1, 2, 1)
  assert 'their hashes in metrics.json do not' in found.notes[0]


def test_examples_of_one_id_are_told_apart_by_their_place(tmp_path):
  lines = [('v', clip('jump', 'jump')), ('v', clip('run', 'sit'))]
  a, b = write(tmp_path / 'a', lines), write(tmp_path / 'b', lines)
  assert compare(a, b).scores['top-1'] == Outcomes(1, 0, 0, 1)
  with pytest.raises(DataError, match="the id 'v' stands there more than once"):
    compare(a, write(tmp_path / 'c', lines, {'data': 'e'}))


def test_several_labels_a_clip(tmp_path):
  def line(names, predicted):
    top = [{'class': NAMES.index(predicted), 'name': predicted, 'probability': 0.9}]
    return {'label': [NAMES.index(x) for x in names], 'name': names, 'top5': top}

  def precisions(*values):
    known = zip(NAMES, values)
    return {'classes': [{'name': n, 'positives': 2, 'ap': ap} for n, ap in known]}

  labels = {'v1': ['jump', 'run'], 'v2': ['run'], 'v3': []}
  a = write(
    tmp_path / 'a', {k: line(v, 'jump') for k, v in labels.items()},
    ap_act=precisions(0.5, 0.25, None),
  )  # fmt: skip
  b = write(
    tmp_path / 'b', {k: line(v, 'run') for k, v in labels.items()}, ap_act=precisions(0.4, 0.75, 0)
  )
  found = compare(a, b)
  assert found.measure == 'AP'
  assert (found.scores['mAP'].a, found.scores['mAP'].b) == (0.375, 0.575)
  assert found.scores['hit-1'] == Outcomes(1, 0, 1, 1)
  assert found.classes == (ClassChange('run', 2, 0.25, 0.75), ClassChange('jump', 2, 0.5, 0.4))
  assert found.changed == (Changed('v2', ('run',), 'jump', 'run', True),)
  assert 'not what other videos would give' in found.notes[1]
  part = write(tmp_path / 'c', {'v1': line(labels['v1'], 'jump')}, ap_act=precisions(1, 1, 1))
  assert list(compare(a, part, intersect=True).scores) == ['hit-1']


def test_boxes_have_average_precision_alone(tmp_path):
  def precisions(*values):
    known = zip(NAMES, values)
    classes = [{'name': n, 'annotated': 3, 'ap': ap} for n, ap in known]
    return {'detected_boxes': {'classes': classes}, 'annotated_boxes': {'classes': []}}

  boxes = {'v1': [{'box': [0, 0, 1, 1], 'top5': []}], 'v2': []}
  a = write(tmp_path / 'a', boxes, ava_act=precisions(0.5, 0.25))
  b = write(tmp_path / 'b', boxes, ava_act=precisions(0.5, 0.5))
  found = compare(a, b)
  assert found.scores['mAP'].difference == 0.125
  assert found.classes[0] == ClassChange('run', 3, 0.25, 0.5)
  compare_report.write(found, tmp_path)
  with pytest.raises(DataError, match='no average precision that both have'):
    compare(a, write(tmp_path / 'c', boxes))
  with pytest.raises(DataError, match=r'is of boxes in .* and of one label a clip'):
    compare(a, write(tmp_path / 'd', B))


def test_files_of_an_earlier_version_are_named(tmp_path):
  old = {key: {'label': line['label'], 'top5': line['top5']} for key, line in A.items()}
  with pytest.raises(DataError, match=r"'v1' lacks one of name, rank, top5 of 'act'.*--mode=eval"):
    compare(write(tmp_path / 'a', old), write(tmp_path / 'b', B))


@pytest.mark.parametrize(
  'change',
  [{'rank': 'first'}, {'rank': None}, {'top5': []}, {'top5': [{'class': 1}]}, {'name': ['jump']}],
)
def test_files_that_were_changed_are_named(tmp_path, change):
  changed = {**A, 'v2': {**A['v2'], **change}}
  with pytest.raises(DataError, match=r"a/predictions\.jsonl: 'v2' lacks one of .*--mode=eval"):
    compare(write(tmp_path / 'a', changed), write(tmp_path / 'b', B))


def test_average_precision_is_of_the_same_labels_or_refused(tmp_path):
  def precisions(**fields):
    entry = {'name': 'jump', 'annotated': 3, 'ap': 0.5, **fields}
    return {'detected_boxes': {'classes': [entry]}}

  boxes = {'v1': [{'box': [0, 0, 1, 1], 'top5': []}]}
  a = write(tmp_path / 'a', boxes, ava_act=precisions())
  b = write(tmp_path / 'b', boxes, ava_act=precisions(annotated=4))
  with pytest.raises(DataError, match="different labels: of 'jump' there are 3 in A and 4"):
    compare(a, b)
  for name, wrong in {'c': precisions(ap='high'), 'd': {'classes': [{'name': 'jump'}]}}.items():
    with pytest.raises(DataError, match=rf'{name}/ava_act\.json: expected "classes" with name'):
      compare(a, write(tmp_path / name, boxes, ava_act=wrong))


def test_a_mean_against_most_classes_is_told(tmp_path):
  def precisions(*values):
    classes = [{'name': f'c{i}', 'annotated': 3, 'ap': ap} for i, ap in enumerate(values)]
    return {'detected_boxes': {'classes': classes}}

  boxes = {'v1': [{'box': [0, 0, 1, 1], 'top5': []}]}
  a = write(tmp_path / 'a', boxes, ava_act=precisions(0.0, *[0.5] * 9))
  b = write(tmp_path / 'b', boxes, ava_act=precisions(1.0, *[0.45] * 9))
  found = compare(a, b)
  assert compare_report.verdict(found) == (
    'B has the higher mAP by +5.5 points, but the other is better in more classes: A in 9, B in 1 '
    '(p = 0.021).'
  )
  assert 'over 10 classes: 9 better in A, 1 in B' in compare_report.report(found)
  assert compare_report.as_json(found)['scores']['mAP']['better_a'] == 9


def test_names_with_dollars_are_no_formulas(tmp_path):
  names = {'jump': r'$\frac jump $5', 'run': r'run $\over$'}

  def renamed(line):
    top = [{**x, 'name': names.get(x['name'], x['name'])} for x in line['top5']]
    return {**line, 'name': names.get(line['name'], line['name']), 'top5': top}

  a = write(tmp_path / 'a', {key: renamed(line) for key, line in A.items()})
  b = write(tmp_path / 'b', {key: renamed(line) for key, line in B.items()})
  assert compare_report.write(compare(a, b), tmp_path)[3].stat().st_size > 0


def test_lines_end_with_newlines_alone(tmp_path):
  lines = [{'id': 'a\u2028b', 'act': A['v1']}]
  path = tmp_path / 'predictions.jsonl'
  text = '\n'.join(json.dumps(line, ensure_ascii=False) for line in lines)
  path.write_text(text, encoding='utf-8')
  assert list(results.read(path).lines) == [('a\u2028b', 0)]


def test_tasks_are_named(tmp_path):
  a, b = write(tmp_path / 'a', A), write(tmp_path / 'b', B)
  assert compare(a, b, 'act').task == 'act'
  with pytest.raises(ConfigError, match=r"--task=verb: .* has \['act'\]"):
    compare(a, b, 'verb')


def test_evaluations_of_a_run_are_found(tmp_path):
  for place in ('k400/test/00000100', 'k400/test/00000200', 'ssv2/val/00000200'):
    write(tmp_path / 'eval' / place, A)
  run, file = str(tmp_path), 'predictions.jsonl'
  k400 = tmp_path / 'eval' / 'k400' / 'test'
  assert results.find(run, dataset='k400') == k400 / '00000200' / file
  assert results.find(run, split='test', step=100) == k400 / '00000100' / file
  assert results.find(str(k400 / '00000100')) == k400 / '00000100' / file
  assert results.find(str(k400 / '00000100' / file)) == k400 / '00000100' / file
  with pytest.raises(
    ConfigError, match=r'several splits, .*k400/test/00000200.*choose by --dataset'
  ):
    results.find(run)
  with pytest.raises(DataError, match='There are: k400/test/00000100, k400/test/00000200'):
    results.find(run, step=300)
  with pytest.raises(DataError, match='no evaluation is there'):
    results.find(str(tmp_path / 'nothing'))


def test_predictions_alone_can_be_compared(tmp_path):
  a, b = write(tmp_path / 'a', A), write(tmp_path / 'b', B)
  alone = b.path.rename(tmp_path / 'mine.jsonl')
  found = compare(a, results.read(alone))
  assert found.notes == ('Whether the data are the same is not known: a metrics.json is missing.',)
  assert f'B  {alone}: 5 videos\n   shown otherwise: unknown' in compare_report.report(found)


def test_damaged_files_are_named(tmp_path):
  path = tmp_path / 'predictions.jsonl'
  path.write_text('{"id": "a"}\n{"id": ')
  with pytest.raises(DataError, match='line 2: no JSON'):
    results.read(path)
  path.write_text('{"key": "a"}\n')
  with pytest.raises(DataError, match='line 1: expected an object with an id'):
    results.read(path)
  path.write_text('')
  with pytest.raises(DataError, match='is empty'):
    results.read(path)
