"""Each check of a published checkpoint names what is wrong."""

import json
import re
import types
from pathlib import Path

import flax
import jax
import numpy as np
import pytest

from configs.vivit import demo
from errors import ConfigError, DataError
from tests.datasets.videos import write_video
from tools import command
from tools import zoo as tool
from train_lib import experiment as experiment_lib
from train_lib import params_file, zoo, zoo_checks
from train_lib.experiment import DataFacts
from train_lib.program import build_model, example_inputs
from train_lib.zoo_checks import FAILED, NOT_RUN, OK, SKIPPED

FIXTURES = Path(__file__).parents[1] / 'fixtures'
SHIPPED = zoo.Zoo()
STEPS = ('file', 'weights', 'preprocessing', 'logits', 'clip', 'labels', 'accuracy')
SHOWN = {'mean': [0.5] * 3, 'std': [0.5] * 3, 'range': [-1.0, 1.0]}
SMALL = {'hidden_size': 48, 'num_layers': 2, 'num_heads': 4, 'mlp_dim': 96}
CLIP = {'frames': 4, 'stride': 1, 'resize': 32, 'crop': 32}


def recorded(name):
  """Arrays of a fixture, without the folder in front of their names."""
  with np.load(FIXTURES / f'{name}.npz') as stored:
    arrays = {key: stored[key] for key in stored.files}
  folder = re.compile('^(state_dict|params)/')
  weights = {folder.sub('', key): array for key, array in arrays.items() if folder.match(key)}
  return weights or arrays, arrays


def hub_names(weights):
  names = json.loads((FIXTURES / 'hf_vivit.json').read_text())['key_map_current_to_hub']
  return {names[key]: array for key, array in weights.items()}


def toml(value):
  if isinstance(value, dict):
    return '{' + ', '.join(f'"{key}" = {toml(item)}' for key, item in value.items()) + '}'
  return json.dumps(value)


def listed(folder, **fields):
  """A list with one entry, `tiny`."""
  fields = {
    'name': 'tiny',
    'title': 'a test',
    'publisher': 'the test',
    'url': 'https://example.org/weights.npz',
    'layout': 'scenic',
    'config': 'configs/vivit/demo.py',
    'shown': SHOWN,
    'parameters': 0.1,
    **fields,
  }
  text = '[[model]]\n' + ''.join(f'{key} = {toml(value)}\n' for key, value in fields.items())
  (folder / 'models.toml').write_text(text)
  return zoo.Zoo(folder / 'models.toml')


def overrides(**trunk):
  return {f'trunk.{k}': v for k, v in {**SMALL, **trunk}.items()} | {
    f'datasets.demo.clip.{k}': v for k, v in CLIP.items()
  }


def verify(models, weights, changes=(), **options):
  config = tool.config_of(models.find('tiny'))
  config.update_from_flattened_dict(dict(changes))
  experiment = experiment_lib.parse(config)
  checks = zoo_checks.verify(models, 'tiny', str(weights), experiment, **options)
  assert [check.name for check in checks] == list(STEPS)
  return {check.name: check for check in checks}


def only_failed(checks, name):
  """The text of the failed check; those behind it were not run."""
  place = STEPS.index(name)
  assert checks[name].status == FAILED, checks
  assert all(checks[step].status in (OK, SKIPPED) for step in STEPS[:place])
  assert all(checks[step].status == NOT_RUN for step in STEPS[place + 1 :])
  return checks[name].text


@pytest.fixture
def recorded_vivit(tmp_path):
  """A list with Hugging Face's tiny ViViT and what it computed, its weights, and their file."""
  weights, arrays = recorded('hf_vivit')
  hub = hub_names(weights)
  np.savez(tmp_path / 'weights.npz', **hub)
  video = np.moveaxis(arrays['input'], 2, -1)
  np.savez(tmp_path / 'golden.npz', input=video, logits=arrays['logits'], tolerance=2e-5)
  count = arrays['logits'].shape[1]
  (tmp_path / 'classes.txt').write_text(''.join(f'class {i}\n' for i in range(count)))
  models = listed(
    tmp_path,
    layout='hugging_face',
    config='configs/vivit/demo.py:attention=spacetime',
    dataset='demo',
    classes='classes.txt',
    golden='golden.npz',
    shown={**SHOWN, **CLIP, 'sampling': 'dense'},
    overrides=overrides(tubelet=[2, 8, 8]),
  )
  return models, hub, tmp_path / 'weights.npz'


def test_recorded_weights_give_recorded_logits(recorded_vivit, tmp_path):
  models, weights, file = recorded_vivit
  write_video(tmp_path / 'a.mp4', 8, rate=10)
  checks = verify(models, file, clip=str(tmp_path / 'a.mp4'))
  assert [check.status for check in checks.values()] == [OK, OK, OK, OK, OK, SKIPPED, SKIPPED]
  total = sum(array.size for array in weights.values())
  assert checks['weights'].text == f'{total:,} of {total:,} numbers are filled'
  assert checks['logits'].text.startswith('2 stored clips agree to')
  assert re.fullmatch(r'a.mp4, 4 views: (\d+\.\d% class \d(, )?){3}', checks['clip'].text)
  assert checks['labels'].text == 'no --data'
  assert zoo_checks.summary(list(checks.values())).endswith('\nNothing failed.')


def test_a_video_that_is_not_there(recorded_vivit, tmp_path):
  models, _, file = recorded_vivit
  missing = str(tmp_path / 'no.mp4')
  assert missing in only_failed(verify(models, file, clip=missing), 'clip')


def test_stored_logits_that_are_not_there(tmp_path):
  models = listed(tmp_path, golden='no.npz')
  with pytest.raises(ConfigError, match=r"tiny: golden='no.npz', but there is no"):
    models.golden_file(models.find('tiny'))


VIVIT = {**SMALL, 'tubelet': [2, 8, 8]}
CLIP_VIT = {**SMALL, 'mlp_dim': 192, 'patch_size': 8, 'global_layers': 1}
CASES = {
  'scenic': (
    'scenic_factorized_encoder',
    'configs/vivit/demo.py:temporal_layers=3',
    {**VIVIT, 'temporal_num_heads': 2, 'temporal_mlp_dim': 72},
    '',
  ),
  'vision_transformer (augreg)': (
    'augreg_checkpoint',
    'configs/vivit/demo.py:attention=spacetime',
    VIVIT,
    'resized: trunk/Transformer (1); inflated: trunk/embedding (1); new: heads_motion (2); not used: '
    'output_projection (2)',
  ),
  'timm': (
    'timm_vit',
    'configs/vivit/demo.py',
    VIVIT,
    'inflated: trunk/embedding (1); new: heads_motion (2), trunk/TemporalTransformer (35), '
    'trunk/cls_TemporalTransformer (1); not used: output_projection (2)',
  ),
  'openai_clip': (
    'openai_clip_visual',
    'configs/uniformerv2/k400.py:row=b16_8x3x4,start=image',
    CLIP_VIT,
    'inflated: trunk/embedding (1)',
  ),
}


@pytest.mark.parametrize('layout', CASES)
def test_layouts(layout, tmp_path):
  fixture, config, trunk, found = CASES[layout]
  weights, arrays = recorded(fixture)
  np.savez(tmp_path / 'weights.npz', **weights)
  fields = {}
  if not found:
    (tmp_path / 'classes.txt').write_text(''.join(f'{i}\n' for i in range(7)))
    golden = {'input': arrays['input'], 'logits': arrays['logits'], 'tolerance': 2e-5}
    np.savez(tmp_path / 'golden.npz', **golden)
    fields = {'dataset': 'demo', 'classes': 'classes.txt', 'golden': 'golden.npz'}
  dataset = 'demo' if 'demo' in config else 'kinetics400'
  changes = {f'trunk.{key}': value for key, value in trunk.items()}
  changes |= {f'datasets.{dataset}.clip.{key}': value for key, value in CLIP.items()}
  fields |= {'layout': layout, 'config': config, 'overrides': changes}
  checks = verify(listed(tmp_path, **fields), tmp_path / 'weights.npz')
  assert checks['weights'].status == OK, checks['weights'].text
  assert found in checks['weights'].text
  if not found:
    assert checks['logits'].status == OK


def test_a_converter_and_statistics(tmp_path):
  """The released UniFormerV2's names, with running statistics of batch normalisation."""
  with np.load(FIXTURES / 'uniformerv2' / 'lt2_tdown.weights.npz') as stored:
    weights = {key: stored[key] for key in stored.files}
  np.savez(tmp_path / 'weights.npz', **{f'model_state/backbone.{k}': a for k, a in weights.items()})
  (tmp_path / 'classes.txt').write_text(''.join(f'{i}\n' for i in range(11)))
  trunk = {'hidden_size': 64, 'num_layers': 4, 'num_heads': 1, 'mlp_dim': 256, 'global_layers': 3}
  clip = {'frames': 8, 'resize': 64, 'crop': 64}
  changes = {f'trunk.{key}': value for key, value in trunk.items()}
  changes |= {f'datasets.ssv2.clip.{key}': value for key, value in clip.items()}
  models = listed(
    tmp_path,
    layout="UniFormerV2's own",
    converter='projects.uniformerv2.weights:from_official',
    config='configs/uniformerv2/ssv2.py',
    dataset='ssv2',
    classes='classes.txt',
    overrides=changes,
  )
  counted = [k for k in weights if not k.endswith('num_batches_tracked')]
  total = sum(weights[key].size for key in counted)
  assert any('running_mean' in key for key in counted)
  text = verify(models, tmp_path / 'weights.npz')['weights'].text
  assert text == f'{total:,} of {total:,} numbers are filled'


def test_a_damaged_file(recorded_vivit):
  models, _, file = recorded_vivit
  file.write_bytes(file.read_bytes()[:-100])
  assert 'cannot be read' in only_failed(verify(models, file), 'file')
  assert 'https://example.org' in only_failed(verify(models, file.with_name('no')), 'file')
  assert 'Is a directory' in only_failed(verify(models, file.parent), 'file')


def test_another_file_than_the_published_one(recorded_vivit, tmp_path):
  _, _, file = recorded_vivit
  models = listed(tmp_path, sha256='0' * 64)
  assert f'published is {"0" * 64}' in only_failed(verify(models, file), 'file')
  converted = listed(tmp_path, sha256='0' * 64, url='https://example.org/weights.pt')
  assert 'nothing to compare it with' in verify(converted, file)['file'].text


def test_a_missing_block(recorded_vivit):
  models, weights, file = recorded_vivit
  np.savez(file, **{key: array for key, array in weights.items() if 'layer.1.' not in key})
  text = only_failed(verify(models, file), 'weights')
  assert 'trunk/Transformer/encoderblock_1' in text


def test_another_layout(recorded_vivit, tmp_path):
  _, _, file = recorded_vivit
  entry = json.loads(json.dumps(recorded_vivit[0].find('tiny').overrides))
  models = listed(
    tmp_path,
    layout='timm',
    config='configs/vivit/demo.py:attention=spacetime',
    dataset='demo',
    classes='classes.txt',
    overrides=entry,
  )
  assert "published is 'timm'" in only_failed(verify(models, file), 'weights')


@pytest.mark.parametrize(
  ('change', 'found'),
  [
    (
      {'pixels.mean': (0.45, 0.45, 0.45)},
      'mean is (0.45, 0.45, 0.45), published is (0.5, 0.5, 0.5)',
    ),
    (
      {'pixels.std': (0.25, 0.25, 0.25)},
      'pixels are from -2.000 to 2.000, published is (-1.0, 1.0)',
    ),
    ({'datasets.demo.clip.stride': 2}, 'stride is 2, published is 1'),
  ],
)
def test_other_preprocessing(change, found, recorded_vivit):
  models, _, file = recorded_vivit
  assert found in only_failed(verify(models, file, change), 'preprocessing')


def test_other_logits(recorded_vivit):
  """No file tells the activation: only stored logits do."""
  models, _, file = recorded_vivit
  text = only_failed(verify(models, file, {'trunk.gelu': 'erf'}), 'logits')
  assert 'differ by up to' in text
  assert 'gelu' in text


def test_stored_logits_that_cannot_be_used(tmp_path):
  file, shape = tmp_path / 'golden.npz', (4, 32, 32, 3)
  file.write_bytes(b'')
  with pytest.raises(DataError, match=r'golden.npz cannot be read'):
    zoo.read_golden(file, shape)
  good = {'input': np.zeros((2, *shape), np.uint8), 'logits': np.zeros((2, 7), np.float32)}
  np.savez(file, **good)
  assert zoo.read_golden(file, shape).tolerance == 1e-4
  for wrong in ({'logits': good['logits'][:1]}, {'input': good['input'][:, :2]}):
    np.savez(file, **{**good, **wrong})
    with pytest.raises(DataError, match=r'expected input \[B, 4, 32, 32, 3\] and logits \[B, K\]'):
      zoo.read_golden(file, shape)
  np.savez(file, input=good['input'])
  with pytest.raises(DataError, match=r"got \{'input': \(2, 4, 32, 32, 3\)\}"):
    zoo.read_golden(file, shape)


def test_stored_logits_of_other_classes(recorded_vivit, tmp_path):
  models, _, file = recorded_vivit
  with np.load(tmp_path / 'golden.npz') as stored:
    arrays = dict(stored)
  np.savez(tmp_path / 'golden.npz', **{**arrays, 'logits': arrays['logits'][:, :1]})
  text = only_failed(verify(models, file), 'logits')
  assert text.endswith('logits (2, 1), but the model gives (2, 7).')


@pytest.fixture(scope='module')
def on_demo(tmp_path_factory, demo_data_dir):
  """A folder with weights for the demo's data, and the fields of an entry for them."""
  folder = tmp_path_factory.mktemp('zoo')
  names = json.loads((demo_data_dir / 'manifest.json').read_text())['tasks']['motion']['classes']
  changes = {'trunk.hidden_size': 8, 'trunk.num_layers': 1, 'trunk.num_heads': 2}
  changes |= {'trunk.mlp_dim': 8, 'trunk.temporal_num_layers': 1}
  config = demo.get_config()
  config.update_from_flattened_dict(changes)
  experiment = experiment_lib.parse(config)
  model = build_model(experiment, DataFacts({}, {'motion': tuple(names)}, ''))
  made = jax.eval_shape(
    lambda: model.init(jax.random.key(0), **example_inputs(experiment), train=False)
  )
  flat = flax.traverse_util.flatten_dict(flax.linen.meta.unbox(made['params']), sep='/')
  rng = np.random.default_rng(0)
  weights = {
    re.sub('^(trunk|heads_motion)/', '', key): rng.normal(0, 0.3, x.shape).astype(np.float32)
    for key, x in flat.items()
  }
  np.savez(folder / 'weights.npz', **weights)
  (folder / 'classes.txt').write_text(''.join(f'{name}\n' for name in names))
  (folder / 'permuted.txt').write_text(''.join(f'{name}\n' for name in [*names[1:], names[0]]))
  return folder, {'dataset': 'demo', 'overrides': changes}


def figure(top1, tolerance=1.0):
  return {
    'top1': top1,
    'temporal_views': 2,
    'spatial_views': 1,
    'videos': 20,
    'source': 'the test',
    'tolerance': tolerance,
  }


def test_labels_in_another_order(on_demo, demo_data_dir):
  folder, fields = on_demo
  models = listed(folder, classes='permuted.txt', figure=figure(50.0), **fields)
  checks = verify(models, folder / 'weights.npz', data_dir=str(demo_data_dir), split='test')
  text = only_failed(checks, 'labels')
  assert text.startswith("class 0 is 'moves right' in the checkpoint and 'moves left' in")
  assert '8 of 8 names are in both. The names are the same in another order' in text


def imported(folder, names):
  """The weights as an importer writes them with --class_names."""
  with np.load(folder / 'weights.npz') as stored:
    arrays = dict(stored)
  meta = {'class_names': {'': names}}
  params_file.write_arrays(folder / 'imported.npz', arrays, meta)
  return folder / 'imported.npz'


def test_labels_stored_with_the_weights(on_demo, demo_data_dir):
  """The data's order does not matter; names that were given in another order than published do."""
  folder, fields = on_demo
  models = listed(folder, classes='permuted.txt', **fields)
  published = models.class_names(models.find('tiny'))
  options = {'data_dir': str(demo_data_dir), 'split': 'test'}
  file = imported(folder, published)
  checks = verify(models, file, **options)
  assert checks['labels'].status == OK
  assert '8 of 8 rows of the head by name (8 exact)' in checks['labels'].text
  file = imported(folder, published[::-1])
  text = only_failed(verify(models, file, **options), 'labels')
  assert f'class 0 is {published[0]!r} in the checkpoint and {published[-1]!r} in {file}' in text
  assert 'import the weights with --class_names=zoo/permuted.txt' in text


def test_chance_where_the_publisher_names_no_classes(on_demo, demo_data_dir, monkeypatch):
  folder, fields = on_demo
  models = listed(folder, figure=figure(80.0), **fields)
  monkeypatch.setattr(zoo_checks, '_nominal', lambda *_: tuple(map(str, range(8))))
  result = types.SimpleNamespace(metrics={'top1/motion': 0.125}, examples=2000)
  monkeypatch.setattr(zoo_checks.evaluation, 'evaluate', lambda *_: result)
  options = {'data_dir': str(demo_data_dir), 'split': 'test'}
  text = only_failed(verify(models, folder / 'weights.npz', **options), 'accuracy')
  assert 'the order of the labels is the first suspect' in text
  result.metrics = {'map/motion': 0.5}
  text = only_failed(verify(models, folder / 'weights.npz', **options), 'accuracy')
  assert 'top1/motion is not measured' in text


def test_accuracy(on_demo, demo_data_dir):
  folder, fields = on_demo
  options = {'data_dir': str(demo_data_dir), 'split': 'test', 'batch_size': 8}
  models = listed(folder, classes='classes.txt', figure=figure(99.0), **fields)
  text = only_failed(verify(models, folder / 'weights.npz', **options), 'accuracy')
  assert 'published 99.0, at most 6.0 apart for 16 videos' in text
  assert 'of the 20 that the figure counts 80.0% are here' in text
  models = listed(folder, classes='classes.txt', figure=figure(50.0, 100.0), **fields)
  checks = verify(models, folder / 'weights.npz', **options)
  assert (checks['labels'].status, checks['accuracy'].status) == (OK, OK)


def test_accuracy_by_chance_and_by_training_videos():
  with pytest.raises(DataError, match='the order of the labels is the first suspect'):
    zoo_checks.judge(0.3, 17_000, 79.9, 1.0, 17_637, 400)
  with pytest.raises(DataError, match='are training videos among these'):
    zoo_checks.judge(90.75, 19_787, 85.6, 1.0, 19_787, 400)
  assert 'at most 1.6 apart for 17,000 videos' in zoo_checks.judge(79.0, 17_000, 79.9, 1.0, 17_637)


def test_other_classes():
  with pytest.raises(DataError, match=r'1 of 2 names are in both. It is another set of classes'):
    zoo_checks.label_order(['a', 'b'], ['a', 'c'], 'data')
  zoo_checks.label_order(['Run', 'dance_x'], ['run', 'dance x'], 'data')


def test_unknown_names_and_bad_lists(tmp_path):
  with pytest.raises(ConfigError, match=r'The nearest: .*vivit_b16x2_k400'):
    SHIPPED.find('vivit_b16x2_k40')
  with pytest.raises(ConfigError, match=r'model tiny.*no_such'):
    listed(tmp_path, no_such=1)
  with pytest.raises(ConfigError, match=r'model tiny: there is no \[family.scenic\]; known: \[\]'):
    listed(tmp_path, family='scenic')
  (tmp_path / 'models.toml').write_text('[model]\nname = "tiny"')
  with pytest.raises(ConfigError, match=r'expected \[\[model\]\]'):
    zoo.Zoo(tmp_path / 'models.toml')
  (tmp_path / 'models.toml').write_text('[[model')
  with pytest.raises(ConfigError, match=r'models.toml cannot be read'):
    zoo.Zoo(tmp_path / 'models.toml')


def test_the_command(recorded_vivit, tmp_path):
  """What it prints, and its exit codes."""
  assert tool.show('list', '', False).splitlines()[0].startswith('name ')
  listing = json.loads(tool.show('list', '', True))
  assert [entry['name'] for entry in listing] == list(SHIPPED.entries)
  text = tool.show('show', 'vivit_b16x2_k400', False)
  assert 'top-1 79.9 on 17,637 videos, 4 clips x 3 crops (google-research/scenic' in text
  assert json.loads(tool.show('show', 'clip_b16', True))['sha256'].startswith('5806e77c')
  models, _, file = recorded_vivit
  text, code = tool.verify(models, 'tiny', str(file), as_json=False)
  assert (text.splitlines()[-1], code) == ('Nothing failed.', 0)
  other = command.load_config(models.find('tiny').config)
  text, code = tool.verify(models, 'tiny', str(file), as_json=True, config=other)
  values = json.loads(text)
  assert (values['ok'], code) == (False, 1)
  assert [check['status'] for check in values['checks'][:3]] == [OK, FAILED, NOT_RUN]
