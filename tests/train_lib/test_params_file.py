"""A run's parameters in one file, and back through `init_from`."""

import jax
import numpy as np
import pytest

from errors import CheckpointMismatchError, ConfigError
from train_lib import checkpoint, initial, params_file, weight_files
from train_lib.experiment import CheckpointConfig
from train_lib.state import TrainState


@pytest.fixture
def exported(tiny_config, build, tmp_path):
  """A program, a workdir with checkpoints of steps 1 and 2, and the export of step 1."""
  program = build(tiny_config)[0]
  meta = {
    'class_names': {'motion': list(program.facts.class_names['motion'])},
    'preprocessing': {},
  }
  checkpointer = checkpoint.Checkpointer(tmp_path / 'run', CheckpointConfig('1 step'))
  for step in (1, 2):
    average = jax.tree.map(
      lambda leaf, step=step: np.full(leaf.shape, step / 4, leaf.dtype),
      program.abstract_state.params,
    )
    params = jax.tree.map(lambda leaf: leaf * 4, average)
    state = TrainState(np.int32(step), params, (), {}, average, np.int32(0))
    checkpointer.save(state, meta, None)
  checkpointer.close()
  path = tmp_path / 'out' / 'params.npz'
  count = params_file.write(path, *checkpoint.load_params(str(tmp_path / 'run'), 1))
  assert count == sum(leaf.size for leaf in jax.tree.leaves(program.abstract_state.params))
  return program, tmp_path / 'run', path


def test_what_was_exported_starts_a_run(exported, tiny_config, build):
  _, _, path = exported
  tiny_config.init_from.update({'path': str(path), 'load_head': True})
  program = build(tiny_config)[0]
  weights = initial.read_weights(program, whole=True)
  params, report = initial.load_pretrained(
    program.abstract_state.params,
    weights,
    grid=program.position_grid,
    options=program.experiment.init_from,
  )
  assert all((leaf == 0.25).all() for leaf in jax.tree.leaves(params))  # The average, of step 1.
  assert report.count('new', 'skipped') == 0
  assert [p.name for p in path.parent.iterdir()] == ['params.npz']


def test_heads_of_other_classes_are_refused_as_from_a_run(exported, tiny_config, build):
  _, run, path = exported
  params, meta = checkpoint.load_params(str(run))
  meta['class_names']['motion'][3] = 'stands still'
  params_file.write(path, params, meta)
  tiny_config.init_from.update({'path': str(path), 'load_head': True})
  with pytest.raises(CheckpointMismatchError, match=r"class 3 of task 'motion' is 'stands still'"):
    initial.read_weights(build(tiny_config)[0])


def test_a_step_that_is_not_there_is_an_error(exported):
  _, run, _ = exported
  with pytest.raises(CheckpointMismatchError, match=r'complete checkpoint of step 7 .*\[1, 2\]'):
    checkpoint.load_params(str(run), 7)


def test_the_name_and_the_folder_are_checked(tmp_path):
  with pytest.raises(ConfigError, match=r"ends in .npz or .safetensors, got '.bin'"):
    params_file.write(tmp_path / 'params.bin', {}, {})
  (tmp_path / 'file').write_text('in the way')
  with pytest.raises(ConfigError, match=r'params.npz cannot be written: '):
    params_file.write(tmp_path / 'file' / 'params.npz', {}, {})


def test_weights_from_elsewhere_have_no_meta(tmp_path):
  np.savez(tmp_path / 'other.npz', a=np.zeros(1))
  assert params_file.read_meta(str(tmp_path / 'other.npz')) is None


def test_both_kinds_of_file_are_one(exported):
  _, run, path = exported
  params, meta = checkpoint.load_params(str(run), 1)
  params_file.write(path.with_suffix('.safetensors'), params, meta)
  other = str(path.with_suffix('.safetensors'))
  assert params_file.read_meta(other) == params_file.read_meta(str(path)) == meta
  expected, found = weight_files.read_arrays(str(path)), weight_files.read_arrays(other)
  assert found.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(found[name], array)
  (path.parent / 'cut.safetensors').write_bytes(path.with_suffix('.safetensors').read_bytes()[:-4])
  with pytest.raises(CheckpointMismatchError, match=r'cut\.safetensors. cannot be read .*whole\.'):
    weight_files.read_arrays(str(path.parent / 'cut.safetensors'))
