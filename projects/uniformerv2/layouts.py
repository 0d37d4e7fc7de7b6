"""A UniFormerV2 by the names of the released code, or, without any block for video, by those of CLIP."""

from typing import Any

from projects.uniformerv2 import weights
from projects.uniformerv2.uniformerv2 import UniFormerV2
from train_lib import original_layouts as layouts
from train_lib.original_layouts import Layout
from train_lib.pretrained_torch import (
  from_clip,
  from_hugging_face_clip,
  to_clip,
  to_hugging_face_clip,
)
from train_lib.pretrained_vit import rename
from train_lib.trained import Trained
from train_lib.weight_files import Arrays

# What no array shows; of the rest the names tell.
_RELEASED = {
  'gelu': ('quick',),
  'layer_norm_epsilon': (1e-5,),
  'temporal_module': ('none', 'local_mhra'),
  'fusion': ('sequential',),
  'num_queries': (1,),
  'output': ('fused', 'global'),
  'patch_bias': (False,),
  'pre_norm': (True,),
}
_CLIP = {
  'temporal_module': ('none',),
  'temporal_downsampling': (False,),
  'output': ('class',),
  'patch_bias': (False,),
  'pre_norm': (True,),
}
_TO_CLIP = (
  (r'^SpatialTransformer/', 'Transformer/'),
  (r'^fusion_norm/', 'Transformer/encoder_norm/'),
)


def _misfits(model: Trained, settings: dict[str, tuple[Any, ...]], task: str) -> list[str]:
  trunk = model.model.trunk
  if not isinstance(trunk, UniFormerV2):
    return [f'its trunk is {type(trunk).__name__} (expected UniFormerV2)']
  wrong = layouts.settings_misfits(trunk, settings)
  return [*wrong, *layouts.position_misfits(model, task)]


def _released(model: Trained, task: str) -> Arrays:
  """The arrays of a model that the released code can compute."""
  misfits = _misfits(model, _RELEASED, task) + layouts.head_misfits(model, task)
  layouts.refuse('uniformerv2', 'the released UniFormerV2', misfits)
  return layouts.of_one_head(model, task)


def _clip(model: Trained, task: str) -> Arrays:
  """The trunk of a model that looks at each frame alone, as a CLIP; it has no classifier."""
  layouts.refuse('clip', "CLIP's image tower", _misfits(model, _CLIP, task))
  return _image_model(model)


def _hugging_face_clip(model: Trained, task: str) -> Arrays:
  """The same, of a model whose videos are prepared as `CLIPImageProcessor` does."""
  misfits = _misfits(model, _CLIP, task) + layouts.cropping_misfits(model, task)
  layouts.refuse('hf_clip', "Hugging Face's CLIPVisionModel", misfits)
  return _image_model(model)


def _image_model(model: Trained) -> Arrays:
  trunk = {k: v for k, v in model.arrays().items() if not k.startswith('heads_')}
  canonical = rename(trunk, _TO_CLIP)
  return {**canonical, 'embedding/kernel': canonical['embedding/kernel'][0]}  # Of one frame.


def _clip_settings(model: Trained, task: str) -> dict[str, Any]:
  """`config.json` of Hugging Face's `CLIPVisionModel`, and `preprocessor_config.json`."""
  trunk, clip = model.model.trunk, layouts.clip_of(model, task)
  config = {
    'architectures': ['CLIPVisionModel'],
    'model_type': 'clip_vision_model',
    'image_size': clip.crop,
    'patch_size': trunk.patch_size,
    'num_channels': 3,
    'hidden_size': trunk.hidden_size,
    'num_hidden_layers': trunk.num_layers,
    'num_attention_heads': trunk.num_heads,
    'intermediate_size': trunk.mlp_dim,
    'hidden_act': layouts.HIDDEN_ACT[trunk.gelu],
    'layer_norm_eps': trunk.layer_norm_epsilon,
  }
  preprocessor = layouts.processor(model, task, 'CLIPImageProcessor')
  return {'config.json': config, 'preprocessor_config.json': preprocessor}


RELEASED = Layout(
  _released,
  weights.to_official,
  lambda arrays, model: weights.from_official(
    arrays, model.model.trunk.num_heads, model.model.trunk.global_num_heads
  ),
)
CLIP = Layout(_clip, to_clip, lambda arrays, model: from_clip(arrays, model.model.trunk.num_heads))
HUGGING_FACE_CLIP = Layout(
  _hugging_face_clip,
  to_hugging_face_clip,
  lambda arrays, model: from_hugging_face_clip(arrays, model.model.trunk.num_heads),
  _clip_settings,
)
