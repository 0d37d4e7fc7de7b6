"""Settings and fixtures of all tests. The environment is set before anything imports jax."""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import pytest


@pytest.fixture(scope='session')
def demo_data_dir(tmp_path_factory):
  """Directory of a tiny demo dataset: 32 training and 16 test clips, group 'motion'. Read only."""
  from datasets import demo

  directory = tmp_path_factory.mktemp('demo_data')
  demo.write(directory, seed=0, train=32, test=16)
  return directory
