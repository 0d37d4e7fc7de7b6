"""A model comes back from its checkpoint as it was, or the message says why not."""

import jax
import numpy as np
import pytest

from configs.cofinetune import demo as cofinetune_demo
from configs.uniformerv2 import trunks
from configs.vivit import demo
from errors import CheckpointMismatchError, ConfigError
from tests.train_lib.models_on_disk import write_model
from train_lib import checkpoint, params_file, trained

NAMES = {'motion': ('left', 'right')}


def assert_equal(left, right):
  assert jax.tree.structure(left) == jax.tree.structure(right)
  jax.tree.map(np.testing.assert_array_equal, left, right)


def small_config(**trunk):
  config = demo.get_config()
  config.trunk.update({'hidden_size': 8, 'num_layers': 2, 'num_heads': 2, 'mlp_dim': 8, **trunk})
  return config


def test_a_run_and_its_export_are_one_model(finished, tmp_path):
  workdir, _ = finished
  of_run = trained.load(str(workdir))
  params, meta = checkpoint.load_params(str(workdir))
  params_file.write(tmp_path / 'a.npz', params, meta)
  of_file = trained.load(str(tmp_path / 'a.npz'))
  assert_equal(of_run.variables, of_file.variables)
  assert of_run.class_names == of_file.class_names
  assert len(of_run.class_names['motion']) == 8
  assert of_run.shown['demo'].clip.frames == 4
  assert set(of_run.variables['params']) == {'trunk', 'heads_motion'}
  video = np.zeros((1, 4, 16, 16, 3), np.float32)
  _, logits = of_run.model.apply(of_run.variables, video, train=False)
  assert logits['motion'].shape == (1, 8)


def test_layers_are_unrolled_and_in_float32(tmp_path):
  config = small_config(scan_layers=True, remat='full')
  config.compute_dtype = 'bfloat16'
  _, variables = write_model(tmp_path / 'a.npz', config, NAMES)
  found = trained.load(str(tmp_path / 'a.npz'))
  assert (found.model.trunk.scan_layers, found.model.trunk.remat) == (False, 'none')
  assert found.experiment.compute_dtype == 'float32'
  assert_equal(found.variables, variables)


def test_statistics_come_with_the_parameters(tmp_path):
  config = demo.get_config()
  sizes = {'hidden_size': 8, 'num_layers': 1, 'num_heads': 2, 'mlp_dim': 8}
  config.trunk = trunks.uniformerv2('Ti', **sizes, temporal_module='local_mhra', global_layers=1)
  _, variables = write_model(tmp_path / 'a.npz', config, NAMES)
  assert set(variables) == {'params', 'batch_stats'}
  assert_equal(trained.load(str(tmp_path / 'a.npz')).variables, variables)


def test_what_is_no_trained_model(tmp_path):
  with pytest.raises(CheckpointMismatchError, match='a folder without a complete checkpoint'):
    trained.load(str(tmp_path))
  with pytest.raises(CheckpointMismatchError, match=r'x\.npz: there is no such file or folder'):
    trained.load(str(tmp_path / 'x.npz'))
  np.savez(tmp_path / 'vit.npz', cls=np.zeros(1))
  with pytest.raises(
    CheckpointMismatchError, match='has weights, but no config and no class names'
  ):
    trained.load(str(tmp_path / 'vit.npz'))


def test_arrays_of_another_model_are_listed(tmp_path):
  def change(params):
    params['params/trunk/cls_SpatialTransformer'] = np.zeros((1, 1, 9), np.float32)
    params['params/trunk/more'] = np.zeros(3, np.float32)
    del params['params/heads_motion/output_projection/bias']
    return params

  write_model(tmp_path / 'a.npz', small_config(), NAMES, change)
  with pytest.raises(CheckpointMismatchError) as caught:
    trained.load(str(tmp_path / 'a.npz'))
  assert str(caught.value).splitlines()[1:] == [
    '  params/heads_motion/output_projection/bias: missing, (2,) in the model',
    '  params/trunk/cls_SpatialTransformer: (1, 1, 9), (1, 1, 8) in the model',
    '  params/trunk/more: (3,), not in the model',
  ]


def test_a_task_is_named_where_there_is_a_choice(tmp_path):
  config = small_config()
  config.tasks.other = config.tasks.motion
  write_model(tmp_path / 'a.npz', config, {**NAMES, 'other': ('a',)})
  found = trained.load(str(tmp_path / 'a.npz'))
  assert found.task('other') == 'other'
  with pytest.raises(ConfigError, match=r"has 2 tasks that classify clips, \['motion', 'other'\]"):
    found.task('')
  with pytest.raises(ConfigError, match=r"--task=noun: the checkpoint has \['motion', 'other'\]"):
    found.task('noun')


def test_tasks_of_boxes_are_refused(tmp_path):
  config = cofinetune_demo.get_config()
  config.trunk.update({'hidden_size': 8, 'num_layers': 1, 'num_heads': 2, 'mlp_dim': 8})
  names = {name: ('a', 'b') for name in config.tasks}
  write_model(tmp_path / 'a.npz', config, names)
  found = trained.load(str(tmp_path / 'a.npz'))
  assert found.task('') == 'actions'
  with pytest.raises(ConfigError, match='--task=actors: its head classifies boxes, not clips'):
    found.task('actors')
