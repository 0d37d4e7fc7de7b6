"""One program on one device and on meshes of eight, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import json, sys
sys.path[:0] = [{root!r}, {here!r}]
import jax
from conftest import make_tiny_config
from train_lib import data, experiment as experiment_lib
from train_lib.mesh import make_mesh
from train_lib.program import build_program

def losses(mesh, devices):
  config = make_tiny_config({data!r})
  config.duration = '20 steps'
  config.evaluation.batch_size = 8
  config.tasks.motion.head.kernel_init = 'lecun_normal'
  config.augment.mix.mixup_alpha = 0.3
  config.augment.color_jitter.prob = 0.5
  config.augment.rand_augment.update({{'num_layers': 1, 'magnitude': 9.0}})
  config.trunk.update({{'dropout_rate': 0.1, 'stochastic_depth_rate': 0.2}})
  config.mesh.update(mesh)
  experiment = experiment_lib.parse(config)
  train = data.open_split(experiment, 'train')
  mesh = make_mesh(experiment.mesh, jax.devices()[:devices])
  program = build_program(experiment, data.facts_of(experiment, train), mesh)
  state = program.init()
  kernel = state.params['trunk']['TemporalTransformer']['encoderblock_0']['MlpBlock_0']['Dense_0']['kernel']
  stream = data.train_stream(program, train, 0)
  values = []
  for _ in range(10):
    state, metrics = program.train_step(state, next(stream))
    values.append(float(metrics['loss'][0]))
  stream.close()
  return {{'losses': values, 'shard': kernel.sharding.shard_shape(kernel.shape)}}

print(json.dumps({{
  '1': losses({{}}, 1),
  '8x1x1': losses({{}}, 8),
  '2x4x1': losses({{'fsdp': 4}}, 8),
  '2x2x2': losses({{'fsdp': 2, 'tensor': 2}}, 8),
}}))
"""


@pytest.fixture(scope='module')
def runs(demo_data_dir):
  here = str(Path(__file__).parent)
  source = PROGRAM.format(root=str(ROOT), here=here, data=str(demo_data_dir))
  flags = {'XLA_FLAGS': '--xla_force_host_platform_device_count=8', 'JAX_PLATFORMS': 'cpu'}
  done = subprocess.run(
    [sys.executable, '-c', source], capture_output=True, text=True, env={**os.environ, **flags}
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize('mesh', ['8x1x1', '2x4x1', '2x2x2'])
def test_losses_agree_with_one_device(runs, mesh):
  # Sums over devices are in another order: differences grow from 1e-7 a step.
  assert runs[mesh]['losses'] == pytest.approx(runs['1']['losses'], rel=1e-4)


def test_parameters_are_split_over_the_mesh(runs):
  shards = {mesh: run['shard'] for mesh, run in runs.items()}
  assert shards == {'1': [16, 16], '8x1x1': [16, 16], '2x4x1': [4, 16], '2x2x2': [8, 8]}
