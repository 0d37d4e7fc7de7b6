"""A detection dataset beside a classification dataset, from records to frame-mAP."""

import csv
import json
import math

import numpy as np
import pytest

from errors import ConfigError, DataError
from tests.train_lib.conftest import make_actors_config
from train_lib import data, evaluation, run
from train_lib import experiment as experiment_lib


@pytest.fixture
def config(actors_dir):
  return make_actors_config(actors_dir)


def test_a_run_trains_both_and_leaves_what_people_look_for(config, tmp_path, capsys):
  config.checkpoint.best_metric = 'mAP/actors'
  run.run('train', config, str(tmp_path))
  printed = capsys.readouterr().out
  assert 'Mixture  alternating: actions 16 (1.0 epochs), actors 16 (1.0 epochs)' in printed
  assert 'Boxes    actors: ' in printed and ' boxes to train on in 16 keyframes' in printed
  assert 'AVA frame-mAP at IoU 0.5' in printed
  rows = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  trained = {key for row in rows for key in row}
  assert {'train/loss/actions', 'train/loss/actors', 'train/hit1/actors'} < trained
  assert {'eval/mAP/actors', 'eval/mAP_tail/actors', 'eval/top1/actions'} < trained
  results = tmp_path / 'eval' / 'actors' / 'test' / '00000004'
  assert {p.name for p in results.iterdir()} == {
    'metrics.json',
    'predictions.jsonl',
    'detections_actors.csv',
    'groundtruth_actors.csv',
    'ava_actors.json',
    'ap_actors.png',
  }
  metrics = json.loads((results / 'metrics.json').read_text())
  assert metrics['examples'] == 8
  assert 0 <= metrics['mAP/actors'] <= 1


@pytest.mark.parametrize(
  ('change', 'error', 'message'),
  [
    (
      lambda c: c.datasets.actors.boxes.update({'max_boxes': 1}),
      ConfigError,
      r"boxes\.max_boxes: 1 do not hold the \d+ boxes to evaluate .* of 'test' in",
    ),
    (
      lambda c: c.tasks.actors.protocol.update({'class_groups': 'ava'}),
      DataError,
      'classes have no group there',
    ),
    (
      lambda c: c.tasks.actors.protocol.update({'evaluated_classes': 'ava'}),
      ConfigError,
      r'protocol\.evaluated_classes: \d+ of the 60 classes',
    ),
    (
      lambda c: c.tasks.actors.protocol.update({'iou': 2.0}),
      ConfigError,
      r'protocol\.iou: expected',
    ),
  ],
)
def test_what_would_stop_the_first_evaluation_stops_the_start(
  config, change, error, message, tmp_path, capsys
):
  change(config)
  with pytest.raises(error, match=message):
    run.run('train', config, str(tmp_path / 'run'))
  assert 'Compiling' not in capsys.readouterr().out
  assert not (tmp_path / 'run').exists()


def test_boxes_are_written_as_they_are_in_the_records(config, build, tmp_path):
  program, _, splits = build(config)
  test = splits['actors']
  variables = program.init().eval_variables
  result = evaluation.evaluate(program, variables, 'actors', test)
  boxes = result.boxes['actors']
  expected = []
  for row in range(len(test)):
    regions = test.regions(row, 'actors')
    kept = regions.annotated | (regions.scores >= np.float32(0.8))
    expected += [
      (row, *box, score, a)
      for box, score, a in zip(regions.boxes[kept], regions.scores[kept], regions.annotated[kept])
    ]
  found = sorted(zip(boxes.rows, *boxes.boxes.T, boxes.scores, boxes.annotated))
  assert [tuple(map(float, f)) for f in found] == sorted(tuple(map(float, e)) for e in expected)
  assert boxes.probabilities.shape == (len(expected), 19)
  folder = tmp_path / 'results'
  folder.mkdir()
  scored, _, _ = evaluation.score_boxes(result, program, test, folder)
  evaluation.write_results(scored, folder, program, 'actors', test)
  lines = [json.loads(line) for line in (folder / 'predictions.jsonl').read_text().splitlines()]
  assert sum(len(line['actors']) for line in lines) == len(expected)
  assert len(lines[0]['actors'][0]['top5']) == 5
  with open(folder / 'detections_actors.csv') as file:
    rows = list(csv.reader(file))
  assert len(rows) == 19 * int((~boxes.annotated).sum())


def fake(config, **head):
  config.trunk = {'name': 'fake_models:MeanPixelTrunk'}
  config.tasks.actors.head = {'name': 'fake_models:FavouriteBoxHead', **head}
  config.tasks.actors.protocol = None
  config.datasets = {'actors': config.datasets.actors}
  config.tasks = {'actors': config.tasks.actors}
  return config


def batch_of_boxes():
  label = np.zeros((8, 24, 19), np.float32)
  label[0, 0, [2, 5]] = label[0, 1, 5] = label[1, 0, 2] = 1
  mask = np.zeros((8, 24), np.float32)
  mask[0, :2] = mask[1, 0] = 1  # Three boxes; six clips have none.
  boxes = np.zeros((8, 24, 4), np.float32)
  boxes[mask > 0] = [0.1, 0.2, 0.5, 0.6]
  return {
    'inputs': np.zeros((8, 4, 32, 32, 3), np.uint8),
    'label': {'actors': label},
    'boxes': boxes,
    'box_mask': mask,
    'batch_mask': np.ones(8, np.float32),
    'row': np.arange(8),
  }


def test_the_loss_is_the_mean_over_boxes_of_the_sum_over_classes(config, build):
  program, *_ = build(fake(config, favourite=2, favourite_logit=3.0))
  _, metrics = program.train_step(program.init(), program.to_device(batch_of_boxes()))
  on, off = math.log1p(math.exp(-3)), math.log1p(math.exp(3))
  expected = (on + off + on) / 3 + 18 * math.log(2)
  assert float(metrics['loss'][0]) == pytest.approx(expected, rel=1e-6)
  assert [float(x) for x in metrics['hit1/actors']] == [2.0, 3.0]


def test_a_batch_without_any_box_changes_nothing(config, build):
  program, *_ = build(fake(config))
  batch = {**batch_of_boxes(), 'box_mask': np.zeros((8, 24), np.float32)}
  _, metrics = program.train_step(program.init(), program.to_device(batch))
  assert float(metrics['loss'][0]) == 0 == float(metrics['gradient_norm'][0])


def test_one_program_for_each_label_structure(config, build):
  program, train, _ = build(config)
  stream, state = data.train_stream(program, train, 0), program.init()
  for _ in range(6):
    state, _ = program.train_step(state, next(stream))
  stream.close()
  assert program.train_step._cache_size() == 2


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda c: c.datasets.actors.clip.update({'sampling': 'dense'}), r"set 'keyframe'"),
    (lambda c: c.tasks.actors.update({'loss': 'softmax'}), r"several labels a box: use 'sigmoid'"),
    (
      lambda c: c.augment.mix.update({'mixup_alpha': 0.3}),
      r'mix.mixup_alpha on, which boxes do not',
    ),
    (lambda c: c.augment.rand_augment.update({'num_layers': 1}), r'rand_augment on'),
    (lambda c: c.datasets.actors.__delitem__('boxes'), r'`datasets.actors.boxes` is not set'),
    (
      lambda c: (
        c.datasets.actors.update({'spatial_views': 3}),
        c.datasets.actors.clip.update({'fit': 'crop'}),
      ),
      r'boxes belong to one view',
    ),
    (
      lambda c: c.mixture.update({'sampling': 'mixed'}),
      r'`datasets.actors.boxes` is set, but with',
    ),
    (
      lambda c: c.tasks.actions.update({'protocol': c.tasks.actors.protocol}),
      r'no head on boxes: remove it',
    ),
    (lambda c: c.checkpoint.update({'best_metric': 'mAP_tial/actors'}), r'mAP_tail/actors'),
  ],
)
def test_configs_of_boxes_that_cannot_be(config, change, message):
  with config.unlocked(), config.ignore_type():
    change(config)
  with pytest.raises(ConfigError, match=message):
    experiment_lib.parse(config)


def test_a_head_for_clips_on_labels_of_boxes_is_an_error(config):
  config.tasks.actors = config.tasks.actions.copy_and_resolve_references()
  with config.unlocked():
    config.tasks.actors.update({'dataset': 'actors', 'loss': 'sigmoid'})
    del config.datasets.actors['boxes']
  experiment = experiment_lib.parse(config)
  with pytest.raises(ConfigError, match=r"LinearHead is for whole clips, but the labels 'action'"):
    data.open_train_splits(experiment)
