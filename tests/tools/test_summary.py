"""Table 2 and Table 5 of ViViT, through the tool that prints them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from configs.vivit import common
from tools import summary

ROOT = Path(__file__).parents[2]
TABLE_2 = {
  'spacetime': ('k400_base_spacetime', 88_954_000, 455.2),
  'factorised encoder': ('k400_base_fe', 115_062_928, 284.4),
  'factorised self-attention': ('k400_base_fsa', 117_319_312, 372.3),
  'factorised dot-product': ('k400_base_fdp', 88_952_464, 277.1),
  'average pool': ('k400_base_avgpool', 86_696_080, 283.9),
}


def summarise(name: str, arg: str = '') -> dict:
  module = __import__(f'configs.vivit.{name}', fromlist=['get_config'])
  values = summary.summarise(module.get_config(*filter(None, [arg])))[0]
  return {**values, **next(iter(values['datasets'].values()))}


@pytest.mark.parametrize('row', TABLE_2)
def test_table_2(row):
  name, parameters, gflops = TABLE_2[row]
  values = summarise(name)
  assert values['parameters'] == parameters
  assert round(values['gflops_per_view'], 1) == gflops
  assert values['classes'] == {'kinetics400': 400}


@pytest.mark.parametrize(('crop', 'gflops'), [(224, 1446), (288, 2919), (320, 3992)])
def test_table_5(crop, gflops):
  values = summarise('k400_large_spacetime', f'crop={crop}')
  assert values['gflops_per_view'] == pytest.approx(gflops, rel=5e-4)


def test_tokens_per_stage():
  stages = summarise('k400_base_fe')['stages']
  assert stages == [
    {'stage': 'SpatialTransformer', 'sequences': 16, 'tokens': 197},
    {'stage': 'TemporalTransformer', 'sequences': 1, 'tokens': 17},
  ]


def test_the_command_prints_json_and_a_table():
  command = [sys.executable, '-m', 'tools.summary', '--config=configs/vivit/ek_base_fe.py']
  values = json.loads(_run([*command, '--json']))
  assert values['classes'] == {'noun': 300, 'verb': 97}
  assert values['datasets']['epic_kitchens']['input'] == [1, 32, 224, 224, 3]
  table = _run([*command, '--config.datasets.epic_kitchens.clip.frames=16'])
  assert '16 frames x 224 x 224' in table
  assert 'SpatialTransformer' in table
  assert 'published figures of epic_kitchens' in table


def test_real_data_decides_the_classes(demo_data_dir):
  config: ConfigDict = common.experiment('x', 'ssv2', 'Ti', 'spacetime')
  config.datasets.ssv2.update({'dir': str(demo_data_dir), 'eval_split': 'test'})
  config.tasks.ssv2.labels = 'motion'
  values, table = summary.summarise(config)
  assert values['classes'] == {'ssv2': 8}
  assert f'from {demo_data_dir}' in table


def _run(command: list[str]) -> str:
  done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
  return done.stdout


def test_what_trains_when_parameters_are_frozen(demo_data_dir):
  config: ConfigDict = common.experiment('x', 'ssv2', 'Ti', 'spacetime')
  config.datasets.ssv2.update({'dir': str(demo_data_dir), 'eval_split': 'test'})
  config.tasks.ssv2.labels = 'motion'
  values, table = summary.summarise(config)
  assert values['trainable_parameters'] == values['parameters'] > 5e6
  assert 'trainable ' not in table
  config.optimizer.frozen = ('^trunk/',)
  values, table = summary.summarise(config)
  assert values['trainable_parameters'] == 192 * 8 + 8
  assert f'trainable        1,544 of {values["parameters"]:,}\n' in table
