"""The demo's classes need time: a model blind to it cannot tell a class from its partner."""

import numpy as np
import pytest

from datasets import demo
from train_lib import data, evaluation


def average_pool_on_single_frames(config, data_dir):
  config.trunk.update({'hidden_size': 32, 'num_layers': 2, 'mlp_dim': 64, 'tubelet': (1, 8, 8)})
  config.trunk.temporal_num_layers = 0
  config.datasets.demo.dir = str(data_dir)
  config.datasets.demo.temporal_views = 1  # The centre view: partners show the same frames.
  config.datasets.demo.clip.update({'resize': 32, 'crop': 32})
  config.update({'batch_size': 32, 'duration': '300 steps'})
  return config


def train(program, dataset):
  state = program.init()
  stream = data.train_stream(program, dataset, 0)
  for _ in range(program.lengths.total):
    state, metrics = program.train_step(state, next(stream))
  stream.close()
  return state, metrics


def test_average_pool_baseline_on_single_frames_stays_at_chance_within_each_pair(
  tiny_config, build, tmp_path, optimized
):
  demo.write(tmp_path, train=320, test=80)
  program, train_data, test_data = build(average_pool_on_single_frames(tiny_config, tmp_path))
  state, metrics = train(program, train_data)
  assert float(metrics['loss'][0]) < np.log(8)  # It has learned something: which pair.
  result = evaluation.evaluate(program, state.eval_variables, 'demo', test_data['demo'])
  predictions = result.predictions['motion']
  by_label = {}
  for i, row in enumerate(result.rows):
    by_label.setdefault(test_data['demo'].key(int(row)).split('-')[1], []).append(i)
  pairs = list(by_label.values())
  assert len(pairs) == len(test_data['demo']) // 2
  assert all(len(pair) == 2 for pair in pairs)
  for a, b in pairs:
    assert {int(predictions.labels[a]) // 2} == {int(predictions.labels[b]) // 2}
    np.testing.assert_allclose(
      predictions.top_probabilities[a], predictions.top_probabilities[b], atol=1e-4
    )
  # Equal outputs for opposite labels: at most one of each pair is right.
  assert result.metrics['top1/motion'] <= 0.5
  # Blind to time, not to everything: it finds the pair better than 1 in 4, and half of those are
  # the right one of the two.
  right_pair = (predictions.top_classes[:, 0] // 2 == predictions.labels // 2).mean()
  assert right_pair >= 0.35
  assert result.metrics['top1/motion'] == pytest.approx(right_pair / 2, abs=0.03)
  assert len(demo.CLASSES) == 8
