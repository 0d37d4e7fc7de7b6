"""Every trunk and head takes any number of clips; weights go through safetensors whole."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.cofinetune import demo as cofinetune
from configs.multitrain import demo as multitrain
from configs.tubevit import demo as tubevit
from configs.uniformerv2 import trunks
from configs.vivit import demo
from errors import ConfigError, ExportError
from tests.train_lib.models_on_disk import write_model
from train_lib import experiment as experiment_lib
from train_lib import exporting, params_file, trained, weight_files
from train_lib.experiment import DataFacts
from train_lib.exporting import Interface
from train_lib.program import build_model

SMALL = {'hidden_size': 8, 'num_layers': 1, 'num_heads': 2, 'mlp_dim': 8}


def vivit(**trunk):
  config = demo.get_config()
  config.trunk.update({**SMALL, 'tubelet': (2, 8, 8)})
  if trunk.get('attention', 'factorised_encoder') != 'factorised_encoder':
    for key in [key for key in config.trunk if key.startswith('temporal_')]:
      del config.trunk[key]
  config.trunk.update(trunk)
  config.datasets.demo.clip.update({'frames': 4, 'stride': 2, 'resize': 16, 'crop': 16})
  return config


def uniformerv2(**trunk):
  config = vivit()
  config.trunk = trunks.uniformerv2('Ti', **{**SMALL, 'patch_size': 8, **trunk})
  return config


def with_head(name, **head):
  config = vivit(attention='spacetime')
  config.tasks.motion.head = {'name': f'models.heads:{name}', **head}
  return config


def small(config):
  config.trunk.update(SMALL)
  return config


MODELS = {
  'vivit, spacetime': vivit(attention='spacetime'),
  'vivit, factorised_encoder': vivit(temporal_context='position'),
  'vivit, factorised_self_attention': vivit(attention='factorised_self_attention', pooling='mean'),
  'vivit, factorised_dot_product': vivit(attention='factorised_dot_product', pooling='mean'),
  'vivit, uniform_frames': vivit(
    attention='spacetime', tokeniser='uniform_frames', num_sampled_frames=2, tubelet=(1, 8, 8)
  ),
  'uniformerv2, none': uniformerv2(global_layers=1),
  'uniformerv2, local_mhra': uniformerv2(temporal_module='local_mhra', global_layers=1),
  'uniformerv2, shift': uniformerv2(temporal_module='shift', global_layers=0, output='class'),
  'uniformerv2, joint': uniformerv2(temporal_module='joint', global_layers=0, output='class'),
  'uniformerv2, transformer': uniformerv2(
    temporal_module='transformer', temporal_transformer_layers=1, global_layers=0, output='class'
  ),
  'uniformerv2, st_adapter, parallel': uniformerv2(
    temporal_module='st_adapter', num_layers=2, global_layers=2, fusion='parallel'
  ),
  'uniformerv2, convolution, hierarchical_kv': uniformerv2(
    temporal_module='convolution', num_layers=2, global_layers=2, fusion='hierarchical_kv'
  ),
  'uniformerv2, attention, hierarchical_q': uniformerv2(
    temporal_module='attention', num_layers=2, global_layers=2, fusion='hierarchical_q'
  ),
  'tubevit': tubevit.get_config('mode=video'),
  'mvit': multitrain.get_config('trunk=mvit'),
  'MLPHead': with_head('MLPHead', hidden_size=8),
  'MAPHead': with_head('MAPHead', num_heads=2, mlp_dim=8),
  'DetectionHead': small(cofinetune.get_config()),
}


@pytest.mark.parametrize('name', MODELS)
def test_any_number_of_clips(name):
  experiment = experiment_lib.parse(MODELS[name])
  names = {task: ('a', 'b', 'c') for task in experiment.tasks}
  model = build_model(experiment, DataFacts({}, names, 'the test'))
  shape = next(iter(experiment.datasets.values())).clip.shape
  boxes = any(task.on_boxes for task in experiment.tasks.values())
  inputs = exporting.inputs_of(Interface(tuple(names), shape, boxes))

  def answers(video, *boxes):
    inputs = {'boxes': boxes[0]} if boxes else {}
    key = jax.random.key(0)
    return model.init_with_output(key, video.astype(jnp.float32), **inputs, train=False)[0][1]

  found = jax.eval_shape(answers, *inputs)
  sizes = {task: ('batch', 3) for task in names}
  if boxes:
    sizes['actors'] = ('batch', 'boxes', 3)
  assert {task: tuple(map(str, x.shape)) for task, x in found.items()} == {
    task: tuple(map(str, size)) for task, size in sizes.items()
  }


@pytest.fixture(scope='module')
def two_tasks(tmp_path_factory):
  """A model of boxes and of clips."""
  path = tmp_path_factory.mktemp('model') / 'a.npz'
  config = small(cofinetune.get_config())
  write_model(path, config, {name: ('a', 'b') for name in config.tasks})
  return trained.load(str(path))


def test_interfaces(two_tasks):
  face = exporting.interface(two_tasks)
  assert (face.tasks, face.boxes, face.batch_size) == (('actions', 'actors'), True, 0)
  t, h, w, c = face.shape
  assert exporting.symbolic_shapes(face) == (f'batch, {t}, {h}, {w}, {c}', 'batch, boxes, 4')
  alone = exporting.interface(two_tasks, 'actions', 2)
  assert exporting.symbolic_shapes(alone) == (f'2, {t}, {h}, {w}, {c}',)
  clips, boxes = exporting.example(face, 3, np.random.default_rng(0))
  assert clips.shape == (3, *face.shape) and clips.dtype == np.uint8
  assert boxes.shape == (3, 2, 4) and (boxes[..., :2] < boxes[..., 2:]).all()
  described = exporting.describe(two_tasks, face)
  assert described['inputs']['boxes']['shape'] == ['batch', 'boxes', 4]
  assert described['outputs']['actors']['logits']['shape'] == ['batch', 'boxes', 2]
  assert described['outputs']['actors']['probabilities']['of'] == 'sigmoid: each label by itself'
  with pytest.raises(ConfigError, match=r"--task=noun: the checkpoint has \['actions', 'actors'\]"):
    exporting.interface(two_tasks, 'noun')
  with pytest.raises(ConfigError, match='--batch_size=-1: expected a number of clips'):
    exporting.interface(two_tasks, '', -1)


def test_tasks_on_clips_of_several_shapes_are_exported_one_by_one(two_tasks):
  shown = dict(two_tasks.shown)
  clip = dataclasses.replace(shown['actors'].clip, frames=2)
  shown['actors'] = dataclasses.replace(shown['actors'], clip=clip)
  model = dataclasses.replace(two_tasks, shown=shown)
  with pytest.raises(ConfigError, match=r'clips of several shapes, .*: export each by itself'):
    exporting.interface(model)
  assert exporting.interface(model, 'actors').shape[0] == 2


@pytest.mark.parametrize('ask', [range, lambda size: size > 5])
def test_a_model_that_must_know_the_number_of_clips(two_tasks, ask, monkeypatch, tmp_path):
  def function(model, face):
    return lambda arrays, video: jnp.zeros(3 if ask(video.shape[0]) else 4)

  monkeypatch.setattr(exporting, 'function', function)
  face = exporting.interface(two_tasks, 'actions')
  message = r'--batch_size=0: .*Give the number that it will be called with'
  with pytest.raises(ConfigError, match=message):
    exporting.write_stablehlo(tmp_path, two_tasks, face)
  assert list(tmp_path.iterdir()) == []


def test_numbers_that_are_none_are_never_equal(two_tasks, monkeypatch):
  nan, one = (
    {'a': {'logits': np.full((1, 2), x)}, 'b': {'logits': np.ones((1, 1))}} for x in (np.nan, 1.0)
  )
  assert np.isnan(exporting.difference(one, nan, 'x'))
  face = exporting.interface(two_tasks, 'actions', 1)
  monkeypatch.setattr(exporting, 'function', lambda model, face: lambda arrays, video: one)
  with pytest.raises(ExportError, match=r'x does not compute .* differ by nan .* differs by 0: '):
    exporting.check(two_tasks, face, lambda video: nan, 'x')
  monkeypatch.setattr(exporting, 'function', lambda model, face: lambda arrays, video: nan)
  with pytest.raises(ExportError, match=r"logits of \['a'\] that are not finite"):
    exporting.check(two_tasks, face, lambda video: nan, 'x')


def test_probabilities_are_compared_too():
  logits = np.zeros((1, 2))
  ours, theirs = ({'a': {'logits': logits, 'probabilities': logits + x}} for x in (0.5, 0.25))
  assert exporting.difference(ours, theirs, 'x') == 0.25


def test_no_export_in_the_folder(tmp_path):
  with pytest.raises(ExportError, match=r'model\.stablehlo: there is no such file; name a folder'):
    exporting.load_stablehlo(tmp_path)


def test_safetensors_are_a_checkpoint(two_tasks, tmp_path):
  exporting.write_weights(tmp_path, two_tasks)
  found = trained.load(str(tmp_path / exporting.WEIGHTS))
  assert (found.meta, found.shown) == (two_tasks.meta, two_tasks.shown)
  assert found.class_names == two_tasks.class_names
  assert found.arrays().keys() == two_tasks.arrays().keys()
  for name, array in two_tasks.arrays().items():
    np.testing.assert_array_equal(found.arrays()[name], array)


def test_arrays_of_any_form_and_type(tmp_path):
  arrays = {
    'transposed': np.arange(6.0).reshape(2, 3).T,
    'number': np.asarray(3, np.int32),
    'half': np.asarray([1.5, -2], jnp.bfloat16),
    'none': np.zeros((0, 2), np.float16),
  }
  params_file.write_arrays(tmp_path / 'x.safetensors', arrays)
  found = weight_files.read_arrays(str(tmp_path / 'x.safetensors'))
  assert found.keys() == arrays.keys()
  for name, array in arrays.items():
    assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(found[name], array)
  assert params_file.read_meta(str(tmp_path / 'x.safetensors')) is None
