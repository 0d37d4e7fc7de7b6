"""Comparing configs: files, runs and checkpoints."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from errors import ConfigError
from tools import config_diff
from train_lib.config_changes import config_changes, describe

ROOT = Path(__file__).parents[2]
DEMO = 'configs/vivit/demo.py'


def test_changes_are_listed_by_key():
  old = {'a': 1, 'b': {'c': (1, 2), 'd': None, 'e': 'x'}, 'empty': {}}
  new = {'a': 1, 'b': {'c': (1, 3), 'd': None, 'f': True}, 'empty': {'g': 0}}
  assert describe(config_changes(old, new)) == [
    'b.c: (1, 2) -> (1, 3)',
    "b.e: 'x' -> absent",
    'b.f: absent -> True',
    'empty: {} -> absent',
    'empty.g: absent -> 0',
  ]
  assert config_changes(old, old) == []


def test_every_kind_of_source_gives_the_resolved_config(tmp_path, monkeypatch):
  monkeypatch.chdir(ROOT)
  config = config_diff.read(DEMO)
  assert config['trunk']['tubelet'] == [4, 8, 8]
  (tmp_path / 'config.json').write_text(json.dumps(config))
  meta = tmp_path / 'checkpoints' / '400' / 'meta' / 'metadata'
  meta.parent.mkdir(parents=True)
  meta.write_text(json.dumps({'config': config}))
  for source in (tmp_path, tmp_path / 'config.json', tmp_path / 'checkpoints' / '400'):
    assert config_changes(config_diff.read(str(source)), config) == []
  spacetime = config_diff.read(f'{DEMO}:attention=spacetime')
  assert 'trunk.attention' in [key for key, _, _ in config_changes(config, spacetime)]


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (None, 'is no config: expected a config file'),
    ('{"a": ', 'cannot be read as JSON'),
    ('[]', 'expected a JSON object, got list'),
  ],
)
def test_what_is_no_config_is_said(content, message, tmp_path):
  path = tmp_path / 'config.json'
  if content is not None:
    path.write_text(content)
  with pytest.raises(ConfigError, match=message):
    config_diff.read(str(path))


def test_a_missing_config_file_is_named():
  with pytest.raises(ConfigError, match=r'configs/none.py cannot be loaded: .*No such file'):
    config_diff.read('configs/none.py')


def test_the_command_is_like_diff(tmp_path):
  a, b = tmp_path / 'a.json', tmp_path / 'b.json'
  a.write_text('{"seed": 0, "old": 1}')
  b.write_text('{"seed": 1}')

  def run(*arguments):
    command = [sys.executable, '-m', 'tools.config_diff', *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

  differ = run(a, b, '--json')
  assert differ.returncode == 1
  assert json.loads(differ.stdout)['changes'] == [
    {'key': 'old', 'a': 1},
    {'key': 'seed', 'a': 0, 'b': 1},
  ]
  missing = run(a, tmp_path / 'none')
  assert missing.returncode == 2
  assert missing.stderr.startswith(f'ConfigError: {tmp_path / "none"} is no config')
