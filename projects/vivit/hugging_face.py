"""A ViViT as Hugging Face's `VivitForVideoClassification`, which is Model 1 with a class token."""

from typing import Any

from models.vivit import ViViT
from train_lib import original_layouts as layouts
from train_lib.original_layouts import Layout
from train_lib.pretrained_torch import from_hugging_face, to_hugging_face_vivit
from train_lib.trained import Trained
from train_lib.weight_files import Arrays

_SETTINGS = {
  'attention': ('spacetime',),
  'pooling': ('token',),
  'pooling_norm': ('before',),
  'tokeniser': ('tubelet',),
}


def _canonical(model: Trained, task: str) -> Arrays:
  """The arrays of a model that the class can hold."""
  trunk = model.model.trunk
  if isinstance(trunk, ViViT):
    misfits = [
      *layouts.settings_misfits(trunk, _SETTINGS),
      *layouts.position_misfits(model, task),
      *layouts.head_misfits(model, task),
      *layouts.cropping_misfits(model, task),
    ]
  else:
    misfits = [f'its trunk is {type(trunk).__name__} (expected ViViT)']
  layouts.refuse('hf_vivit', "Hugging Face's VivitForVideoClassification", misfits)
  return layouts.of_one_head(model, task)


def _settings(model: Trained, task: str) -> dict[str, Any]:
  """`config.json` and `preprocessor_config.json`."""
  trunk, clip, names = model.model.trunk, layouts.clip_of(model, task), model.class_names[task]
  softmax = model.experiment.tasks[task].loss == 'softmax'
  config = {
    'architectures': ['VivitForVideoClassification'],
    'model_type': 'vivit',
    'image_size': clip.crop,
    'num_frames': clip.frames,
    'tubelet_size': list(trunk.tubelet),
    'num_channels': 3,
    'hidden_size': trunk.hidden_size,
    'num_hidden_layers': trunk.num_layers,
    'num_attention_heads': trunk.num_heads,
    'intermediate_size': trunk.mlp_dim,
    'hidden_act': layouts.HIDDEN_ACT[trunk.gelu],
    'hidden_dropout_prob': trunk.dropout_rate,
    'attention_probs_dropout_prob': trunk.attention_dropout_rate,
    'layer_norm_eps': trunk.layer_norm_epsilon,
    'qkv_bias': True,
    'problem_type': 'single_label_classification' if softmax else 'multi_label_classification',
    'id2label': {str(i): name for i, name in enumerate(names)},
    'label2id': {name: i for i, name in enumerate(names)},
  }
  preprocessor = layouts.processor(model, task, 'VivitImageProcessor')
  return {'config.json': config, 'preprocessor_config.json': preprocessor}


LAYOUT = Layout(
  _canonical,
  to_hugging_face_vivit,
  lambda arrays, model: from_hugging_face(arrays, model.model.trunk.num_heads),
  _settings,
)
