"""Clips with several labels, from records to mean average precision."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import simplejpeg

from datasets import manifest, records
from errors import ConfigError
from tests.train_lib.conftest import make_tiny_config
from train_lib import experiment as experiment_lib
from train_lib import multi_label, run
from train_lib.average_precision import average_precisions
from train_lib.eval_step import make_eval_step
from train_lib.evaluation import TaskPredictions
from train_lib.experiment import DataFacts

# Brightness and labels of the test clips; None: it cannot be read.
CLIPS = (
  (10, 'ac'), (60, 'b'), (110, 'a'), (160, ''), (None, 'a'), (200, 'b'), (240, 'ab'),
)  # fmt: skip
# The model scores `a` by brightness: right at ranks 1, 3 and 5. All others score alike: `b` is right
# in three of five, `c` in one. No clip has `d`, one has no label and one cannot be read.
APS = {'a': (1 + 2 / 3 + 3 / 5) / 3, 'b': 3 / 5, 'c': 1 / 5, 'd': None}
MEAN = sum(ap for ap in APS.values() if ap is not None) / 3


def encode(place, brightness, labels):
  jpeg = b'\xff\xd8 no'
  if brightness is not None:
    grey = np.full((24, 24, 3), brightness, np.uint8)
    jpeg = simplejpeg.encode_jpeg(grey, quality=100)
  own = ['abcd'.index(label) for label in labels]
  return records.encode_example(
    [jpeg] * 4, own, f'clip{place}', height=24, width=24, frame_rate=5.0
  )


@pytest.fixture(scope='module')
def grey_dir(tmp_path_factory):
  """Flat grey clips with labels of 'abcd'."""
  folder = tmp_path_factory.mktemp('grey')
  train = [encode(100 + i, 30 * i, 'abcd'[i % 4]) for i in range(8)]
  splits = {
    'train': train,
    'test': [encode(i, *clip) for i, clip in enumerate(CLIPS)],
    'unlabelled': [encode(i, 40 * i, '') for i in range(7)],
  }
  stats = [records.write_split(folder, name, examples, 1) for name, examples in splits.items()]
  manifest.write(folder, manifest.create(stats, {'motion': (list('abcd'), True)}))
  return folder


@pytest.fixture
def config(grey_dir):
  config = make_tiny_config(grey_dir)
  config.duration = '2 steps'
  config.trunk = {'name': 'fake_models:MeanPixelTrunk'}
  config.tasks.motion.head = {'name': 'fake_models:PixelHead'}
  config.tasks.motion.loss = 'sigmoid'
  config.datasets.demo.update({'temporal_views': 1, 'max_bad_records': 1})
  config.optimizer.learning_rate = 1e-6  # Brightness stays the score of `a`.
  config.evaluation.update({'every': 'never', 'pictures': True})
  config.checkpoint.update({'every': 'never', 'best_metric': 'mAP/motion'})
  return config


def test_a_run_ends_with_mean_average_precision(config, tmp_path, capsys):
  run.run('train', config, str(tmp_path))
  printed = capsys.readouterr().out
  assert (
    f'mAP of motion: {MEAN:.4f}; 3 of 4 classes, 5 examples; left out: 1 class without an example, '
    '1 example without a label\n'
  ) in printed
  results = tmp_path / 'eval' / 'demo' / 'test' / '00000002'
  assert {path.name for path in results.iterdir()} == {
    'metrics.json', 'predictions.jsonl', 'ap_motion.json', 'ap_motion.png', 'clips_motion.png',
  }  # fmt: skip
  metrics = json.loads((results / 'metrics.json').read_text())
  assert metrics['mAP/motion'] == pytest.approx(MEAN, abs=1e-12)
  assert (metrics['examples'], metrics['unreadable']) == (6, 1)
  content = json.loads((results / 'ap_motion.json').read_text())
  assert {c['name']: c['ap'] for c in content['classes']} == pytest.approx(APS, abs=1e-12)
  assert [c['positives'] for c in content['classes']] == [3, 3, 1, 0]
  assert (content['mAP'], content['examples']) == (metrics['mAP/motion'], 5)
  lines = [json.loads(line) for line in (results / 'predictions.jsonl').read_text().splitlines()]
  assert [line['motion']['label'] for line in lines] == [[0, 2], [1], [0], [], [1], [0, 1]]
  assert [''.join(line['motion']['name']) for line in lines] == ['ac', 'b', 'a', '', 'b', 'ab']
  hits = [line['motion']['top5'][0]['name'] in line['motion']['name'] for line in lines]
  assert metrics['hit1/motion'] == pytest.approx(np.mean(hits), abs=1e-7)
  scalars = (tmp_path / 'metrics.jsonl').read_text()
  assert '"eval/mAP/motion": ' in scalars


def test_a_split_without_any_label_has_no_best_checkpoint(config, tmp_path, caplog):
  config.datasets.demo.eval_split = 'unlabelled'
  run.run('train', config, str(tmp_path))
  (text,) = [r.getMessage() for r in caplog.records if r.name == 'train_lib.run']
  assert "`checkpoint.best_metric` is 'mAP/motion'" in text
  assert "at step 2 (demo: 'unlabelled') did not give it" in text


class KnownLogits:
  """A model that is sure of one class in both clips, and surer in the second."""

  def apply(self, variables, video, **_):
    return None, {'motion': jnp.float32([[17, 0], [20, 0]])}


def test_scores_of_sure_predictions_differ(config):
  facts = DataFacts({'demo': 8}, {'motion': ('a', 'b')}, 'the test')
  step = make_eval_step(experiment_lib.parse(config), facts, KnownLogits())
  labels = np.array([[0, 0], [1, 0]], np.float32)
  batch = {
    'inputs': np.zeros((2, 1, 1, 1, 1, 3), np.uint8),
    'label': {'motion': labels},
    'batch_mask': np.ones(2, np.float32),
  }
  result = step({}, batch)
  # As probabilities both are 1, which would be a precision of one in two.
  assert np.asarray(result['top_probabilities']['motion'])[:, 0].tolist() == [1, 1]
  scores = np.asarray(result['logits']['motion'])
  assert average_precisions(scores, labels)[0] == 1


def predictions(labels, scores):
  top = np.argsort(-scores, axis=1)
  return TaskPredictions(top, np.take_along_axis(scores, top, 1), labels, scores)


def test_one_label_a_clip_may_be_scored_so():
  labels, logits = np.array([0, 2, 2]), np.float32([[0.9, 0, 0.8], [0.1, 0, 0.7], [0, 0, 1]])
  scores = multi_label.score(predictions(labels, logits), ('a', 'b', 'c'))
  assert scores.positives.tolist() == [1, 0, 2]
  assert scores.mean_ap == pytest.approx((1 + (1 + 2 / 3) / 2) / 2, abs=1e-12)


def test_without_any_label_there_is_no_number():
  scores = multi_label.score(predictions(np.zeros((2, 3)), np.zeros((2, 3))), ('a', 'b', 'c'))
  assert scores.mean_ap is None
  assert multi_label.report('tags', scores) == (
    'mAP of tags: n/a; 0 of 3 classes, 0 examples; left out: 3 classes without an example, '
    '2 examples without a label'
  )
  assert multi_label.as_json(scores)['mAP'] is None


def test_metrics_of_the_evaluation(config):
  experiment = experiment_lib.parse(config)
  assert experiment.eval_metrics == ['loss/motion', 'hit1/motion', 'mAP/motion']
  config.tasks.motion.loss = 'softmax'
  with pytest.raises(ConfigError, match=r"best_metric` is 'mAP/motion', but .*'top5/motion'"):
    experiment_lib.parse(config)
