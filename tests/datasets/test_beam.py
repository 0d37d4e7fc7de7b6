"""The shards under Apache Beam; the test runs where apache-beam is installed."""

import sys

import pytest

from datasets import beam, build
from errors import ConfigError
from tests.datasets.test_build import hashes, make_plan, run_here, video_root

__all__ = ['video_root']


def test_beam_writes_the_same_bytes(tmp_path, video_root):
  pytest.importorskip('apache_beam', reason='apache-beam is optional and not in the lock file')
  build.build(make_plan(tmp_path / 'here', video_root), run_here)
  built = build.build(make_plan(tmp_path / 'beam', video_root), beam.run_beam)
  assert (built.examples, len(built.rejected)) == (10, 2)
  assert hashes(tmp_path / 'beam') == hashes(tmp_path / 'here')
  again = build.build(make_plan(tmp_path / 'beam', video_root), beam.run_beam)
  assert again.already


def test_without_beam_the_error_says_what_to_install(tmp_path, video_root, monkeypatch):
  monkeypatch.setitem(sys.modules, 'apache_beam', None)
  with pytest.raises(ConfigError, match='pip install apache-beam'):
    build.build(make_plan(tmp_path, video_root), beam.run_beam)
