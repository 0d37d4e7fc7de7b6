"""What the comparison of UniFormerV2's parts trains, from what weights, and in how many steps."""

import dataclasses
from pathlib import Path

import pytest

from benchmarks import comparison, uniformerv2
from configs.uniformerv2 import demo
from datasets import demo_scenes
from errors import ConfigError
from train_lib import data as data_lib
from train_lib import experiment, run
from train_lib.program import build_model, input_shape


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """The demo's datasets with one clip of each pair of colours, and two of each motion."""
  folder = tmp_path_factory.mktemp('demo_scenes')
  demo_scenes.write_stills(folder / 'stills', train=12, test=12)
  demo_scenes.write_motions(folder / 'motions', train=16, test=16)
  demo_scenes.write_scenes(folder / 'scenes', train=16, test=16)
  return folder


# Frames, tokens of each after the image ViT, local blocks, global blocks, what of it is read.
ROWS = {
  'none': (8, (8, 4, 4), 'none', 0, 'class'),
  'global': (8, (8, 4, 4), 'none', 2, 'fused'),
  'local': (8, (8, 4, 4), 'local_mhra', 0, 'class'),
  'both': (8, (8, 4, 4), 'local_mhra', 2, 'fused'),
  'both_tdown': (16, (8, 4, 4), 'local_mhra', 2, 'fused'),
}


@pytest.mark.parametrize('row', ROWS)
def test_rows(row, folder):
  configs = {
    name: uniformerv2.config_of(name, row, 5, 3, folder) for name in uniformerv2.COMPARISON.metrics
  }
  parsed = experiment.parse(configs['motions'])
  model = build_model(parsed, data_lib.facts_of(parsed, data_lib.open_train_splits(parsed)))
  shape = input_shape(parsed, 'clips', 1)
  trunk = model.trunk
  found = (shape[1], trunk.grid(shape), trunk.temporal_module, trunk.global_layers, trunk.output)
  assert found == ROWS[row]
  # Motions and scenes differ in where they are alone: one program trains either.
  for name, config in configs.items():
    assert (config.seed, config.duration) == (3, '5 epochs')
    assert config.datasets.clips.dir == str(folder / name)
    config.datasets.clips.dir = config.name = ''
  assert configs['motions'] == configs['scenes']


def test_the_image_vit_is_that_of_all_rows(folder):
  stills = uniformerv2.config_of('stills', 'both', 5, 3, folder)
  assert stills == uniformerv2.config_of('stills', 'none', 9, 3, folder)
  assert stills.trunk == demo.get_config('data=scenes,row=none').trunk
  assert input_shape(experiment.parse(stills), 'stills', 1) == (1, 1, demo.SIDE, demo.SIDE, 3)


def small(config):
  """The config with a trunk of two blocks and two steps."""
  config.trunk.update({'hidden_size': 8, 'num_layers': 2, 'num_heads': 2, 'mlp_dim': 8})
  config.batch_size = 4
  config.duration, config.optimizer.warmup = '2 steps', '1 steps'
  return config


def test_rows_start_from_the_image_vit_of_their_seed(folder, tmp_path, monkeypatch, capsys):
  made = uniformerv2.config_of
  monkeypatch.setattr(uniformerv2, 'config_of', lambda *args: small(made(*args)))
  ours = dataclasses.replace(uniformerv2.COMPARISON, metrics={'motions': 'motions'})
  monkeypatch.setattr(uniformerv2, 'COMPARISON', ours)
  found = uniformerv2.train(['both_tdown'], 1, 4, folder, tmp_path / 'runs')
  assert 0 <= found['both_tdown']['motions'] <= 1
  log = (tmp_path / 'runs' / 'both_tdown-motions.log').read_text()
  # 3 x 8 x 8 of 1 x 8 x 8, and everything else of the image ViT as it is.
  assert 'inflated' in log and 'resized 0' in log
  assert 'top-1 of stills:' in capsys.readouterr().out
  # The same again finds everything done.
  monkeypatch.setattr(run, 'train_steps', None)
  assert uniformerv2.train(['both_tdown'], 1, 4, folder, tmp_path / 'runs') == found


def test_order_of_runs(folder, monkeypatch, capsys):
  trained = []

  def train(title, config, workdir):
    trained.append((title, config.init_from.path, str(workdir)))
    return dict.fromkeys(['top1/stills', 'top1/clips'], len(trained) / 10)

  monkeypatch.setattr(comparison, 'train', train)
  found = uniformerv2.train(['global', 'local'], 2, 8, folder, Path('out'))
  assert found == {
    'global': {'motions': 0.2, 'scenes': 0.3},
    'local': {'motions': 0.4, 'scenes': 0.5},
  }
  assert trained == [
    ('seed 2, stills', '', 'out/stills'),
    ('seed 2, global, motions', 'out/stills', 'out/global-motions'),
    ('seed 2, global, scenes', 'out/stills', 'out/global-scenes'),
    ('seed 2, local, motions', 'out/stills', 'out/local-motions'),
    ('seed 2, local, scenes', 'out/stills', 'out/local-scenes'),
  ]
  assert capsys.readouterr().out == 'top-1 of stills: 10.0\n'


def test_strategies_are_rows():
  assert set(uniformerv2.COMPARISON.strategies) == set(demo.ROWS)
  with pytest.raises(ConfigError, match=r"--strategies: \['tdown'\] are unknown"):
    uniformerv2.COMPARISON.check(['tdown'], ['0'])


def test_other_arguments_are_refused():
  with pytest.raises(ValueError, match="Unknown data 'images'; known"):
    demo.get_config('data=images')
  with pytest.raises(ValueError, match="Unknown row 'tdown'; known"):
    demo.get_config('row=tdown')
  with pytest.raises(ValueError, match='`epochs` is 1: expected at least 2'):
    demo.get_config('epochs=1')
