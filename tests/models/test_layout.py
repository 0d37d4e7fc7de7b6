"""Activations stay split over the batch axes of the mesh."""

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from models.layout import BATCH_AXES, axes_dividing, split_batch

FREE = PartitionSpec.UNCONSTRAINED


def mesh(*sizes):
  return AbstractMesh(sizes, ('data', 'fsdp', 'tensor'), axis_types=(AxisType.Auto,) * 3)


def constraints(batch, *sizes):
  """Specs that `split_batch` puts on an activation [batch, 3, 4] of a program on such a mesh."""

  def traced(x):
    with jax.sharding.use_abstract_mesh(mesh(*sizes)):
      return split_batch(x)

  jaxpr = jax.make_jaxpr(traced)(jax.ShapeDtypeStruct((batch, 3, 4), jnp.float32))
  return [equation.params['sharding'].spec for equation in jaxpr.eqns]


def test_examples_are_split_where_they_divide():
  assert constraints(8, 2, 2, 2) == [PartitionSpec(BATCH_AXES, FREE, FREE)]
  assert constraints(8, 1, 8, 1) == [PartitionSpec(BATCH_AXES, FREE, FREE)]
  assert constraints(1, 2, 2, 2) == []  # The batch that parameters are initialised with.
  assert constraints(6, 2, 2, 2) == []
  assert constraints(8, 1, 1, 8) == []


def test_outside_a_program_nothing_is_split():
  x = jnp.ones((8, 3))
  assert split_batch(x) is x
  assert axes_dividing(8, BATCH_AXES) is None


def test_heads_are_split_where_they_divide():
  with jax.sharding.use_abstract_mesh(mesh(1, 1, 2)):
    assert axes_dividing(4, ('tensor',)) == ('tensor',)
    assert axes_dividing(3, ('tensor',)) is None
