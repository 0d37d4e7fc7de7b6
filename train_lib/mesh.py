"""The device mesh, and which axis of it each logical axis of a parameter is split over."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from errors import ConfigError, ShardingError
from models.layers import LOGICAL_AXES
from train_lib.experiment import MeshConfig

AXES = ('data', 'fsdp', 'tensor')

F = TypeVar('F', bound=Callable[..., Any])

# Logical axis of a parameter -> mesh axis. Flax silently replicates names it does not know, so
# `state_shardings` checks against `LOGICAL_AXES` first.
RULES: Mapping[str, str | None] = {
  'embed': 'fsdp',
  'mlp': 'tensor',
  'heads': 'tensor',
  'kv': None,
  'tokens': None,
  'patch': None,
  'classes': None,
  'layers': None,
}


def make_mesh(config: MeshConfig, devices: Iterable[jax.Device] | None = None) -> Mesh:
  """Lays out devices as `('data', 'fsdp', 'tensor')`; every mesh of the project is made here.

  Axes are Auto: under Explicit axes Linen's dropout, class-token concatenation and embedding
  lookups raise.

  Raises:
    ConfigError: The sizes do not multiply to the number of devices.
  """
  devices = list(jax.devices() if devices is None else devices)
  sizes = [config.data, config.fsdp, config.tensor]
  known = int(np.prod([s for s in sizes if s != -1]))
  if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes) or len(devices) % known:
    raise ConfigError(
      f'`mesh` {dict(zip(AXES, sizes))} does not lay out {len(devices)} devices: sizes must be '
      'positive, one may be -1, and they must multiply to the number of devices.'
    )
  sizes = [len(devices) // known if s == -1 else s for s in sizes]
  if int(np.prod(sizes)) != len(devices):
    raise ConfigError(
      f'`mesh` {dict(zip(AXES, sizes))} holds {int(np.prod(sizes))} devices, but there are '
      f'{len(devices)}. Set one axis to -1 to take the rest.'
    )
  # Neighbours on the mesh are neighbours on a TPU's torus. `jax.make_mesh` would refuse an axis that
  # is a part of one of the torus, such as fsdp=8 on v6e:16x16 or v4:4x4x4.
  grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
  return Mesh(grid, AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES))


def on_mesh(mesh: Mesh, function: F) -> F:
  """`function`, traced where `jax.sharding.get_abstract_mesh()` gives `mesh`.

  Modules learn from it which platform they are compiled for and how their inputs are laid out.
  """

  @functools.wraps(function)
  def wrapped(*args: Any) -> Any:
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return function(*args)

  return wrapped  # type: ignore[return-value]


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Splits the leading axis of an array over `data` and `fsdp`."""
  return NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))


def replicated(mesh: Mesh) -> NamedSharding:
  """A whole copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


@functools.lru_cache(maxsize=16)
def host_places(mesh: Mesh, batch_size: int) -> np.ndarray[Any, Any]:
  """Which places of a global batch this process reads: those its devices hold, ascending.

  Processes that differ only in `tensor` hold the same; on a pod slice, whose mesh follows the torus
  and not the hosts, the places of one need not lie together.
  """
  indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
  held = [np.arange(batch_size)[index] for index in indices if index is not None]
  return np.unique(np.concatenate(held))


def check_batch(mesh: Mesh, batch_size: int, path: str) -> None:
  """Raises `ConfigError` unless `batch_size` examples divide over the mesh's batch axes."""
  ways = mesh.shape['data'] * mesh.shape['fsdp']
  if batch_size % ways:
    raise ConfigError(
      f'`{path}` {batch_size} does not divide over {ways} devices '
      f'(mesh data={mesh.shape["data"]}, fsdp={mesh.shape["fsdp"]}). Use a multiple of {ways}.'
    )


def state_shardings(abstract_state: Any, mesh: Mesh) -> Any:
  """Shardings of a state whose leaves may be boxed with logical axis names.

  Args:
    abstract_state: Tree of `ShapeDtypeStruct`, boxed by `nn.with_logical_partitioning` where
      axes have names; unboxed leaves are replicated.
    mesh: From `make_mesh`.

  Returns:
    Tree of `NamedSharding` like the unboxed state.

  Raises:
    ShardingError: An unknown logical axis, or a dimension that the mesh does not divide; the
      message names the parameter.
  """
  specs = nn.get_partition_spec(abstract_state)
  shapes = nn.meta.unbox(abstract_state)

  def leaf(path: Any, shape: Any, spec: PartitionSpec) -> NamedSharding:
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    unknown = [a for a in spec if a is not None and a not in LOGICAL_AXES]
    if unknown:
      raise ShardingError(f'{name} has unknown logical axes {unknown}; known: {LOGICAL_AXES}.')
    axes = [None if a is None else RULES[a] for a in spec]
    for size, axis, logical in zip(shape.shape, axes, spec):
      if axis is not None and size % mesh.shape[axis]:
        raise ShardingError(
          f'{name}: dimension {logical!r} of size {size} does not divide over mesh axis '
          f'{axis!r} of {mesh.shape[axis]} devices. Change `mesh.{axis}` or the model size.'
        )
    return NamedSharding(mesh, PartitionSpec(*axes))

  return jax.tree_util.tree_map_with_path(leaf, shapes, specs)
