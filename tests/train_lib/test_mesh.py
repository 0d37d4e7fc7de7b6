from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from errors import ConfigError, ShardingError
from train_lib import mesh as mesh_lib
from train_lib.experiment import MeshConfig
from train_lib.mesh import check_batch, host_places, make_mesh, on_mesh, state_shardings


def test_one_device_takes_every_axis():
  mesh = make_mesh(MeshConfig(), jax.devices()[:1])
  assert dict(mesh.shape) == {'data': 1, 'fsdp': 1, 'tensor': 1}
  assert host_places(mesh, 6).tolist() == list(range(6))


@pytest.mark.parametrize('sizes', [(2, 1, 1), (-1, -1, 1), (0, 1, 1), (-1, 2, 1)])
def test_sizes_that_do_not_lay_out_the_devices(sizes):
  with pytest.raises(ConfigError, match=r'`mesh` .*device'):
    make_mesh(MeshConfig(*sizes), jax.devices()[:1])


def test_every_logical_axis_has_a_rule():
  assert set(mesh_lib.RULES) == set(mesh_lib.LOGICAL_AXES)


def fake_mesh(**sizes):
  return SimpleNamespace(shape={'data': 1, 'fsdp': 1, 'tensor': 1, **sizes})


def test_a_batch_that_does_not_divide_is_named():
  with pytest.raises(ConfigError, match=r'`batch_size` 6 does not divide over 4 devices'):
    check_batch(fake_mesh(data=2, fsdp=2), 6, 'batch_size')


def boxed(axes):
  init = nn.with_logical_partitioning(jax.nn.initializers.ones, axes)
  return {'layer': {'kernel': jax.eval_shape(lambda: init(jax.random.key(0), (6, 4)))}}


def test_a_dimension_that_does_not_divide_names_the_parameter():
  with pytest.raises(
    ShardingError, match=r"layer/kernel: dimension 'embed' of size 6.*`mesh.fsdp`"
  ):
    state_shardings(boxed(('embed', 'mlp')), fake_mesh(fsdp=4))


def test_an_unknown_logical_axis_is_an_error():
  with pytest.raises(ShardingError, match=r"layer/kernel has unknown logical axes \['embd'\]"):
    state_shardings(boxed(('embd', 'mlp')), fake_mesh())


def test_unboxed_leaves_are_replicated():
  mesh = make_mesh(MeshConfig(), jax.devices()[:1])
  shardings = state_shardings({'step': jax.ShapeDtypeStruct((), jnp.int32)}, mesh)
  assert shardings['step'].is_fully_replicated


def test_traced_functions_see_the_mesh():
  mesh = make_mesh(MeshConfig())
  seen = []

  def function(x):
    seen.append(jax.sharding.get_abstract_mesh())
    return x

  jax.jit(on_mesh(mesh, function)).lower(jnp.ones(2))
  assert seen[0].axis_names == ('data', 'fsdp', 'tensor')
  assert seen[0].abstract_device.platform == 'cpu'
