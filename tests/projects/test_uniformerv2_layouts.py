"""A UniFormerV2 is written by the released names, or CLIP's, or refused."""

import dataclasses

import numpy as np
import pytest

from configs.uniformerv2 import trunks
from configs.vivit import demo
from errors import CheckpointMismatchError, ExportError
from projects.uniformerv2 import layouts, weights
from tests.projects.test_uniformerv2_parity import arrays_of
from tests.train_lib.models_on_disk import write_model
from train_lib import original_layouts, trained, weight_files


def test_an_official_checkpoint_comes_back():
  official = arrays_of('lt2_tdown', 'weights')
  state = {k: v for k, v in official.items() if not k.endswith('num_batches_tracked')}
  ours = weights.from_official(state, 4, 4)
  written = weights.to_official(ours)
  assert written.keys() == {f'backbone.{key}' for key in state}
  for key, array in state.items():
    np.testing.assert_array_equal(written[f'backbone.{key}'], array, err_msg=key)
  again = weights.from_official(written, 4, 4)
  assert again.keys() == ours.keys()
  assert all(np.array_equal(again[key], array) for key, array in ours.items())


def test_what_the_released_model_has_no_place_for():
  ours = weights.from_official(arrays_of('lt2_tdown', 'weights'), 4, 4)
  with pytest.raises(
    CheckpointMismatchError, match=r'no place for 1 arrays of the model: posembed'
  ):
    weights.to_official({**ours, 'posembed_time/pos_embedding': np.zeros((1, 2, 64))})
  with pytest.raises(
    CheckpointMismatchError, match=r"\['transformer\.temporal_cls_token'\] are miss"
  ):
    weights.to_official({k: v for k, v in ours.items() if k != 'query'})


def load(path, **trunk):
  config = demo.get_config()
  sizes = {'hidden_size': 8, 'num_layers': 2, 'num_heads': 2, 'mlp_dim': 16, 'patch_size': 8}
  config.trunk = trunks.uniformerv2('Ti', **{**sizes, **trunk})
  config.datasets.demo.clip.update({'frames': 4, 'stride': 2, 'resize': 16, 'crop': 16})
  write_model(path, config, {'motion': ('left', 'right')})
  return trained.load(str(path))


def test_a_trained_model_is_written_as_released(tmp_path):
  model = load(
    tmp_path / 'a.npz',
    temporal_module='local_mhra',
    local_repeats=2,
    global_layers=1,
    global_num_heads=4,
  )
  file = tmp_path / 'model.safetensors'
  count = original_layouts.write(file, layouts.RELEASED, model, 'motion')
  written = weight_files.read_arrays(str(file))
  assert count == sum(array.size for array in written.values())
  assert count == sum(array.size for array in model.arrays().values())
  found = written['backbone.transformer.proj.2.weight']
  head = model.variables['params']['heads_motion']['output_projection']['kernel']
  np.testing.assert_array_equal(found, head.T)
  assert written['backbone.transformer.resblocks.1.lmhra2.pos_embed.3.weight'].shape == (
    8,
    5,
    1,
    1,
    1,
  )
  assert 'backbone.transformer.resblocks.0.lmhra1.pos_embed.0.running_var' in written


@pytest.fixture(scope='module')
def image_model(tmp_path_factory):
  path = tmp_path_factory.mktemp('model') / 'a.npz'
  return load(path, output='class', global_layers=0, gelu='erf')


def test_without_blocks_for_video_it_is_a_clip(image_model, tmp_path):
  file = tmp_path / 'model.safetensors'
  original_layouts.write(file, layouts.CLIP, image_model, 'motion')
  written, trunk = weight_files.read_arrays(str(file)), image_model.variables['params']['trunk']
  assert all(name.startswith('visual.') for name in written)
  np.testing.assert_array_equal(written['visual.class_embedding'], trunk['cls'].reshape(-1))
  np.testing.assert_array_equal(written['visual.ln_post.weight'], trunk['fusion_norm']['scale'])
  kernel = trunk['embedding']['kernel'][0]  # (h, w, 3, C)
  np.testing.assert_array_equal(written['visual.conv1.weight'], kernel.transpose(3, 2, 0, 1))
  original_layouts.write(file, layouts.HUGGING_FACE_CLIP, image_model, 'motion')
  assert 'vision_model.pre_layrnorm.weight' in weight_files.read_arrays(str(file))
  config = layouts.HUGGING_FACE_CLIP.settings(image_model, 'motion')['config.json']
  assert (config['model_type'], config['hidden_act'], config['image_size']) == (
    'clip_vision_model',
    'gelu',
    16,
  )


def test_videos_that_are_padded_have_no_processor_there(image_model, tmp_path):
  shown = dict(image_model.shown)
  clip = dataclasses.replace(shown['demo'].clip, fit='pad')
  shown['demo'] = dataclasses.replace(shown['demo'], clip=clip)
  model = dataclasses.replace(image_model, shown=shown)
  with pytest.raises(
    ExportError, match=r"^--layout=hf_clip: .*clip\.fit='pad' \(expected 'crop'\)"
  ):
    original_layouts.write(tmp_path / 'x', layouts.HUGGING_FACE_CLIP, model, 'motion')
  file = tmp_path / 'clip.safetensors'
  original_layouts.write(file, layouts.CLIP, model, 'motion')  # It has no settings.
  assert [path.name for path in tmp_path.iterdir()] == ['clip.safetensors']


def test_settings_that_no_array_shows_are_refused(image_model, tmp_path):
  message = (
    r"gelu='erf' \(expected 'quick'\); trunk\.output='class' \(expected 'fused' or 'global'\)"
  )
  with pytest.raises(ExportError, match=message):
    original_layouts.write(tmp_path / 'x', layouts.RELEASED, image_model, 'motion')
  assert list(tmp_path.iterdir()) == []
