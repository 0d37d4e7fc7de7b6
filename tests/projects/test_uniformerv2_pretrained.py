"""Pretrained image ViTs in UniFormerV2's trunk: recorded outputs, what is new, what contradicts."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.uniformerv2.trunks import PLAIN_VIT
from errors import CheckpointMismatchError
from models.heads import LinearHead
from models.video_model import VideoModel
from projects.uniformerv2.uniformerv2 import UniFormerV2
from tests.projects.test_vivit_parity import below, close, names, read
from train_lib.pretrained import InitFromConfig, load_pretrained
from train_lib.pretrained_hints import heads_note

SIZES = {'hidden_size': 48, 'num_layers': 2, 'num_heads': 4, 'mlp_dim': 192, 'patch_size': 8}
IMAGE_ONLY = {'global_layers': 0, 'output': 'class'}
ARMED = {
  'temporal_module': 'local_mhra',
  'local_repeats': 2,
  'temporal_downsampling': True,
  'global_layers': 1,
}
CLIP = ('openai_clip_visual', 'hf_clip_vision')


def load(source, shape, allow_new=(), **fields):
  """(trunk, its parameters and statistics where filled, the report)."""
  trunk = UniFormerV2(**{**SIZES, **fields})
  model = VideoModel(trunk, {'task': LinearHead(num_classes=3)})
  init = functools.partial(model.init, train=False)
  video = jax.ShapeDtypeStruct(shape, jnp.float32)
  variables = flax.core.meta.unbox(jax.eval_shape(init, jax.random.key(0), video))
  params = variables.pop('params')
  options = InitFromConfig(path='', allow_new=allow_new)
  leaves, report = load_pretrained(
    {**params, **variables}, source, grid=trunk.grid(shape), options=options
  )
  return trunk, leaves, report


def rows(report, status):
  return {row.target or row.source for row in report.rows if row.status == status}


def outputs(source, video, norm, **fields):
  """Features of the trunk as an image model, whose norm before the classifier is the file's last."""
  trunk, leaves, report = load(source, video.shape, **IMAGE_ONLY, **fields)
  assert {path for path in rows(report, 'new') if not path.startswith('heads_')} == {
    'trunk/fusion_norm/bias',
    'trunk/fusion_norm/scale',
  }
  leaves['trunk']['fusion_norm'] = {
    'scale': source[f'{norm}.weight'],
    'bias': source[f'{norm}.bias'],
  }
  with jax.default_matmul_precision('highest'):
    apply = jax.jit(functools.partial(trunk.apply, train=False))
    return apply({'params': leaves['trunk']}, video), report


@pytest.mark.parametrize('name', CLIP)
def test_clip(name):
  arrays, about = read(name)
  source = below(arrays, 'state_dict/')
  norm = 'visual.ln_post' if name == CLIP[0] else 'vision_model.post_layernorm'
  video = np.moveaxis(arrays['input'], 1, -1)[:, None]
  features, report = outputs(source, video, norm)
  close(features.tokens, arrays['hidden_states/2'][:, 1:], about['tolerance'])
  projection = source['visual.proj'] if name == CLIP[0] else source['visual_projection.weight'].T
  close(features.pooled @ projection, arrays['image_embeds'], about['tolerance'])
  assert report.layout == {CLIP[0]: 'openai_clip', CLIP[1]: 'hugging_face_clip'}[name]
  norm = {f'Transformer/encoder_norm/{leaf}' for leaf in ('scale', 'bias')}
  projection = {CLIP[0]: 'unused/projection', CLIP[1]: 'unused/projection/kernel'}[name]
  assert rows(report, 'skipped') == {*norm, projection}


@pytest.mark.parametrize('name', names('timm_vit', 'hf_vit', but=['hf_vivit', 'timm_vit_avgpool']))
def test_other_image_models(name):
  arrays, about = read(name)
  source = below(arrays, 'state_dict/')
  video = np.moveaxis(arrays['input'], 1, -1)[:, None]
  fields = {**PLAIN_VIT, 'layer_norm_epsilon': float(about['layer_norm_eps']), 'mlp_dim': 96}
  features, _ = outputs(
    source, video, {'timm_vit': 'norm', 'hf_vit': 'vit.layernorm'}[name], **fields
  )
  expected = arrays['pooled'] if name == 'timm_vit' else arrays['last_hidden_state'][:, 0]
  close(features.pooled, expected, about['tolerance'])


def test_what_is_new_in_an_armed_clip():
  source = below(read(CLIP[0])[0], 'state_dict/')
  text = {
    'transformer.resblocks.0.attn.in_proj_weight': np.zeros((9, 3)),
    'logit_scale': np.zeros(()),
  }
  half = {k: v.astype(np.float16) for k, v in {**source, **text}.items()}
  _, leaves, report = load(half, (1, 4, 48, 48, 3), **ARMED)
  blocks = [f'SpatialTransformer/encoderblock_{i}/local_{j}' for i in (0, 1) for j in (0, 1)]
  new = ('heads_task', 'trunk/query', 'trunk/global_0', 'trunk/fusion')
  new += tuple(f'{of}trunk/{block}' for block in blocks for of in ('', 'batch_stats/'))
  found = rows(report, 'new')
  assert {prefix for prefix in new if any(path.startswith(prefix) for path in found)} == set(new)
  assert all(path.startswith(new) for path in found)
  assert rows(report, 'inflated') == {'trunk/embedding/kernel'}
  assert [row.how for row in report.rows if row.status == 'resized'] == ['scenic 4x4 to 6x6']
  kernel = leaves['trunk']['embedding']['kernel']
  assert kernel.shape == (3, 8, 8, 3, 48) and kernel.dtype == np.float32
  assert not kernel[[0, 2]].any() and kernel[1].any()
  assert str(report).count('unused/text_tower') == 1  # Two arrays, in one line.


@pytest.mark.parametrize(
  ('fields', 'lines'),
  [
    ({'pre_norm': False}, ['The checkpoint has a norm before its blocks', 'trunk.pre_norm=True']),
    ({'patch_bias': True}, ['The model has a bias of its patches', 'trunk.patch_bias=False']),
    ({'patch_size': 16}, ["patches are 16x16 pixels, the checkpoint's 8x8", 'trunk.patch_size']),
    ({'hidden_size': 32}, ['The model is 32 wide, the checkpoint 48: set `trunk.hidden_size`']),
    (
      {'num_layers': 1},
      ['has 1 blocks, the checkpoint 2', '+ Transformer/encoderblock_1/LayerNorm_0'],
    ),
    (
      {'num_layers': 3},
      ['has 3 blocks, the checkpoint 2', '- trunk/SpatialTransformer/encoderblock_2'],
    ),
  ],
)
def test_a_trunk_of_another_layout(fields, lines):
  with pytest.raises(CheckpointMismatchError) as caught:
    load(below(read(CLIP[0])[0], 'state_dict/'), (1, 1, 32, 32, 3), **IMAGE_ONLY, **fields)
  for line in lines:
    assert line in str(caught.value)


def test_a_plain_image_model_in_clips_trunk():
  with pytest.raises(CheckpointMismatchError) as caught:
    load(below(read('timm_vit')[0], 'state_dict/'), (1, 1, 32, 32, 3), **IMAGE_ONLY, mlp_dim=96)
  assert 'The model has a norm before its blocks, the checkpoint has none' in str(caught.value)
  assert 'The checkpoint has a bias of its patches, the model has none' in str(caught.value)


def test_a_checkpoint_without_a_block_in_the_middle():
  clip = below(read(CLIP[0])[0], 'state_dict/')
  cut = {k: v for k, v in clip.items() if '.resblocks.0.' not in k}
  with pytest.raises(CheckpointMismatchError) as caught:
    load(cut, (1, 1, 32, 32, 3), **IMAGE_ONLY)
  assert 'The checkpoint lacks the blocks [0] of 2: it is not whole' in str(caught.value)
  assert 'set `trunk.num_layers`' not in str(caught.value)


@pytest.mark.parametrize('name', ['timm_vit', *names('timm_vit_avgpool')])
def test_an_image_model_without_a_class_token(name):
  source = below(read(name)[0], 'state_dict/')
  if name == 'timm_vit':
    source = {**source, 'pos_embed': source['pos_embed'][:, 1:]}
    del source['cls_token']
  fields = {**PLAIN_VIT, 'mlp_dim': 96, 'global_layers': 1}
  with pytest.raises(CheckpointMismatchError) as caught:
    load(source, (1, 4, 32, 32, 3), **fields)
  assert "none: let it begin as the model has it with `init_from.allow_new=('trunk/cls',)`" in str(
    caught.value
  )
  _, leaves, report = load(source, (1, 4, 32, 32, 3), allow_new=('trunk/cls',), **fields)
  assert 'trunk/cls' in rows(report, 'new')
  table = leaves['trunk']['SpatialTransformer']['posembed_input']['pos_embedding']
  np.testing.assert_array_equal(table[:, 1:], source['pos_embed'])
  assert not table[:, 0].any()


def test_a_file_does_not_tell_the_number_of_heads():
  """Those of the fixtures have 12 channels, the published ones 64."""
  clip = below(read(CLIP[0])[0], 'state_dict/')
  _, leaves, report = load(clip, (1, 1, 32, 32, 3), **IMAGE_ONLY)
  assert str(report).splitlines()[-1] == (
    'The file does not tell the number of heads; the model has 4 of 12 channels. Published ViTs have '
    '64 each (H 80, g 88, G 104): see `trunk.num_heads`.'
  )
  own = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), leaves['trunk'])
  assert load(own, (1, 1, 32, 32, 3), **IMAGE_ONLY)[2].notes == ()
  assert heads_note(12, 64) == ()


def test_statistics_come_along():
  _, leaves, _ = load(below(read(CLIP[0])[0], 'state_dict/'), (1, 4, 32, 32, 3), **ARMED)
  rng = np.random.default_rng(0)
  drawn = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), leaves)
  drawn = {**drawn.pop('trunk'), 'batch_stats': drawn.pop('batch_stats')}
  _, again, report = load(drawn, (1, 8, 32, 32, 3), **ARMED)
  assert rows(report, 'new') == {
    'heads_task/output_projection/kernel',
    'heads_task/output_projection/bias',
  }
  jax.tree.map(np.testing.assert_array_equal, again['batch_stats'], drawn['batch_stats'])
  del drawn['batch_stats']['trunk']['SpatialTransformer']['encoderblock_1']['local_1']
  with pytest.raises(
    CheckpointMismatchError, match=r'- batch_stats/trunk/Spatial.*_1/local_1/norm/mean'
  ):
    load(drawn, (1, 8, 32, 32, 3), **ARMED)


def test_one_without_blocks_for_video_is_an_image_model():
  clip = below(read(CLIP[0])[0], 'state_dict/')
  _, leaves, _ = load(clip, (1, 1, 32, 32, 3), **IMAGE_ONLY)
  rng = np.random.default_rng(0)
  drawn = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), leaves['trunk'])
  _, armed, report = load(drawn, (1, 4, 32, 32, 3), **ARMED)
  assert rows(report, 'inflated') == {'trunk/embedding/kernel'}
  assert report.count('resized', 'skipped') == 0
  kernel = armed['trunk'].pop('embedding')['kernel']
  np.testing.assert_array_equal(kernel[1], drawn.pop('embedding')['kernel'][0])
  assert not kernel[[0, 2]].any()
  filled = flax.traverse_util.flatten_dict(armed['trunk'])
  for path, array in flax.traverse_util.flatten_dict(drawn).items():
    np.testing.assert_array_equal(filled[path], array)


@pytest.mark.parametrize('module', ['attention', 'joint'])
def test_positions_of_time_have_no_row_for_a_class_token(module):
  """From a run with the same frames, and from one with half of them."""
  fields = {'temporal_module': module, 'global_layers': 1}
  _, leaves, _ = load(below(read(CLIP[0])[0], 'state_dict/'), (1, 4, 32, 32, 3), **fields)
  rng = np.random.default_rng(0)
  drawn = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), leaves['trunk'])
  old = drawn['posembed_time']['pos_embedding']
  _, again, report = load(drawn, (1, 4, 32, 32, 3), **fields)
  np.testing.assert_array_equal(again['trunk']['posembed_time']['pos_embedding'], old)
  assert not rows(report, 'resized')
  _, longer, report = load(drawn, (1, 7, 32, 32, 3), **fields)
  new = longer['trunk']['posembed_time']['pos_embedding']
  np.testing.assert_allclose(new[:, ::2], old, atol=1e-6)  # 'scenic': corners stay.
  np.testing.assert_allclose(new[:, 1::2], (old[:, :-1] + old[:, 1:]) / 2, atol=1e-6)
  table = longer['trunk']['SpatialTransformer']['posembed_input']['pos_embedding']
  expected = drawn['SpatialTransformer']['posembed_input']['pos_embedding']
  np.testing.assert_array_equal(table, expected)
  _, longer, report = load(drawn, (1, 8, 32, 32, 3), **fields)
  assert longer['trunk']['posembed_time']['pos_embedding'].shape == (1, 8, 48)
  assert [row.how for row in report.rows if row.status == 'resized'] == ['scenic 4 to 8']
