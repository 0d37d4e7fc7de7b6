"""One program on one device and on meshes of eight, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import dataclasses, json, sys
sys.path[:0] = [{root!r}, {here!r}]
import jax
import numpy as np
from flax import linen as nn
from configs.common import rand_augment_from
from tests.train_lib.conftest import make_tiny_config
from models.features import Features
from projects.multitrain.objective import MultiTrain
from projects.uniformerv2.uniformerv2 import UniFormerV2
from train_lib import data, experiment as experiment_lib
from train_lib.configuration import Component
from train_lib.experiment import MeshConfig, TaskConfig
from train_lib.mesh import batch_sharding, make_mesh, on_mesh, replicated
from train_lib.objective import ModelOutputs
from train_lib.program import build_program, prepare

STEPS = 20

def parsed(config, devices):
  experiment = experiment_lib.parse(config)
  train = data.open_train_splits(experiment)
  mesh = make_mesh(experiment.mesh, jax.devices()[:devices])
  return experiment, train, data.facts_of(experiment, train), mesh

def losses(sizes, devices, frozen=(), steps=STEPS):
  config = make_tiny_config({data!r})
  config.update({{'duration': f'{{STEPS}} steps', 'batch_size': 16, 'grad_accumulation': 2}})
  config.evaluation.batch_size = 8
  config.tasks.motion.head.kernel_init = 'lecun_normal'
  config.augment.mix.mixup_alpha = 0.3
  config.augment.color_jitter.prob = 0.5
  config.augment.random_erasing.prob = 0.5
  config.trunk.update({{'hidden_size': 8, 'mlp_dim': 8, 'dropout_rate': 0.1, 'stochastic_depth_rate': 0.2}})
  config.trunk.update({{'num_layers': 2, 'scan_layers': True, 'remat': 'blocks'}})
  config.mesh.update(sizes)
  config.optimizer.frozen = frozen
  experiment, train, facts, mesh = parsed(config, devices)
  program = build_program(experiment, facts, mesh)
  state = program.init()
  kernel = state.params['trunk']['SpatialTransformer']['encoderblock_0']['MlpBlock_0']['Dense_0']['kernel']
  stream = data.train_stream(program, train, 0)
  values, norms = [], []
  before = np.asarray(kernel)
  for _ in range(steps):
    state, metrics = program.train_step(state, next(stream))
    values.append(float(metrics['loss'][0] / metrics['loss'][1]))
    norms.append(float(metrics['gradient_norm'][0]))
  stream.close()
  after = state.params['trunk']['SpatialTransformer']['encoderblock_0']['MlpBlock_0']['Dense_0']['kernel']
  return {{
    'losses': values,
    'norms': norms,
    'shard': after.sharding.shard_shape(after.shape),
    'moved': bool(np.any(before != after)),
    'slots': len(jax.tree.leaves(state.opt_state)),
  }}

def augmented(devices):
  config = make_tiny_config({data!r})
  config.augment.color_jitter.update({{'prob': 0.8, 'grayscale_prob': 0.2}})
  config.augment.rand_augment.update(rand_augment_from('rand-m7-n1-mstd0.5-inc1'))
  config.augment.random_erasing.prob = 0.5
  experiment, _, facts, mesh = parsed(config, devices)
  sharding = batch_sharding(mesh)
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

def multitrain(devices):
  # Terms of an objective with statistics over the batch, and gradients; two examples a device, of which
  # the last is padding.
  rng, n = np.random.default_rng(0), 16
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  owner = np.arange(n) % 2
  tasks = {{name: TaskConfig(name, 'x', Component('models.heads:LinearHead', {{}})) for name in 'ab'}}
  logits = {{'a': draw(n, 3), 'b': draw(n, 4)}}
  outputs = ModelOutputs(
    Features(draw(n, 1, 6), draw(n, 6), (1, 1, 1)),
    logits,
    {{name: np.eye(x.shape[1], dtype=np.float32)[rng.integers(0, 3, n)] for name, x in logits.items()}},
    {{name: np.float32((owner == i) & (np.arange(n) < n - 1)) for i, name in enumerate('ab')}},
  )
  objective = MultiTrain(tasks, expander_size=8)
  params = nn.meta.unbox(jax.eval_shape(objective.init, jax.random.key(0), outputs))['params']
  params = jax.tree.map(lambda x: draw(*x.shape), params)
  mesh = make_mesh(MeshConfig(), jax.devices()[:devices])

  def loss(params, logits, pooled, rest):
    features = dataclasses.replace(rest.features, pooled=pooled)
    changed = dataclasses.replace(rest, features=features, logits=logits)
    return objective.apply({{'params': params}}, changed)

  run = jax.jit(
    jax.value_and_grad(loss, (0, 1, 2), has_aux=True),
    in_shardings=(replicated(mesh), *[batch_sharding(mesh)] * 3),
  )
  (total, terms), gradients = run(params, outputs.logits, outputs.features.pooled, outputs)
  leaves = jax.tree_util.tree_leaves_with_path(gradients)
  named = {{jax.tree_util.keystr(path): np.asarray(x).ravel().tolist() for path, x in leaves}}
  return {{'terms': {{'loss': float(total), **{{k: float(x) for k, x in terms.items()}}}}, 'gradients': named}}

def uniformerv2(devices):
  # BatchNorm takes its statistics, and gradients through them, over all devices' clips; one clip a device.
  trunk = UniFormerV2(
    hidden_size=8, num_layers=1, num_heads=2, mlp_dim=8, patch_size=8, global_layers=1,
    temporal_module='local_mhra', temporal_downsampling=True, global_dropout_rate=0.0,
  )
  rng = np.random.default_rng(0)
  clips = (rng.normal(size=(8, 4, 16, 16, 3)) + np.arange(8).reshape(8, 1, 1, 1, 1)).astype(np.float32)
  mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
  shapes = nn.meta.unbox(jax.eval_shape(lambda: trunk.init(jax.random.key(0), clips[:1], train=False)))
  draw = lambda x: rng.normal(scale=0.3, size=x.shape).astype(np.float32)
  params = jax.tree.map(draw, shapes['params'])
  statistics = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes['batch_stats'])

  def loss(params, clips):
    variables = {{'params': params, 'batch_stats': statistics}}
    features, state = trunk.apply(variables, clips, train=True, mutable=['batch_stats'])
    return (features.pooled ** 2).sum(), (features.tokens, state['batch_stats'])

  step = on_mesh(mesh, jax.value_and_grad(loss, has_aux=True))
  run = jax.jit(step, in_shardings=(replicated(mesh), batch_sharding(mesh)))
  leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(run(params, clips)))
  return {{jax.tree_util.keystr(path): x.ravel().tolist() for path, x in leaves}}

one, _ = augmented(1)
eight, collectives = augmented(8)
print(json.dumps({{
  'multitrain': [multitrain(1), multitrain(8)],
  'uniformerv2': [uniformerv2(1), uniformerv2(8)],
  'augmented': {{
    'collectives': collectives,
    'different': float(np.mean(np.abs(one - eight) > 1e-5)),
    'examples': len({{x.tobytes() for x in one}}),
  }},
  'frozen': losses({{'fsdp': 4}}, 8, ('^trunk/',), steps=1),
  '1': losses({{}}, 1),
  '8x1x1': losses({{}}, 8),
  '2x4x1': losses({{'fsdp': 4}}, 8),
  '2x2x2': losses({{'fsdp': 2, 'tensor': 2}}, 8),
}}))
"""


def test_one_program_on_every_mesh(demo_data_dir):
  # One test: the child compiles ten programs, which parallel test workers would do once each.
  source = PROGRAM.format(root=str(ROOT), here=str(Path(__file__).parent), data=str(demo_data_dir))
  settings = {
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=8',
  }
  done = subprocess.run(
    [sys.executable, '-c', source],
    capture_output=True,
    text=True,
    timeout=1200,
    env={**os.environ, **settings},
  )
  assert done.returncode == 0, done.stderr[-3000:]
  results = json.loads(done.stdout.splitlines()[-1])
  augmented = results.pop('augmented')
  alone, shared = results.pop('uniformerv2')
  assert sum('norm' in name and ('mean' in name or 'var' in name) for name in alone) == 2
  for name, values in alone.items():
    assert shared[name] == pytest.approx(values, rel=1e-3, abs=1e-4), name
  alone, shared = results.pop('multitrain')
  assert len(alone['terms']) == 7 and len(alone['gradients']) == 11
  assert shared['terms'] == pytest.approx(alone['terms'], rel=1e-5)
  for name, gradient in alone['gradients'].items():
    assert shared['gradients'][name] == pytest.approx(gradient, rel=1e-4, abs=1e-5), name
  one, part = results['1'], results.pop('frozen')
  assert part['losses'] == pytest.approx(one['losses'][:1], rel=5e-5)
  assert 0 < part['norms'][0] < one['norms'][0]
  assert (part['moved'], part['shard'], part['slots']) == (False, [2, 8], 6)
  assert one['moved'] and one['slots'] > 6
  assert len(set(one['losses'])) == 20
  for mesh in ('8x1x1', '2x4x1', '2x2x2'):
    # Sums over devices are in another order: seen up to 7e-6 and 6e-4.
    assert results[mesh]['losses'] == pytest.approx(one['losses'], rel=5e-5), mesh
    assert results[mesh]['norms'] == pytest.approx(one['norms'], rel=5e-3), mesh
  shards = {mesh: run['shard'] for mesh, run in results.items()}
  assert shards == {'1': [8, 8], '8x1x1': [8, 8], '2x4x1': [2, 8], '2x2x2': [4, 4]}
  assert augmented['collectives'] == []
  assert augmented['examples'] == 8
  # Other shapes are compiled otherwise: where a byte is cut, it may be the next one.
  assert augmented['different'] < 0.01
