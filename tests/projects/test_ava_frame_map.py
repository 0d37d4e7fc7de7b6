"""The protocol object and the stand-alone command, which must agree."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from datasets import label_map
from datasets.regions import Regions
from errors import ConfigError, DataError
from projects.cofinetune import ava, ava_csv, ava_report
from projects.cofinetune.frame_map import FrameMAP
from train_lib.protocols import BoxPredictions

ROOT = pathlib.Path(__file__).parents[2]
CASES = ROOT / 'tests' / 'fixtures' / 'ava'
BOXES = np.array([[0.1, 0.1, 0.6, 0.5], [0.3, 0.5, 0.9, 0.95], [0.05, 0.6, 0.3, 0.8]], np.float32)


class Keyframes:
  """Six keyframes of two videos (with commas in their names); keyframe 5 has no annotated box. Classes 12, 3 and 80."""

  where, split = 'data/fake', 'test'

  def __init__(self, keys=None):
    self.keys = keys or [f'v,1.{i // 3},{902 + i:04d}' for i in range(6)]
    rng = np.random.default_rng(0)
    self.labels = (rng.random((5, 2, 3)) < 0.5).astype(np.float32)
    self.labels[:, :, 0] = np.maximum(self.labels[:, :, 0], 1 - self.labels.max(axis=2))

  def __len__(self):
    return 6

  def key(self, row):
    return self.keys[row]

  def class_names(self, task):
    return ('stand', 'crouch/kneel', 'watch (a person)')

  def class_ids(self, task):
    return (12, 3, 80)

  def regions(self, row, task):
    annotated = np.arange(3) < (2 if row < 5 else 0)
    labels = np.zeros((3, 3), np.float32)
    if row < 5:
      labels[:2] = self.labels[row]
    return Regions(BOXES, labels, np.array([1, 1, 0.9], np.float32), annotated)


def predict(dataset, seed=0):
  """A detected box near each annotated one and an annotated one, probabilities by chance."""
  rng = np.random.default_rng(seed)
  rows = np.repeat(np.arange(5), 4)
  shift = rng.uniform(-0.03, 0.03, (20, 4)) * (np.arange(20) % 4 < 2)[:, None]
  return BoxPredictions(
    rows=rows,
    boxes=(BOXES[np.arange(20) % 2] + shift).astype(np.float32),
    scores=rng.uniform(0.8, 1, 20).astype(np.float32),
    annotated=np.arange(20) % 4 >= 2,
    probabilities=rng.random((20, 3)).astype(np.float32),
  )


@pytest.fixture(scope='module')
def scored(tmp_path_factory):
  """(result, folder) of a protocol on the fake."""
  folder = tmp_path_factory.mktemp('eval')
  dataset = Keyframes()
  return FrameMAP()(predict(dataset), dataset, 'action', folder), folder


def test_writes_what_it_says(scored):
  result, folder = scored
  assert set(result.metrics) == {
    'mAP/action', 'mAP_head/action', 'mAP_mid/action', 'mAP_annotated_boxes/action'
  }  # fmt: skip
  names = ['groundtruth_action.csv', 'detections_action.csv', 'ava_action.json', 'ap_action.png']
  assert result.files == [folder / name for name in names]
  content = json.loads((folder / 'ava_action.json').read_text())
  assert content['detected_boxes']['mAP'] == result.metrics['mAP/action']
  assert content['annotated_boxes']['mAP'] == result.metrics['mAP_annotated_boxes/action']
  assert content['annotated_boxes']['boxes'] == ava_report.ANNOTATED
  assert (folder / 'ap_action.png').read_bytes()[:4] == b'\x89PNG'
  assert (folder / 'groundtruth_action.csv').read_text().endswith('"v,1.1",0907\n')
  assert 'detections    30 rows: 30 used' in result.report
  assert 'keyframes     6 evaluated, 1 of them without annotated boxes' in result.report
  assert f'boxes         {ava_report.ANNOTATED}' in result.report


def test_annotated_and_detected_boxes_are_scored_apart(scored):
  dataset = Keyframes()
  right = predict(dataset)
  probabilities = np.where(
    right.annotated[:, None], dataset.labels[right.rows, np.arange(20) % 2], 0.5
  ).astype(np.float32)
  perfect = BoxPredictions(right.rows, right.boxes, right.scores, right.annotated, probabilities)
  result = FrameMAP()(perfect, dataset, 'action', None)
  assert result.metrics['mAP_annotated_boxes/action'] == 1.0
  assert 0 < result.metrics['mAP/action'] < 1
  assert result.files == []


def command(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'projects.cofinetune.evaluate_ava', *arguments],
    capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ,
  )  # fmt: skip


def test_the_command_scores_the_files_to_the_same_number(scored, tmp_path):
  result, folder = scored
  labels = ''.join(
    f'item {{\n  name: "{name}"\n  id: {i}\n}}\n'
    for i, name in zip(Keyframes().class_ids(''), Keyframes().class_names(''))
  )
  (tmp_path / 'labels.pbtxt').write_text(labels)
  done = command(
    f'--groundtruth={folder}/groundtruth_action.csv',
    f'--detections={folder}/detections_action.csv',
    f'--labelmap={tmp_path}/labels.pbtxt',
    f'--out={tmp_path}/new',
  )
  assert done.returncode == 0, done.stderr
  found = json.loads((tmp_path / 'new' / 'ava.json').read_text())
  written = json.loads((folder / 'ava_action.json').read_text())['detected_boxes']
  written['boxes'] = found['boxes']
  assert found == written
  assert f'mAP           {result.metrics["mAP/action"]:.4f}' in done.stdout
  assert (tmp_path / 'new' / 'ap.png').stat().st_size > 1000
  assert f'Written: {tmp_path}/new/rejected.csv' in done.stdout
  assert (tmp_path / 'new' / 'rejected.csv').read_text() == 'file,line,reason\n'


def test_the_command_names_mistakes():
  case = CASES / 'case1_basic'
  files = [f'--{name}={case}/{name}.csv' for name in ('groundtruth', 'detections')]
  done = command(*files, f'--labelmap={case}/labelmap.pbtxt', f'--out={case}/expected.json')
  assert done.returncode == 1
  assert done.stderr.startswith(f'ConfigError: --out={case}/expected.json: cannot be written: File')
  done = command(
    f'--groundtruth={case}/groundtruth.csv',
    f'--detections={case}/labelmap.pbtxt',
    f'--labelmap={case}/labelmap.pbtxt',
  )
  assert done.returncode == 1
  assert done.stderr.startswith(f'DataError: {case}/labelmap.pbtxt, line 1: 1 columns')


@pytest.mark.parametrize('as_json', [False, True])
def test_the_command_prints_flaws_or_one_json_object(as_json):
  case = CASES / 'case1_basic'
  files = [f'--{name}={case}/{name}.csv' for name in ('groundtruth', 'detections')]
  done = command(*files, f'--labelmap={case}/labelmap.pbtxt', *['--json'] * as_json)
  assert done.returncode == 0, done.stderr
  if as_json:
    content = json.loads(done.stdout)
    assert content['mAP'] == json.loads((case / 'expected.json').read_text())['official']['mAP']
    assert content['detection_flaws'][ava.REVERSED]['rows'] == 6
  else:
    assert '\nRows to look at; all of them with --out=DIR:\n' in done.stdout
    found = re.search(
      r'detections\.csv: 6 with x1 >= x2 or y1 >= y2: lines .* and 3 more', done.stdout
    )
    assert found


def test_an_map_of_zero_explains_itself():
  dataset = Keyframes()
  good = predict(dataset)
  pixels = BoxPredictions(
    good.rows, good.boxes * 64, good.scores, good.annotated, good.probabilities
  )
  result = FrameMAP()(pixels, dataset, 'action', None)
  assert result.metrics['mAP/action'] == 0
  assert 'mAP is 0: no detection is right. What was compared with what:' in result.report
  assert 'keyframes                6             5             5' in result.report


def test_only_classes_of_the_label_map_count(tmp_path):
  (tmp_path / 'some.pbtxt').write_text('item {\n  name: "stand"\n  id: 12\n}\n')
  dataset = Keyframes()
  some = FrameMAP(evaluated_classes=str(tmp_path / 'some.pbtxt'))
  result = some(predict(dataset), dataset, 'action', None)
  assert 'classes       1 of 3; 1 have annotated boxes' in result.report
  assert set(result.metrics) == {
    'mAP/action', 'mAP_head/action', 'mAP_annotated_boxes/action'
  }  # fmt: skip
  (tmp_path / 'some.pbtxt').write_text('item {\n  name: "swim"\n  id: 13\n}\n')
  message = (
    r"1 of the 1 classes of .*, whose 3 ids are 3 to 80: the first, 13, is 'swim', there None"
  )
  with pytest.raises(ConfigError, match=message):
    some.check(dataset, 'action')
  (tmp_path / 'some.pbtxt').write_text('item {\n  name: "swim"\n  id: 12\n}\n')
  with pytest.raises(ConfigError, match="the first, 12, is 'swim', there 'stand'"):
    some(predict(dataset), dataset, 'action', None)


class Ava(Keyframes):
  """The same with AVA's classes of the ids given: the three above are among them."""

  def __init__(self, ids):
    super().__init__()
    self.ids = tuple(ids)

  def class_ids(self, task):
    return self.ids

  def class_names(self, task):
    evaluated = label_map.read(ava_csv.AVA_EVALUATED)
    return tuple(evaluated.get(i, f'class {i}') for i in self.ids)

  def regions(self, row, task):
    few = super().regions(row, task)
    labels = np.zeros((3, len(self.ids)), np.float32)
    labels[:, [self.ids.index(i) for i in (12, 3, 80)]] = few.labels
    if 2 in self.ids:
      labels[0, self.ids.index(2)] = 1  # 'crawl' is not evaluated.
    return few._replace(labels=labels)


def test_60_of_80_classes_of_ava_count():
  paper = FrameMAP(class_groups='ava', evaluated_classes='ava')
  evaluated = tuple(label_map.read(ava_csv.AVA_EVALUATED))
  results = {}
  for ids in (range(1, 81), evaluated):
    dataset = Ava(ids)
    paper.check(dataset, 'action')
    few = predict(dataset)
    chances = np.random.default_rng(1).random((20, 81)).astype(np.float32)[:, list(ids)]
    predictions = dataclasses.replace(few, probabilities=chances)
    results[len(ids)] = paper(predictions, dataset, 'action', None)
  for count, result in results.items():
    assert f'classes       60 of {count}; 3 have annotated boxes' in result.report
  assert '5 of classes outside the label map' in results[80].report
  assert results[80].metrics == results[60].metrics
  assert 0 < results[60].metrics['mAP/action'] < 1


def test_a_dataset_with_other_classes_is_refused_before_training():
  paper = FrameMAP(class_groups='ava', evaluated_classes='ava')
  with pytest.raises(
    ConfigError, match=r'57 of the 60 classes of .* are not in data/fake, whose 3 ids'
  ):
    paper.check(Keyframes(), 'action')
  with pytest.raises(DataError, match='20 classes have no group there'):
    FrameMAP(class_groups='ava').check(Ava(range(1, 81)), 'action')
  with pytest.raises(DataError, match=r'nowhere\.csv: cannot be read'):
    FrameMAP(class_groups='nowhere.csv').check(Keyframes(), 'action')


def test_keys_must_name_keyframes():
  dataset = Keyframes([f'clip{i}' for i in range(6)])
  with pytest.raises(DataError, match="the key 'clip0' names no keyframe"):
    FrameMAP().check(dataset, 'action')
  dataset = Keyframes(['v,902', 'v,0902', *(f'v,{i}' for i in range(4))])
  with pytest.raises(DataError, match='6 rows, but 5 keyframes'):
    FrameMAP()(predict(dataset), dataset, 'action', None)


def test_the_threshold_has_a_range():
  with pytest.raises(ConfigError, match=r'protocol\.iou: expected a number'):
    FrameMAP(iou=0)
