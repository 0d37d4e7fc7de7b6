"""Image ViTs of PyTorch projects, by their own names, in the canonical tree of `pretrained_vit`.

timm's names are also those of DINO, MAE, DeiT, DeiT III and BEiT; docs/pretrained.md lists what each has.
"""

import numpy as np

from train_lib.pretrained_fit import square_side
from train_lib.pretrained_vit import (
  GAMMAS,
  POSITIONS,
  UNUSED,
  from_torch,
  join_packed,
  rename,
  split_packed,
  to_torch,
  with_zero_row,
)
from train_lib.weight_files import Arrays

_BLOCK = r'Transformer/encoderblock_\1/'
_ATTENTION = _BLOCK + 'MultiHeadDotProductAttention_0/'
_TIMM_BLOCK = r'blocks\.(\d+)\.'
_TIMM_STEMS = (
  (r'cls_token', 'cls'),
  (r'pos_embed', POSITIONS),
  (r'patch_embed\.proj', 'embedding'),
  (r'norm_pre', 'pre_norm'),
  (_TIMM_BLOCK + 'norm1', _BLOCK + 'LayerNorm_0'),
  (_TIMM_BLOCK + 'norm2', _BLOCK + 'LayerNorm_1'),
  (_TIMM_BLOCK + r'attn\.(query|key|value)', _ATTENTION + r'\2'),
  (_TIMM_BLOCK + r'attn\.proj', _ATTENTION + 'out'),
  (_TIMM_BLOCK + r'mlp\.fc1', _BLOCK + 'MlpBlock_0/Dense_0'),
  (_TIMM_BLOCK + r'mlp\.fc2', _BLOCK + 'MlpBlock_0/Dense_1'),
  (_TIMM_BLOCK + r'(?:ls1\.gamma|gamma_1)', _BLOCK + GAMMAS[0]),
  (_TIMM_BLOCK + r'(?:ls2\.gamma|gamma_2)', _BLOCK + GAMMAS[1]),
  (r'norm', 'Transformer/encoder_norm'),
  (r'fc_norm', 'fc_norm'),
  (r'pre_logits\.fc', 'pre_logits'),
  (r'head', 'output_projection'),
)
# Of pretraining: MAE's decoder, DINO's projection head.
_PRETRAINING = (
  (r'^(decoder_?)', rf'{UNUSED}/decoder/\1'),
  (r'^(mask_token)$', rf'{UNUSED}/\1'),
  (r'^(head\.(mlp|last_layer)\.)', rf'{UNUSED}/projection_head/\1'),
)
_CLIP_BLOCK = r'transformer\.resblocks\.(\d+)\.'
_CLIP_STEMS = (
  (r'class_embedding', 'cls'),
  (r'positional_embedding', POSITIONS),
  (r'conv1', 'embedding'),
  (r'ln_pre', 'pre_norm'),
  (_CLIP_BLOCK + 'ln_1', _BLOCK + 'LayerNorm_0'),
  (_CLIP_BLOCK + 'ln_2', _BLOCK + 'LayerNorm_1'),
  (_CLIP_BLOCK + r'attn\.(query|key|value)', _ATTENTION + r'\2'),
  (_CLIP_BLOCK + r'attn\.out_proj', _ATTENTION + 'out'),
  (_CLIP_BLOCK + r'mlp\.c_fc', _BLOCK + 'MlpBlock_0/Dense_0'),
  (_CLIP_BLOCK + r'mlp\.c_proj', _BLOCK + 'MlpBlock_0/Dense_1'),
  (r'ln_post', 'Transformer/encoder_norm'),
  (r'proj', f'{UNUSED}/projection'),
)
_HF_CLIP_LAYER = r'encoder\.layers\.(\d+)\.'
_HF_CLIP_STEMS = (
  (r'embeddings\.class_embedding', 'cls'),
  (r'embeddings\.position_embedding', POSITIONS),
  (r'embeddings\.patch_embedding', 'embedding'),
  (r'pre_lay(?:r|er)norm', 'pre_norm'),
  (_HF_CLIP_LAYER + 'layer_norm1', _BLOCK + 'LayerNorm_0'),
  (_HF_CLIP_LAYER + 'layer_norm2', _BLOCK + 'LayerNorm_1'),
  *(
    (_HF_CLIP_LAYER + rf'self_attn\.{name[0]}_proj', _ATTENTION + name)
    for name in ('query', 'key', 'value')
  ),
  (_HF_CLIP_LAYER + r'self_attn\.out_proj', _ATTENTION + 'out'),
  (_HF_CLIP_LAYER + r'mlp\.fc1', _BLOCK + 'MlpBlock_0/Dense_0'),
  (_HF_CLIP_LAYER + r'mlp\.fc2', _BLOCK + 'MlpBlock_0/Dense_1'),
  (r'post_layernorm', 'Transformer/encoder_norm'),
  (r'visual_projection', f'{UNUSED}/projection'),
  (r'embeddings\.position_ids', f'{UNUSED}/position_ids'),
)
_HF_LAYER = r'(?:encoder\.layer|layers)\.(\d+)\.'
_HF_STEMS = (
  (r'embeddings\.cls_token', 'cls'),
  (r'embeddings\.position_embeddings', POSITIONS),
  (r'embeddings\.patch_embeddings\.projection', 'embedding'),
  (_HF_LAYER + 'layernorm_before', _BLOCK + 'LayerNorm_0'),
  (_HF_LAYER + 'layernorm_after', _BLOCK + 'LayerNorm_1'),
  *(
    (
      _HF_LAYER + rf'attention\.(?:attention\.{name}|{name[0]}_proj)',
      _ATTENTION + name,
    )
    for name in ('query', 'key', 'value')
  ),
  (
    _HF_LAYER + r'attention\.(?:output\.dense|o_proj)',
    _ATTENTION + 'out',
  ),
  (_HF_LAYER + r'(?:intermediate\.dense|mlp\.fc1)', _BLOCK + 'MlpBlock_0/Dense_0'),
  (_HF_LAYER + r'(?:output\.dense|mlp\.fc2)', _BLOCK + 'MlpBlock_0/Dense_1'),
  (r'layernorm', 'Transformer/encoder_norm'),
  (r'pooler\.dense', 'pre_logits'),
  (r'classifier', 'output_projection'),
)


def from_timm(arrays: Arrays, num_heads: int) -> Arrays:
  """timm's VisionTransformer; qkv is split, and positions without a class row get a zero one."""
  split: Arrays = {}
  for key, array in _with_key_bias(rename(arrays, _PRETRAINING)).items():
    if '.attn.qkv.' in key:
      split.update(_thirds(array, *(key.replace('qkv', n) for n in ('query', 'key', 'value'))))
    else:
      split[key] = array
  canonical = from_torch(split, num_heads, _TIMM_STEMS)
  rows = canonical[POSITIONS].shape[1]
  if 'cls' in canonical and square_side(rows) is not None:
    canonical[POSITIONS] = with_zero_row(canonical[POSITIONS])
  return canonical


def _with_key_bias(arrays: Arrays) -> Arrays:
  """BEiT has biases of queries and values alone; that of keys is zero."""
  whole = dict(arrays)
  for key in arrays:
    stem = key.removesuffix('q_bias')
    if stem != key and f'{stem}v_bias' in arrays:
      query, value = whole.pop(key), whole.pop(f'{stem}v_bias')
      whole[f'{stem}qkv.bias'] = np.concatenate([query, np.zeros_like(query), value])
  return whole


def _thirds(array: np.ndarray, *names: str) -> Arrays:
  return dict(zip(names, np.split(array, 3)))


def from_clip(arrays: Arrays, num_heads: int) -> Arrays:
  """OpenAI's CLIP and open_clip: the visual tower, alone or beside the text tower."""
  both = any(key.startswith('visual.') for key in arrays)
  visual: Arrays = {}
  for key, array in arrays.items():
    name = key.removeprefix('visual.')
    if both and name == key:
      visual[f'{UNUSED}/text_tower/{key}'] = array
    else:
      visual[name] = array
  return _with_batch_axes(from_torch(split_packed(visual), num_heads, _CLIP_STEMS))


def from_hugging_face_clip(arrays: Arrays, num_heads: int) -> Arrays:
  """Hugging Face's CLIP: the vision model, alone or beside the text model, also below `clip.`."""
  renames = (
    (r'^clip\.', ''),
    (r'^(text_(?:model|projection)\.|logit_scale$)', rf'{UNUSED}/text_tower/\1'),
    (r'^vision_model\.', ''),
    (r'\bposition_embedding\.weight$', 'position_embedding'),
  )
  return _with_batch_axes(from_torch(rename(arrays, renames), num_heads, _HF_CLIP_STEMS))


def _with_batch_axes(canonical: Arrays) -> Arrays:
  """The class token [C] and positions [N, C] as [1, 1, C] and [1, N, C]."""
  whole = {key: canonical[key] for key in ('cls', POSITIONS) if key in canonical}
  return {**canonical, **{k: array.reshape(1, -1, array.shape[-1]) for k, array in whole.items()}}


def from_hugging_face(arrays: Arrays, num_heads: int) -> Arrays:
  """Hugging Face's ViT and ViViT, with the names on the hub or those of current versions."""
  renames = (
    (r'^(vit|vivit|deit)\.', ''),
    *_PRETRAINING,
    (r'^(embeddings\.mask_token)$', rf'{UNUSED}/\1'),
  )
  return from_torch(rename(arrays, renames), num_heads, _HF_STEMS)


def to_clip(canonical: Arrays) -> Arrays:
  """The visual tower by the names of OpenAI's CLIP, without its projection: what `from_clip` reads."""
  official = join_packed(to_torch(_without_batch_axes(canonical), _CLIP_STEMS))
  return {f'visual.{name}': array for name, array in official.items()}


def to_hugging_face_clip(canonical: Arrays) -> Arrays:
  """The same as Hugging Face's `CLIPVisionModel`: what `from_hugging_face_clip` reads."""
  official = to_torch(_without_batch_axes(canonical), _HF_CLIP_STEMS)
  renamed = rename(official, ((r'\bposition_embedding$', 'position_embedding.weight'),))
  return {f'vision_model.{name}': array for name, array in renamed.items()}


def _without_batch_axes(canonical: Arrays) -> Arrays:
  """The inverse of `_with_batch_axes`."""
  return {
    **canonical,
    'cls': canonical['cls'].reshape(-1),
    POSITIONS: canonical[POSITIONS][0],
  }


def to_hugging_face_vivit(canonical: Arrays) -> Arrays:
  """Hugging Face's `VivitForVideoClassification`, as on the hub: what `from_hugging_face` reads."""
  official = to_torch(canonical, _HF_STEMS)
  return {
    name if name.startswith('classifier.') else f'vivit.{name}': array
    for name, array in official.items()
  }
