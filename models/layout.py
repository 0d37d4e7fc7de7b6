"""How activations lie on the device mesh that a program is traced for."""

import jax
from jax.sharding import PartitionSpec

# The axes of `train_lib.mesh` that examples are split over.
BATCH_AXES = ('data', 'fsdp')


def axes_dividing(size: int, names: tuple[str, ...]) -> tuple[str, ...] | None:
  """`names` where an array's axis of `size` can be split over those axes of the ambient mesh.

  None outside a program, where the mesh has one device on these axes, and where `size` does not
  divide: parameters are initialised with a batch of one.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return None
  ways = 1
  for name in names:
    ways *= mesh.shape[name]
  return names if ways > 1 and size % ways == 0 else None


def split_batch(x: jax.Array) -> jax.Array:
  """Keeps the leading axis of an activation [B, ...] split over data and fsdp.

  Left to itself, the compiler may follow a parameter that is split over fsdp, and move activations
  between devices instead of gathering the parameter. The other axes are the compiler's choice.
  """
  axes = axes_dividing(x.shape[0], BATCH_AXES)
  if axes is None:
    return x
  free = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
  return jax.lax.with_sharding_constraint(x, PartitionSpec(axes, *free))
