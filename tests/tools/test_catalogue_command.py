"""The catalogue as people and scripts see it."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from datasets.catalogue import DATASETS
from errors import ConfigError
from tools import catalogue

ROOT = Path(__file__).parents[2]


def text(table) -> list[str]:
  """The lines of a table with single blanks."""
  console = Console(file=io.StringIO(), width=120)
  console.print(table)
  return [' '.join(line.split()) for line in console.file.getvalue().splitlines()]


def test_overview_has_a_line_for_each():
  lines = text(catalogue.overview(DATASETS.values()))
  assert [line.split()[0] for line in lines] == ['name', *DATASETS]
  assert lines[1] == ('kinetics400 400 label 246,245 20,000 10 4x1 4x3 2x3 3x3 1x1 keep kinetics')
  assert lines[9].startswith('epic_kitchens 97 verb, 300 noun 67,217 9,668 4x1 4x3 keep')


def test_detail_says_who_states_what():
  lines = text(catalogue.detail(DATASETS['ssv2']))
  assert 'size train 168,913, validation 24,777: UniFormerV2, Table 10' in lines
  assert 'mean length 4 s' in lines
  assert 'read with --layout=ssv2' in lines
  assert 'Pulling something from left to right <-> Pulling something from right to left' in lines
  assert 'read with --layout=ava' in text(catalogue.detail(DATASETS['ava']))
  assert 'read with no layout' in text(catalogue.detail(DATASETS['imagenet']))


def test_a_name_that_is_not_there():
  assert catalogue.find('hacs') is DATASETS['hacs']
  with pytest.raises(ConfigError, match=r"no such dataset. Did you mean 'kinetics400'\? Known: "):
    catalogue.find('k400')


def test_the_command():
  command = [sys.executable, '-m', 'tools.catalogue', '--json', '--name=charades']
  done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
  values = json.loads(done.stdout)
  assert list(values) == ['charades']
  assert values['charades']['tasks'] == {'label': 157}
  assert values['charades']['sizes'][0] == {
    'source': 'published split',
    'train': 7985,
    'validation': None,
    'test': 1863,
  }
