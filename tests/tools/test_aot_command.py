"""Compiling for a TPU that is not there: in processes of their own, as libtpu is one per process."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from configs.vivit import demo
from train_lib import data, libtpu
from train_lib.experiment import parse
from train_lib.mesh import make_mesh
from train_lib.program import build_program

ROOT = Path(__file__).parents[2]
CONFIG = 'configs/vivit/demo.py'
MESH = {'data': 2, 'fsdp': 2, 'tensor': 1}
TINY = {
  'batch_size': 8,
  'mesh.fsdp': 2,
  'trunk.hidden_size': 128,
  'trunk.mlp_dim': 128,
  'trunk.num_heads': 1,
  'trunk.num_layers': 1,
  'trunk.temporal_num_layers': 0,
  'datasets.demo.clip.frames': 4,
  'datasets.demo.clip.crop': 16,
}
needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None, reason='libtpu has no wheel for this platform'
)


def run(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'tools.aot', f'--config={CONFIG}', *arguments],
    cwd=ROOT,
    check=False,
    capture_output=True,
    text=True,
  )


def overrides(values):
  return [f'--config.{key}={value}' for key, value in values.items()]


def bytes_of_a_chip(tree):
  """Bytes of each chip's part of a tree on `MESH`, by the shardings' axis names."""
  total = 0
  for leaf in jax.tree.leaves(tree):
    axes = jax.tree.leaves(tuple(leaf.sharding.spec))
    total += leaf.dtype.itemsize * math.prod(leaf.shape) // math.prod(MESH[a] for a in axes)
  return total


@needs_libtpu
def test_a_step_that_fits():
  done = run('--topology=v5e:2x2', '--json', *overrides(TINY))
  assert done.returncode == 0, done.stderr
  assert done.stderr == 'Compiling vivit/demo on batches of demo for v5e:2x2 (some minutes) ...\n'
  values = json.loads(done.stdout)
  assert values['fits'] is True
  assert (values['topology'], values['chips'], values['mesh']) == ('v5e:2x2', 4, MESH)

  config = demo.get_config()
  config.update_from_flattened_dict({**TINY, 'mesh.fsdp': 1})
  experiment = parse(config)
  mesh = make_mesh(experiment.mesh, jax.devices()[:1])
  program = build_program(experiment, data.facts_or_nominal(experiment), mesh)
  state = bytes_of_a_chip(program.abstract_state)
  batch = bytes_of_a_chip(program.abstract_batch('demo'))
  memory = values['memory']
  # TPUs round each array up to tiles; were the state not split, it would be twice as large.
  assert state + batch < memory['arguments'] < 2 * (state + batch)
  assert state < memory['aliased'] <= memory['outputs'] < 2 * state
  assert memory['arguments'] < memory['peak'] < memory['available'] == 15.75 * 2**30
  assert values['model_flops'] <= values['xla_flops'] < 2 * values['model_flops']
  # Of gradients at least the biases' are summed whole.
  assert values['collectives']['all-reduce']['bytes'] >= 4 * 128
  assert 0 < values['estimate']['utilisation'] < 1
  assert values['estimate']['step'] >= values['estimate']['schedule'] > 0


@needs_libtpu
def test_a_step_that_does_not_fit():
  # A mesh axis that is half of an axis of the torus.
  large = overrides({**TINY, 'batch_size': 64_000_000})
  done = run('--topology=v6e:4x4', '--json', *large)
  assert done.returncode == 2, done.stderr
  assert (
    'DoesNotFitError: The train step does not fit on a chip of v6e:4x4: it needs' in done.stderr
  )
  assert 'of the 31.2' in done.stderr
  assert 'Traceback' not in done.stderr
  values = json.loads(done.stdout)
  assert (values['fits'], values['topology']) == (False, 'v6e:4x4')


def test_a_slice_that_does_not_exist_is_a_message():
  done = run('--topology=v5e:32x32')
  assert done.returncode == 1
  assert 'ConfigError: --topology=v5e:32x32 is no TPU slice. Did you mean v5e:16x16?' in done.stderr
  assert 'Traceback' not in done.stderr


@needs_libtpu
def test_other_commands_hear_nothing_of_libtpu(tmp_path):
  environment = {k: v for k, v in os.environ.items() if k != 'JAX_PLATFORMS' and 'TPU' not in k}
  done = subprocess.run(
    [sys.executable, '-c', 'from tools import command; import jax; jax.devices()'],
    cwd=ROOT,
    check=True,
    capture_output=True,
    text=True,
    env={**environment, 'TMPDIR': str(tmp_path)},
  )
  assert 'accelerator type' not in done.stderr
  assert 'TPU_WORKER_HOSTNAMES' not in done.stderr


def test_where_there_is_a_tpu_nothing_is_changed(monkeypatch):
  for name in ('TPU_ACCELERATOR_TYPE', 'TPU_WORKER_HOSTNAMES', 'TPU_LOG_DIR'):
    monkeypatch.setenv(name, 'unset')
    monkeypatch.delenv(name)
  monkeypatch.setattr(libtpu, 'has_tpu', lambda: True)
  libtpu.quiet_without_tpu()
  assert 'TPU_LOG_DIR' not in os.environ
  monkeypatch.setattr(libtpu, 'has_tpu', lambda: False)
  monkeypatch.setenv('TPU_ACCELERATOR_TYPE', 'v6e-8')
  libtpu.quiet_without_tpu()
  assert os.environ['TPU_LOG_DIR'] == 'disabled'
  assert os.environ['TPU_ACCELERATOR_TYPE'] == 'v6e-8'
