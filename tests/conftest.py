"""Settings and fixtures of all tests. The environment is set before anything imports jax."""

import os
import shutil
import tempfile

import pytest

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
# Compiling is most of what tests do, and what they compile hardly runs. Tests that train for long
# ask for `optimized`; the demo's runs as users run it.
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
# Of XLA's two code generators for CPUs the older takes half the time, and there are two cores.
os.environ.setdefault(
  'XLA_FLAGS', '--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1'
)

# What one test compiles, others and the processes they start read, on every worker of the run.
_CACHE = 'JAX_COMPILATION_CACHE_DIR'
_made_cache = _CACHE not in os.environ
if _made_cache:
  os.environ[_CACHE] = tempfile.mkdtemp(prefix='tubelet-compiled-')
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.2'


def pytest_unconfigure():
  if _made_cache:
    shutil.rmtree(os.environ.pop(_CACHE), ignore_errors=True)


@pytest.fixture
def optimized():
  """Programs optimised as users have them."""
  import jax

  before = jax.config.values['jax_disable_most_optimizations']
  jax.config.update('jax_disable_most_optimizations', False)
  yield
  jax.config.update('jax_disable_most_optimizations', before)


@pytest.fixture(scope='session')
def demo_data_dir(tmp_path_factory):
  """Directory of a tiny demo dataset: 32 training and 16 test clips, group 'motion'. Read only."""
  from datasets import demo

  directory = tmp_path_factory.mktemp('demo_data')
  demo.write(directory, seed=0, train=32, test=16)
  return directory
