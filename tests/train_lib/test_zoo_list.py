"""The list of published checkpoints is consistent."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from datasets import catalogue
from tools import zoo as tool
from train_lib import experiment as experiment_lib
from train_lib import preprocessing, zoo, zoo_checks

FIXTURES = Path(__file__).parents[1] / 'fixtures'
SHIPPED = zoo.Zoo()
LAYOUTS = {
  'scenic',
  'hugging_face',
  'openai_clip',
  'timm',
  'vision_transformer (augreg)',
  "UniFormerV2's own",
}


@pytest.mark.parametrize('name', SHIPPED.entries)
def test_shipped_entries(name):
  """Each config is there and shows videos as published; every figure has its source."""
  entry = SHIPPED.find(name)
  experiment = experiment_lib.parse(tool.config_of(entry))
  experiment = zoo_checks.prepare(experiment, entry, '', 'validation', 0)
  steps = zoo_checks._Steps(SHIPPED, entry, '', experiment, '', '')
  assert steps.check_preprocessing()
  assert entry.layout in LAYOUTS
  assert entry.url.startswith('https://')
  assert (entry.converter != '') == (entry.layout == "UniFormerV2's own")
  assert len(entry.sha256) in (0, 64)
  assert entry.title
  assert entry.publisher
  if entry.figure:
    assert entry.figure.source
    sizes = catalogue.DATASETS[entry.dataset].sizes
    assert entry.figure.videos in [size.validation for size in sizes]
    dataset = next(iter(preprocessing.of(steps.experiment)))
    assert steps.experiment.datasets[dataset].benchmark == entry.dataset
  if entry.classes:
    count = catalogue.DATASETS[entry.dataset].tasks['label']
    assert len(SHIPPED.class_names(entry)) == count
    assert entry.classes_source


@pytest.mark.parametrize(
  ('name', 'average'),
  [('uniformerv2_k400_k710_b16_8x224', 'probabilities'), ('uniformerv2_ssv2_b16_16x224', 'logits')],
)
def test_views_are_averaged_as_published(name, average):
  experiment = experiment_lib.parse(tool.config_of(SHIPPED.find(name)))
  assert experiment.evaluation.average == average


def test_the_two_orders_of_kinetics_400():
  """Both files have the same classes; only one is alphabetical."""
  names = SHIPPED.class_names(SHIPPED.find('vivit_b16x2_k400'))
  other = SHIPPED.class_names(SHIPPED.find('uniformerv2_k400_k710_b16_8x224'))
  assert sorted(names) == list(names) == sorted(other)
  assert other[:2] == ('riding a bike', 'marching')


def test_configs_are_found_from_any_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  entry = SHIPPED.find('uniformerv2_k400_b16_8x224')
  assert tool.config_of(entry).name.startswith('uniformerv2/k400')


@pytest.mark.parametrize('name', ['uniformerv2_k400_b16_8x224', 'clip_b16', 'dino_b16'])
def test_published_shapes_fill_the_model(name):
  """The names and shapes of the published file, of zeros that take no memory."""
  entry = SHIPPED.find(name)
  experiment = experiment_lib.parse(tool.config_of(entry))
  steps = zoo_checks._Steps(SHIPPED, entry, name, experiment, '', '')
  steps.arrays = published(entry)
  steps.check_weights()
  parameters = steps.program.abstract_state.params
  count = sum(x.size for x in jax.tree.leaves(parameters))
  assert round(count / 1e6, 3) == entry.parameters


def published(entry):
  """Arrays as the publisher names and shapes them."""
  if entry.converter:
    about = json.loads((FIXTURES / 'uniformerv2' / 'full_b16_k400_f8.json').read_text())
    return {f'model_state/{key}': zeros(shape) for key, shape in about['parameters']}
  blocks = {
    'openai_clip': ('visual.transformer.resblocks.{}.', 'ln_1 ln_2', 'mlp.c_fc mlp.c_proj'),
    'timm': ('blocks.{}.', 'norm1 norm2', 'mlp.fc1 mlp.fc2'),
  }[entry.layout]
  found = {}
  for stem in map(blocks[0].format, range(12)):
    for norm in blocks[1].split():
      found |= linear(stem + norm, 768)
    first, second = blocks[2].split()
    found |= linear(stem + first, 3072, 768) | linear(stem + second, 768, 3072)
    if entry.layout == 'timm':
      found |= linear(stem + 'attn.qkv', 2304, 768) | linear(stem + 'attn.proj', 768, 768)
    else:
      found |= linear(stem + 'attn.out_proj', 768, 768)
      found[stem + 'attn.in_proj_weight'] = zeros((2304, 768))
      found[stem + 'attn.in_proj_bias'] = zeros((2304,))
  if entry.layout == 'timm':
    ends = {'cls_token': (1, 1, 768), 'pos_embed': (1, 197, 768)}
    found |= linear('norm', 768) | linear('patch_embed.proj', 768, 3, 16, 16)
  else:
    ends = {'class_embedding': (768,), 'positional_embedding': (197, 768), 'proj': (768, 512)}
    ends |= {'conv1.weight': (768, 3, 16, 16)}
    ends = {f'visual.{key}': shape for key, shape in ends.items()} | {'logit_scale': ()}
    found |= linear('visual.ln_pre', 768) | linear('visual.ln_post', 768)
  return found | {key: zeros(shape) for key, shape in ends.items()}


def zeros(shape):
  return np.broadcast_to(np.float32(0), shape)


def linear(stem, *shape):
  return {f'{stem}.weight': zeros(shape), f'{stem}.bias': zeros(shape[:1])}
