"""What is exported computes what the model does, says how it wants to be called, or is not there."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorflow as tf

from configs.vivit import demo
from errors import CheckpointMismatchError, ConfigError, ExportError
from tests.train_lib.models_on_disk import write_model
from tools import export as tool
from tools import saved_model
from train_lib import exporting, params_file, trained
from train_lib.augment import normalize

NAMES = {'motion': ('left', 'right', 'still')}


def small_config(**trunk):
  config = demo.get_config()
  config.trunk.update({'hidden_size': 8, 'num_layers': 1, 'num_heads': 2, 'mlp_dim': 8})
  config.trunk.update({'tubelet': (2, 8, 8), 'attention': 'spacetime'})
  for key in [key for key in config.trunk if key.startswith('temporal_')]:
    del config.trunk[key]
  config.trunk.update(trunk)
  config.datasets.demo.clip.update({'frames': 4, 'stride': 2, 'resize': 18, 'crop': 16, 'fps': 8.0})
  return config


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  """A checkpoint's path."""
  path = tmp_path_factory.mktemp('model') / 'a.npz'
  write_model(path, small_config(), NAMES)
  return str(path)


@pytest.fixture(scope='module')
def stablehlo(model, tmp_path_factory):
  """A folder exported to, and what was said of it."""
  folder = tmp_path_factory.mktemp('exported')  # There, and empty.
  return folder, tool.export_model(model, 'stablehlo', str(folder))


@pytest.fixture(scope='module')
def answers(model):
  """Three clips, and what the model says of them."""
  found = trained.load(model)
  video = np.random.default_rng(1).integers(0, 256, (3, 4, 16, 16, 3), np.uint8)
  classify = jax.jit(lambda v, x: found.model.apply(v, x, train=False)[1]['motion'])
  return video, np.asarray(classify(found.variables, normalize(video, 0.5, 0.5)))


def test_stablehlo_is_called_with_any_number_of_clips(stablehlo, answers):
  folder, _ = stablehlo
  video, logits = answers
  assert sorted(path.name for path in folder.iterdir()) == [
    'export.json',
    'model.safetensors',
    'model.stablehlo',
  ]
  assert [path.name for path in folder.parent.glob('.export-*')] == []
  found = exporting.load_stablehlo(folder)(video)
  assert found.keys() == {'motion'} and found['motion'].keys() == {'logits', 'probabilities'}
  np.testing.assert_allclose(found['motion']['logits'], logits, rtol=1e-5, atol=1e-5)
  odds = np.exp(logits - logits.max(-1, keepdims=True))
  np.testing.assert_allclose(
    found['motion']['probabilities'], odds / odds.sum(-1, keepdims=True), rtol=1e-5
  )


def test_what_is_said_of_it(stablehlo, model):
  folder, description = stablehlo
  written = json.loads((folder / 'export.json').read_text())
  assert (written['format'], written['layout'], written['file']) == (
    'stablehlo',
    'ours',
    'model.stablehlo',
  )
  assert written['inputs'] == {
    'video': {
      'shape': ['batch', 4, 16, 16, 3],
      'dtype': 'uint8',
      'range': [0, 255],
      'channels': 'RGB',
      'axes': 'batch, time, height, width, channel',
    }
  }
  assert written['outputs']['motion']['probabilities'] == {
    'shape': ['batch', 3],
    'dtype': 'float32',
    'of': 'softmax: one label',
  }
  shown = written['preprocessing']['motion']
  assert (shown['frames'], shown['stride'], shown['seconds']) == (4, 2, 1.0)
  assert shown['resize'] == {'side': 'shorter', 'pixels': 18} and shown['crop'] == [16, 16]
  assert shown['views_of_evaluation'] == {'temporal': 4, 'spatial': 1, 'average_of': 'logits'}
  assert written['class_names'] == {'motion': ['left', 'right', 'still']}
  assert written['platforms'] == ['cpu', 'cuda', 'tpu']
  assert written['checked']['batch_sizes'] == [1, 2]
  assert written['checked']['greatest_difference_of_logits'] <= 1e-5
  assert written['parameters'] == {
    'count': sum(x.size for x in trained.load(model).arrays().values()),
    'sha256': exporting.digest(trained.load(model).arrays()),
  }
  text = tool.summary(description, 'stablehlo', 'ours', 'there')
  assert '  motion: logits and probabilities float32 [batch, 3]\n' in text
  assert "model.call(load_file('there/model.safetensors'), video)" in text


def test_the_weights_beside_it_are_a_checkpoint(stablehlo, model):
  folder, _ = stablehlo
  there, here = trained.load(str(folder / 'model.safetensors')), trained.load(model)
  assert there.class_names == here.class_names and there.shown == here.shown
  jax.tree.map(np.testing.assert_array_equal, there.variables, here.variables)


def test_a_disk_that_is_full_for_tensorflow(model, monkeypatch, tmp_path):
  def full(*args, **kwargs):
    raise tf.errors.ResourceExhaustedError(
      None, None, 'part-0; No space left on device [Op:SaveV2]'
    )

  monkeypatch.setattr(tf.saved_model, 'save', full)
  with pytest.raises(ConfigError, match=r'out cannot be written: part-0; No space left on device'):
    tool.export_model(model, 'saved_model', str(tmp_path / 'out'), batch_size=1)
  assert list(tmp_path.iterdir()) == []


def test_saved_model(model, answers, tmp_path):
  video, logits = answers
  tool.export_model(model, 'saved_model', str(tmp_path / 'out'))
  face = exporting.interface(trained.load(model))
  found = saved_model.load(tmp_path / 'out', face)(video)
  np.testing.assert_allclose(found['motion']['logits'], logits, rtol=1e-5, atol=1e-5)
  written = json.loads((tmp_path / 'out' / 'export.json').read_text())
  assert written['checked']['greatest_difference_of_logits'] <= 1e-5


def test_safetensors(model, tmp_path):
  description = tool.export_model(model, 'safetensors', str(tmp_path / 'out'))
  assert description['checked'] == {'batch_sizes': [1, 2], 'greatest_difference_of_logits': 0.0}
  assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
    'export.json',
    'model.safetensors',
  ]
  text = tool.summary(description, 'safetensors', 'ours', 'there')
  assert '--config.init_from.path=there/model.safetensors' in text


def test_what_differs_is_not_kept(model, monkeypatch, tmp_path):
  def spoilt(folder):
    call = exporting_load(folder)

    def wrong(*inputs):
      found = call(*inputs)['motion']
      return {'motion': {**found, 'logits': found['logits'] + 1e-3}}

    return wrong

  exporting_load = exporting.load_stablehlo
  monkeypatch.setattr(exporting, 'load_stablehlo', spoilt)
  with pytest.raises(
    ExportError, match=r'model\.stablehlo does not compute what .* differ by 0\.00'
  ):
    tool.export_model(model, 'stablehlo', str(tmp_path / 'new' / 'out'), batch_size=1)
  assert list(tmp_path.iterdir()) == []


def test_outputs_of_another_shape_are_an_error():
  one = {'a': {'logits': np.zeros((1, 2))}}
  with pytest.raises(ExportError, match=r"x gives \{'a': \{'logits': \(1, 3\)\}\}, the model"):
    exporting.difference(one, {'a': {'logits': np.zeros((1, 3))}}, 'x')
  assert exporting.difference(one, {'a': {'logits': np.full((1, 2), 0.5)}}, 'x') == 0.5
  large = {'a': {'logits': np.full((1, 2), 100.0)}}
  assert exporting.difference(large, {'a': {'logits': np.full((1, 2), 99.0)}}, 'x') == 0.01


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'format': 'onnx'}, r'--format=onnx: .*known: stablehlo, saved_model, safetensors\.$'),
    ({'layout': 'timm'}, r'--layout=timm: .*known: ours, hf_vivit, uniformerv2, clip, hf_clip\.$'),
    ({'layout': 'hf_vivit', 'format': 'stablehlo'}, 'names arrays of --format=safetensors'),
    ({'batch_size': 2}, '--batch_size=2: --format=safetensors has weights and no function'),
  ],
)
def test_mistakes_of_flags(given, message, tmp_path):
  with pytest.raises(ConfigError, match=message):
    tool.export_model('nowhere', **{'format': 'safetensors', 'out': str(tmp_path), **given})


def test_nothing_is_replaced(model, tmp_path):
  (tmp_path / 'mine').write_text('kept')
  with pytest.raises(ConfigError, match='is there and not an empty folder'):
    tool.export_model(model, 'safetensors', str(tmp_path))
  with pytest.raises(ConfigError, match='is there and not an empty folder'):
    tool.export_model(model, 'safetensors', str(tmp_path / 'mine'))
  with pytest.raises(ConfigError, match=r'out cannot be made: .*mine is a file'):
    tool.export_model(model, 'safetensors', str(tmp_path / 'mine' / 'out'))
  with pytest.raises(ConfigError, match=r'xx cannot be made: File name too long'):
    tool.export_model(model, 'safetensors', str(tmp_path / ('x' * 300)))
  assert [path.name for path in tmp_path.iterdir()] == ['mine']


def test_where_we_are_behind_a_link(model, tmp_path, monkeypatch):
  (tmp_path / 'real').mkdir()
  (tmp_path / 'link').symlink_to(tmp_path / 'real')
  monkeypatch.chdir(tmp_path / 'link')
  with pytest.raises(ExportError, match='--layout=clip'):
    tool.export_model(model, 'safetensors', '.', layout='clip')
  assert list((tmp_path / 'real').iterdir()) == []
  tool.export_model(model, 'safetensors', '.', layout='hf_vivit')
  found = {path.name for path in (tmp_path / 'real').iterdir()}
  assert found == {'config.json', 'export.json', 'model.safetensors', 'preprocessor_config.json'}
  assert (tmp_path / 'link').is_symlink()


def test_hugging_face_gets_its_settings(model, tmp_path):
  description = tool.export_model(model, 'safetensors', str(tmp_path / 'out'), layout='hf_vivit')
  config, shown = (
    json.loads((tmp_path / 'out' / f'{name}.json').read_text())
    for name in ('config', 'preprocessor_config')
  )
  assert config['architectures'] == ['VivitForVideoClassification']
  assert (config['num_frames'], config['image_size'], config['tubelet_size']) == (4, 16, [2, 8, 8])
  assert (config['hidden_act'], config['layer_norm_eps']) == ('gelu_fast', 1e-6)
  assert config['id2label'] == {'0': 'left', '1': 'right', '2': 'still'}
  assert (shown['rescale_factor'], shown['offset'], shown['image_mean']) == (
    1 / 255,
    False,
    [0.5, 0.5, 0.5],
  )
  assert (shown['size'], shown['crop_size']) == (
    {'shortest_edge': 18},
    {'height': 16, 'width': 16},
  )
  text = tool.summary(description, 'safetensors', 'hf_vivit', 'there')
  assert "VivitForVideoClassification.from_pretrained('there')" in text


def test_what_a_layout_cannot_hold(model, tmp_path):
  changed = small_config(attention='factorised_dot_product', pooling='mean')
  changed.tasks.motion.head.representation_size = 4
  write_model(tmp_path / 'a.npz', changed, NAMES)
  with pytest.raises(ExportError) as caught:
    tool.export_model(
      str(tmp_path / 'a.npz'), 'safetensors', str(tmp_path / 'out'), layout='hf_vivit'
    )
  assert str(caught.value) == (
    "--layout=hf_vivit: Hugging Face's VivitForVideoClassification cannot hold this model: "
    "trunk.attention='factorised_dot_product' (expected 'spacetime'); "
    "trunk.pooling='mean' (expected 'token'); head.representation_size=4 (expected None). "
    'Use --layout=ours.'
  )
  for layout in ('uniformerv2', 'clip', 'hf_clip'):
    with pytest.raises(ExportError, match=r'its trunk is ViViT \(expected UniFormerV2\)'):
      tool.export_model(model, 'safetensors', str(tmp_path / 'out'), layout=layout)
  assert [path.name for path in tmp_path.iterdir()] == ['a.npz']


def test_weights_that_describe_no_model(tmp_path):
  np.savez(tmp_path / 'vit.npz', cls=np.zeros(1))
  params_file.write_arrays(tmp_path / 'named.safetensors', {'a': np.zeros(1)}, {'class_names': {}})
  for name in ('vit.npz', 'named.safetensors'):
    with pytest.raises(CheckpointMismatchError, match='has weights, but no config'):
      tool.export_model(str(tmp_path / name), 'safetensors', str(tmp_path / 'out'))
  assert not Path(tmp_path / 'out').exists()


@pytest.mark.parametrize('names', [None, {}])
def test_a_checkpoint_without_class_names(model, names, tmp_path):
  found = trained.load(model)
  meta = {**found.meta, 'class_names': names}
  params_file.write_arrays(tmp_path / 'a.npz', found.arrays(), meta)
  with pytest.raises(CheckpointMismatchError, match=r"a\.npz has no class names of \['motion'\]"):
    tool.export_model(str(tmp_path / 'a.npz'), 'safetensors', str(tmp_path / 'out'))
