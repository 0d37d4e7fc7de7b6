"""The ViViT trunk's token grid for heads that read it: its temporal context and its positions."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errors import ConfigError
from models import layers
from models.vivit import ViViT
from train_lib.pretrained_fit import resize_table

TINY = {'hidden_size': 16, 'num_layers': 1, 'num_heads': 2, 'mlp_dim': 32, 'tubelet': (2, 4, 4)}
JOINT = {'attention': 'spacetime', 'pooling': 'token'}
FACTORISED = {'attention': 'factorised_encoder', 'pooling': 'token', 'temporal_num_layers': 1}


def tiny(**fields):
  return ViViT(**{**TINY, **fields})


def random_variables(module, x):
  """Unboxed variables without zeros; no compilation."""
  init = functools.partial(module.init, train=False)
  boxed = jax.eval_shape(init, jax.random.key(0), x)
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: 0.3 * rng.normal(size=leaf.shape).astype(np.float32), flax.core.meta.unbox(boxed)
  )


def video(*shape):
  return jnp.asarray(np.random.default_rng(1).uniform(-1, 1, shape), jnp.float32)


def run(trunk, variables, x):
  with jax.default_matmul_precision('highest'):
    return jax.jit(functools.partial(trunk.apply, train=False))(variables, x)


CONTEXTS = ('none', 'frame', 'position')


@pytest.fixture(scope='module')
def contexts():
  """A clip of tokens (3, 2, 1) through each kind of context: features, and tokens [3, 2, 16]."""
  x = video(1, 6, 8, 4, 3)
  trunks = {c: tiny(**FACTORISED, temporal_context=c) for c in CONTEXTS}
  variables = random_variables(trunks['none'], x)
  features = {c: run(trunk, variables, x) for c, trunk in trunks.items()}
  changed = {c: run(trunk, variables, x.at[:, 4:].add(1.0)) for c, trunk in trunks.items()}
  return features, changed


def grid_of(features):
  return np.asarray(features.tokens).reshape(*features.grid, -1)


@pytest.mark.parametrize('context', CONTEXTS)
def test_the_clips_representation_does_not_depend_on_the_context(context, contexts):
  features, _ = contexts
  assert features[context].tokens.shape == (1, 6, 16)
  np.testing.assert_allclose(features[context].pooled, features['none'].pooled, atol=1e-5)


@pytest.mark.parametrize(
  ('context', 'sees'), [('none', [False, False, True]), ('frame', True), ('position', True)]
)
def test_which_tokens_see_a_change_in_the_last_frame(context, sees, contexts):
  before, after = (grid_of(features[context]) for features in contexts)
  moved = np.abs(after - before).max(axis=(1, 2, 3)) > 1e-4
  np.testing.assert_array_equal(moved, np.broadcast_to(sees, 3))


def test_frame_context_is_one_vector_a_frame(contexts):
  features, _ = contexts
  context = grid_of(features['frame']) - grid_of(features['none'])
  np.testing.assert_allclose(context, np.broadcast_to(context[:, :1], context.shape), atol=1e-5)
  assert np.abs(context[0] - context[1]).max() > 1e-2


def test_position_context_is_the_temporal_encoder_at_each_place():
  """With one place and mean pooling, frames are represented by their only token."""
  x = video(1, 6, 4, 4, 3)
  fields = {**FACTORISED, 'pooling': 'mean', 'temporal_num_layers': 2}
  trunks = {c: tiny(**fields, temporal_context=c, scan_layers=c == 'position') for c in CONTEXTS}
  variables = random_variables(trunks['none'], x)
  tokens = {c: run(trunk, variables, x).tokens for c, trunk in trunks.items()}
  np.testing.assert_allclose(tokens['position'], tokens['frame'] - tokens['none'], atol=1e-5)


def test_stages_of_position_context():
  trunk = tiny(**FACTORISED, temporal_context='position')
  assert trunk.stages((1, 8, 16, 24, 3)) == [
    ('SpatialTransformer', 4, 25),
    ('TemporalTransformer', 25, 5),
  ]


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({**JOINT, 'temporal_context': 'frame'}, "attention='factorised_encoder'"),
    ({**FACTORISED, 'temporal_num_layers': 0, 'temporal_context': 'frame'}, 'at least 1'),
    ({**FACTORISED, 'temporal_context': 'clip'}, "temporal_context='clip'"),
    ({**JOINT, 'position_grid': (14, 14)}, r'\(nt, nh, nw\)'),
    ({**JOINT, 'position_grid': (0, 14, 14)}, 'each at least 1'),
  ],
)
def test_contradictory_attributes(fields, message):
  with pytest.raises(ConfigError, match=message):
    tiny(**fields)


TABLE_GRID = (2, 3, 4)
INPUT = (1, 6, 8, 20, 3)  # tokens on a grid of (3, 2, 5)
AXES = {
  'Transformer': slice(0, 3),
  'SpatialTransformer': slice(1, 3),
  'TemporalTransformer': slice(0, 1),
}


def with_resized_tables(params):
  """What `init_from.position_resize='bilinear'` makes of the tables for `INPUT`."""
  params = dict(params)
  for name in AXES.keys() & params.keys():
    sizes, target = TABLE_GRID[AXES[name]], (3, 2, 5)[AXES[name]]
    table = params[name]['posembed_input']['pos_embedding'][0]
    classes, cells = np.split(table, [len(table) - np.prod(sizes)])
    cells = resize_table(cells.reshape(*sizes, -1), target, 'bilinear')
    table = np.concatenate([classes, cells.reshape(-1, cells.shape[-1])])[None]
    params[name] = {**params[name], 'posembed_input': {'pos_embedding': table}}
  return {'params': params}


@pytest.mark.parametrize(
  ('fields', 'host_patches'),
  [
    (JOINT, False),
    ({**FACTORISED, 'num_layers': 2, 'scan_layers': True, 'remat': 'full'}, True),
    ({'attention': 'factorised_self_attention', 'pooling': 'mean'}, False),
  ],
)
def test_tables_for_another_grid_are_resized_as_a_checkpoints(fields, host_patches):
  trunk = tiny(**fields, position_grid=TABLE_GRID)
  own = tiny(**fields)
  x = video(*INPUT)
  shown = layers.cut_patches(x, TINY['tubelet']) if host_patches else x
  variables = random_variables(trunk, x)
  theirs = run(own, with_resized_tables(variables['params']), x)
  ours = run(trunk, variables, shown)
  assert ours.grid == (3, 2, 5)
  np.testing.assert_allclose(ours.tokens, theirs.tokens, atol=2e-5)
  np.testing.assert_allclose(ours.pooled, theirs.pooled, atol=2e-5)


def abstract(trunk, shape):
  init = functools.partial(trunk.init, train=False)
  x = jax.ShapeDtypeStruct(shape, jnp.float32)
  return flax.core.meta.unbox(jax.eval_shape(init, jax.random.key(0), x))


@pytest.mark.parametrize('fields', [JOINT, FACTORISED])
def test_parameters_are_those_of_the_tables_grid(fields):
  trunk = tiny(**fields, position_grid=TABLE_GRID)
  at_home = abstract(tiny(**fields), (1, 4, 12, 16, 3))
  assert abstract(trunk, INPUT) == abstract(trunk, (1, 4, 12, 16, 3)) == at_home


@pytest.mark.parametrize('fields', [JOINT, FACTORISED])
def test_nothing_is_resized_where_the_grids_agree(fields):
  x = jax.ShapeDtypeStruct((1, 4, 12, 16, 3), jnp.float32)

  def program(**position_grid):
    trunk = tiny(**fields, **position_grid)
    apply = functools.partial(trunk.apply, train=False)
    return str(jax.make_jaxpr(apply)(abstract(trunk, x.shape), x))

  assert program(position_grid=TABLE_GRID) == program()
  assert program(position_grid=[*TABLE_GRID]) == program()


@pytest.mark.parametrize('fields', [JOINT, FACTORISED])
def test_tables_for_another_grid_without_position_grid(fields):
  trunk = tiny(**fields)
  variables = abstract(trunk, (1, 4, 12, 16, 3))
  x = jax.ShapeDtypeStruct(INPUT, jnp.float32)
  with pytest.raises(
    ConfigError, match=r'posembed_input: the table has .* set trunk\.position_grid'
  ):
    jax.eval_shape(functools.partial(trunk.apply, train=False), variables, x)


@pytest.mark.parametrize(('rows', 'columns'), [(3, 5), (7, 2)])
def test_a_ramp_stays_a_ramp(rows, columns):
  """Positions that grow with the place grow as fast in another grid; at its edge they are held."""
  y, x = np.meshgrid(np.arange(4.0), np.arange(6.0), indexing='ij')
  table = np.stack([y, x, 2 * y - x], axis=-1).reshape(1, 24, 3)
  classes = np.full((1, 1, 3), 9.0)
  module = layers.PositionEmbedding(grid=(rows, columns), table_grid=(4, 6))
  params = {'pos_embedding': jnp.asarray(np.concatenate([classes, table], axis=1), jnp.float32)}
  out = jax.jit(module.apply)({'params': params}, jnp.zeros((1, 1 + rows * columns, 3)))
  centres = [
    np.clip((np.arange(n) + 0.5) * size / n - 0.5, 0, size - 1)
    for n, size in ((rows, 4), (columns, 6))
  ]
  y, x = np.meshgrid(*centres, indexing='ij')
  np.testing.assert_array_equal(out[:, :1], classes)
  expected = np.stack([y, x, 2 * y - x], axis=-1).reshape(1, -1, 3)
  np.testing.assert_allclose(out[:, 1:], expected, atol=1e-5)
