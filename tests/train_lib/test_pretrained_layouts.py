"""Layouts of pretrained image models that differ from timm's in a few arrays."""

import numpy as np
import pytest

from errors import CheckpointMismatchError
from tests.train_lib.test_pretrained import image_checkpoint, timm_state
from train_lib.pretrained_layouts import canonicalise
from train_lib.pretrained_vit import POSITIONS

NUM_HEADS = 2
BLOCK = 'Transformer/encoderblock_1'


def headless():
  """(what a file of an image model without a classifier holds, its canonical arrays)."""
  arrays = image_checkpoint()
  state = timm_state(arrays)
  for leaf in ('weight', 'bias'):
    del state[f'head.{leaf}']
  return state, {k: v for k, v in arrays.items() if not k.startswith('output_projection')}


def same(actual, expected):
  assert actual.keys() == expected.keys()
  for path, array in expected.items():
    np.testing.assert_array_equal(actual[path], array, err_msg=path)


def test_dino_has_two_networks_and_a_projection_head():
  state, expected = headless()
  head = {'head.mlp.0.weight': np.ones((3, 8)), 'head.last_layer.weight_g': np.ones((5, 1))}
  worse = {k: v + 1 for k, v in {**state, **head}.items()}
  file = {f'student/module.{"" if k in head else "backbone."}{k}': v for k, v in worse.items()}
  file |= {
    f'teacher/{"" if k in head else "backbone."}{k}': v for k, v in {**state, **head}.items()
  }
  file |= {'optimizer/param_groups': np.zeros(1), 'epoch': np.int64(3)}
  source = canonicalise(file, NUM_HEADS)
  same(source.arrays, {**expected, **{f'unused/projection_head/{k}': v for k, v in head.items()}})
  assert source.layout == 'timm, teacher'
  only = {k: v for k, v in file.items() if k.startswith('student')}
  assert canonicalise(only, NUM_HEADS).layout == 'timm, student'


def test_mae_has_a_decoder():
  state, expected = headless()
  decoder = {
    'mask_token': np.zeros((1, 1, 4)),
    'decoder_pos_embed': np.zeros((1, 5, 4)),
    'decoder_blocks.0.norm1.weight': np.ones(4),
    'decoder_pred.weight': np.ones((48, 4)),
  }
  source = canonicalise({f'model/{k}': v for k, v in {**state, **decoder}.items()}, NUM_HEADS)
  unused = {'unused/mask_token': decoder.pop('mask_token')}
  unused |= {f'unused/decoder/{k}': v for k, v in decoder.items()}
  same(source.arrays, {**expected, **unused})


@pytest.mark.parametrize('names', [('gamma_1', 'gamma_2'), ('ls1.gamma', 'ls2.gamma')])
def test_layer_scale_of_deit_iii_is_folded(names):
  state, expected = headless()
  state['pos_embed'] = state['pos_embed'][:, 1:]  # Added before the class token is.
  expected[POSITIONS][:, 0] = 0
  gammas = [np.linspace(-1, 2, 8).astype(np.float32) + i for i in range(2)]
  for i in range(2):
    state |= {f'blocks.{i}.{name}': gamma for name, gamma in zip(names, gammas)}
    for gamma, layer in zip(gammas, ('MultiHeadDotProductAttention_0/out', 'MlpBlock_0/Dense_1')):
      for leaf in ('kernel', 'bias'):
        path = f'Transformer/encoderblock_{i}/{layer}/{leaf}'
        expected[path] = expected[path] * gamma
  source = canonicalise(state, NUM_HEADS)
  same(source.arrays, expected)
  assert len(source.notes) == 8
  assert source.notes[f'{BLOCK}/MlpBlock_0/Dense_1/bias'] == 'LayerScale folded in'


def test_beits_keys_have_no_bias():
  state, expected = headless()
  for i in range(2):
    query, _, value = np.split(state.pop(f'blocks.{i}.attn.qkv.bias'), 3)
    state |= {f'blocks.{i}.attn.q_bias': query, f'blocks.{i}.attn.v_bias': value}
    expected[f'Transformer/encoderblock_{i}/MultiHeadDotProductAttention_0/key/bias'][:] = 0
  same(canonicalise(state, NUM_HEADS).arrays, expected)


@pytest.mark.parametrize(
  ('name', 'reason'),
  [
    ('rel_pos_bias.relative_position_bias_table', 'relative positions'),
    ('blocks.0.attn.relative_position_bias_table', 'relative positions'),
    ('dist_token', 'token for distillation'),
    ('reg_token', 'further tokens'),
  ],
)
def test_what_these_trunks_cannot_compute(name, reason):
  state, _ = headless()
  if 'relative' in name:
    del state['pos_embed']  # As BEiT's files are.
  with pytest.raises(
    CheckpointMismatchError, match=rf'dir/x.pth has the arrays {name}: .*{reason}'
  ):
    canonicalise({f'model/{k}': v for k, v in {**state, name: np.zeros(1)}.items()}, 2, 'dir/x.pth')


def test_a_norm_before_the_blocks_in_timms_names():
  state, expected = headless()
  del state['patch_embed.proj.bias'], expected['embedding/bias']
  state |= {'norm_pre.weight': np.ones(8), 'norm_pre.bias': np.zeros(8)}
  expected |= {'pre_norm/scale': np.ones(8), 'pre_norm/bias': np.zeros(8)}
  same(canonicalise(state, NUM_HEADS).arrays, expected)


def test_a_layer_before_the_classifier_in_timms_names():
  state, expected = headless()
  state |= {'pre_logits.fc.weight': np.arange(16.0).reshape(2, 8), 'pre_logits.fc.bias': np.ones(2)}
  expected |= {'pre_logits/kernel': np.arange(16.0).reshape(2, 8).T, 'pre_logits/bias': np.ones(2)}
  same(canonicalise(state, NUM_HEADS).arrays, expected)


def test_hugging_faces_clip_below_its_own_name():
  vision = {'vision_model.embeddings.class_embedding': np.ones(8)}
  vision |= {'vision_model.post_layernorm.weight': np.ones(8)}
  text = {'text_model.final_layer_norm.weight': np.ones(4), 'logit_scale': np.ones(())}
  expected = canonicalise({**vision, **text}, NUM_HEADS)
  assert expected.arrays.keys() == {
    *('cls', 'Transformer/encoder_norm/scale'),
    *(f'unused/text_tower/{name}' for name in text),
  }
  below = {f'clip.{k}': v for k, v in {**vision, **text}.items()}
  same(canonicalise(below, NUM_HEADS).arrays, expected.arrays)
