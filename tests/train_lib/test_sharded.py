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
import numpy as np
from configs.common import rand_augment_from
from conftest import make_tiny_config
from train_lib import data, experiment as experiment_lib
from train_lib.mesh import batch_sharding, make_mesh
from train_lib.program import build_program, prepare

def losses(mesh, devices):
  config = make_tiny_config({data!r})
  config.duration = '20 steps'
  config.evaluation.batch_size = 8
  config.tasks.motion.head.kernel_init = 'lecun_normal'
  config.augment.mix.mixup_alpha = 0.3
  config.augment.color_jitter.prob = 0.5
  config.augment.rand_augment.update({{'num_layers': 1, 'magnitude': 9.0}})
  config.trunk.update({{'dropout_rate': 0.1, 'stochastic_depth_rate': 0.2}})
  config.trunk.update({{'temporal_num_layers': 2, 'scan_layers': True, 'remat': 'blocks'}})
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

def augmented(devices):
  config = make_tiny_config({data!r})
  config.augment.color_jitter.update({{'prob': 0.8, 'grayscale_prob': 0.2}})
  config.augment.rand_augment.update(rand_augment_from('rand-m7-n2-mstd0.5-inc1'))
  config.augment.random_erasing.prob = 0.5
  experiment = experiment_lib.parse(config)
  train = data.open_split(experiment, 'train')
  facts = data.facts_of(experiment, train)
  sharding = batch_sharding(make_mesh(experiment.mesh, jax.devices()[:devices]))
  rng = np.random.default_rng(0)
  batch = {{
    'inputs': rng.integers(0, 256, (8, 4, 16, 16, 3), dtype=np.uint8),
    'label': {{'motion': np.arange(8)}},
    'batch_mask': np.ones(8, np.float32),
    'position': np.arange(8),
  }}
  run = jax.jit(lambda b: prepare(experiment, facts, b, 5)[0], in_shardings=sharding, out_shardings=sharding)
  compiled = run.lower(batch).compile()
  text = compiled.as_text()
  collectives = ('all-reduce', 'all-gather', 'all-to-all', 'collective-permute', 'reduce-scatter')
  return np.asarray(compiled(jax.device_put(batch, sharding))), [c for c in collectives if c in text]

one, _ = augmented(1)
eight, collectives = augmented(8)
print(json.dumps({{
  'augmented': {{
    'collectives': collectives,
    'different': float(np.mean(np.abs(one - eight) > 1e-5)),
    'examples': len({{x.tobytes() for x in one}}),
  }},
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
  shards = {mesh: run['shard'] for mesh, run in runs.items() if 'shard' in run}
  assert shards == {'1': [16, 16], '8x1x1': [16, 16], '2x4x1': [4, 16], '2x2x2': [8, 8]}


def test_augmentation_is_the_same_on_a_mesh_and_communicates_nothing(runs):
  augmented = runs['augmented']
  assert augmented['collectives'] == []
  assert augmented['examples'] == 8
  # Other shapes are compiled otherwise: where a byte is cut, it may be the next one.
  assert augmented['different'] < 0.01
