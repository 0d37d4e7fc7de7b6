"""Statistics of batch normalisation among the weights that a run starts from."""

import contextlib
import io
import json
import re

import flax
import jax
import numpy as np
import pytest

from train_lib import checkpoint, initial, params_file
from train_lib.experiment import CheckpointConfig
from train_lib.state import TrainState


@pytest.fixture
def program(tiny_config, build):
  """Of a trunk that keeps statistics."""
  tiny_config.trunk = {
    'name': 'projects.uniformerv2.uniformerv2:UniFormerV2',
    'hidden_size': 8,
    'num_layers': 1,
    'num_heads': 2,
    'mlp_dim': 8,
    'patch_size': 8,
    'temporal_module': 'local_mhra',
    'global_layers': 0,
    'output': 'class',
  }
  return build(tiny_config)[0]


@pytest.mark.parametrize('kind', ['run', 'file'])
def test_statistics_of_another_run(program, tiny_config, build, tmp_path, kind):
  rng = np.random.default_rng(0)
  params, statistics = (
    jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), tree)
    for tree in (program.abstract_state.params, program.abstract_state.model_state)
  )
  assert len(jax.tree.leaves(statistics)) == 2  # A mean and a variance.
  meta = {
    'class_names': {'motion': list(program.facts.class_names['motion'])},
    'preprocessing': {},
  }
  path = tmp_path / 'run'
  checkpointer = checkpoint.Checkpointer(path, CheckpointConfig('1 step'))
  state = TrainState(np.int32(1), params, (), statistics, None, np.int32(0))
  checkpointer.save(state, meta, None)
  checkpointer.close()
  if kind == 'file':
    path = tmp_path / 'exported.npz'
    count = params_file.write(path, *checkpoint.load_params(str(tmp_path / 'run')))
    assert count == sum(x.size for x in jax.tree.leaves(params))
  tiny_config.init_from.update({'path': str(path), 'load_head': True})
  other = build(tiny_config)[0]
  with contextlib.redirect_stdout(io.StringIO()) as printed:
    state = initial.fresh_state(other, initial.read_weights(other, whole=True))
  assert re.search('loaded +batch_stats/trunk', printed.getvalue())
  total = sum(x.size for x in jax.tree.leaves(params))
  assert f'{total:,} of {total:,} in the model are filled' in printed.getvalue()
  expected = jax.tree.leaves({'params': params, **statistics})
  assert all(map(np.array_equal, jax.tree.leaves(state.eval_variables), expected))


def test_what_no_array_tells_of_another_trunk_is_said(program, tiny_config, build, tmp_path):
  arrays = {
    path.removeprefix('trunk/'): np.zeros(leaf.shape, leaf.dtype)
    for path, leaf in flax.traverse_util.flatten_dict(
      {**program.abstract_state.params, **program.abstract_state.model_state}, sep='/'
    ).items()
  }
  path = str(tmp_path / 'exported.npz')
  trunk = {**json.loads(json.dumps(tiny_config.trunk.to_dict())), 'gelu': 'erf'}
  params_file.write_arrays(tmp_path / 'exported.npz', arrays, {'config': {'trunk': trunk}})
  tiny_config.init_from.path = path
  tiny_config.trunk.position_grid = (4, 2, 2)
  other = build(tiny_config)[0]
  with contextlib.redirect_stdout(io.StringIO()) as printed:
    initial.read_weights(other)
  assert printed.getvalue().splitlines() == [
    f'The trunk differs from that of {path}:',
    "  trunk.gelu: 'erf' -> absent",
    '  trunk.position_grid: absent -> [4, 2, 2]',
  ]
  trunk.pop('gelu')
  trunk['position_grid'] = [4, 2, 2]
  params_file.write_arrays(tmp_path / 'exported.npz', arrays, {'config': {'trunk': trunk}})
  with contextlib.redirect_stdout(io.StringIO()) as printed:
    initial.read_weights(other)
  assert printed.getvalue() == ''
