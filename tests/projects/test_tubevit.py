"""Tubes, their positions and tokens, the trunk's invariants, and what it refuses."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.tubevit import trunks
from configs.vivit import k400_base_fe
from errors import ConfigError
from models.heads import DetectionHead
from models.layers import LOGICAL_AXES
from projects.tubevit import positions
from projects.tubevit.tokenising import resized
from projects.tubevit.tubes import Tube, token_grids
from projects.tubevit.tubevit import TubeViT
from tests.projects.test_tubevit_weights import tokens_of
from tools import summary
from train_lib import data
from train_lib.experiment import parse
from train_lib.mesh import make_mesh
from train_lib.program import build_program

SIZES = {'hidden_size': 16, 'num_layers': 2, 'num_heads': 2, 'mlp_dim': 16}
TUBES = {
  'apart': Tube((2, 3, 3), (5, 4, 5), offset=(1, 2, 0)),
  'deep': Tube((3, 2, 2), (4, 6, 4), offset=(1, 0, 2), space_to_depth=(2, 3, 1)),
  'flat': Tube((1, 4, 4), (8, 4, 4)),
  'grown': Tube((6, 5, 7), (4, 4, 4), grown_from=(2, 4, 3)),
  'overlapping': Tube((6, 4, 5), (2, 3, 2), space_to_depth=(2, 1, 2)),
}
# Frames, height and width all differ.
CLIP = (2, 10, 12, 20, 3)


def trunk_of(tubes=TUBES, **fields):
  return TubeViT(**{**SIZES, 'hidden_size': 24, **fields}, tubes=tubes)


def randomised(trunk, shape=CLIP, seed=0):
  init = functools.partial(trunk.init, train=False)
  video = jax.ShapeDtypeStruct(shape, jnp.float32)
  shapes = flax.core.meta.unbox(jax.eval_shape(init, jax.random.key(0), video))['params']
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda x: 0.3 * rng.normal(size=x.shape).astype(np.float32), shapes)


def noise(shape=CLIP, seed=1):
  return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def run(trunk, params, video):
  with jax.default_matmul_precision('highest'):
    return jax.jit(functools.partial(trunk.apply, train=False))({'params': params}, video)


# Where tokens lie.


def test_table_3_from_the_summary():
  """The paper's column is the volume of a kernel times d: without the three colours, and as if
  space-to-depth left all d channels. Ours has both, and biases."""
  config = k400_base_fe.get_config()
  config.trunk = trunks.tubevit('B')
  published = {'a': (512, 98), 'b': (256, 147), 'c': (576, 98), 'd': (256, 196)}
  parts = {'a': 2, 'b': 4, 'c': 1, 'd': 1}
  values, table = summary.summarise(config)
  found = values['datasets']['kinetics400']
  assert found['tokenisers'] == [
    {'name': 'tube_a', 'tokens': 98, 'parameters': 590_208},
    {'name': 'tube_b', 'tokens': 147, 'parameters': 147_648},
    {'name': 'tube_c', 'tokens': 98, 'parameters': 1_327_872},
    {'name': 'tube_d', 'tokens': 196, 'parameters': 590_592},
  ]
  for row, (name, (volume, tokens)) in zip(found['tokenisers'], published.items()):
    channels = 768 // parts[name]
    assert row['tokens'] == tokens
    assert (row['parameters'] - channels) * parts[name] / 3 == volume * 768
    assert np.prod(trunks.TABLE3[name]['kernel']) == volume
  assert found['stages'] == [{'stage': 'Transformer', 'sequences': 1, 'tokens': 540}]
  assert '  all               539    2,656,320' in table
  assert values['parameters'] == 88_020_688


def test_64_frames_have_1176_tokens_in_the_summary():
  config = k400_base_fe.get_config()
  config.trunk = trunks.tubevit('B')
  config.datasets.kinetics400.clip.frames = 64
  values, table = summary.summarise(config)
  found = values['datasets']['kinetics400']
  assert [row['tokens'] for row in found['tokenisers']] == [196, 392, 196, 392]
  assert found['stages'] == [{'stage': 'Transformer', 'sequences': 1, 'tokens': 1177}]
  assert '  all             1,176    2,656,320' in table
  assert values['parameters'] == 88_020_688


@pytest.mark.parametrize(
  ('frames', 'tokens'), [(32, [98, 147, 98, 196]), (64, [196, 392, 196, 392]), (1, [0, 0, 0, 196])]
)
def test_tokens_of_table_3(frames, tokens):
  fields = trunks.tubevit('Ti').to_dict()
  tubes = {name: Tube(**tube) for name, tube in fields.pop('tubes').items()}
  del fields['name']
  trunk = TubeViT(**fields, tubes=tubes)
  shape = (frames, 224, 224, 3)
  assert [row[1] for row in trunk.tokenisers(shape)] == tokens
  assert trunk.stages(shape) == [('Transformer', 1, 1 + sum(tokens))]
  assert trunk.grid(shape) is None


@pytest.mark.parametrize('pooling', ['token', 'attention'])
def test_tokenisers_have_all_parameters_before_the_encoder(pooling):
  plain = {name: TUBES[name] for name in ('apart', 'flat')}
  for fields in ({}, {'tubes': plain, 'shared_kernel': (2, 2, 2)}):
    trunk = trunk_of(**fields, pooling=pooling)
    params = randomised(trunk)
    tokeniser = {k: v for k, v in params.items() if k.startswith(('tube_', 'shared'))}
    rows = trunk.tokenisers(CLIP)
    assert {name: size for name, _, size in rows} == {
      name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in tokeniser.items()
    }
    rest = {'Transformer', 'cls', *(['attention_pooling'] if pooling == 'attention' else [])}
    assert params.keys() - tokeniser.keys() == rest


def test_centres():
  """As the public code, index * stride + offset + kernel // 2, of all parts together."""
  np.testing.assert_array_equal(
    TUBES['apart'].centres((1, 2, 1)), [[1 + 1, 2 + 1, 1], [1 + 1, 2 + 4 + 1, 1]]
  )
  # 3 + 1 * 2 frames, 2 + 2 * 2 rows, 2 columns.
  assert TUBES['deep'].extent == (5, 6, 2)
  np.testing.assert_array_equal(TUBES['deep'].centres((1, 1, 1)), [[1 + 2, 3, 2 + 1]])


def test_growing_keeps_tokens_and_centres():
  base = Tube((2, 4, 3), TUBES['grown'].stride)
  grown = TUBES['grown']
  assert grown.grid(CLIP[1:4]) == base.grid(CLIP[1:4]) == (3, 3, 5)
  np.testing.assert_array_equal(grown.centres((3, 3, 5)), base.centres((3, 3, 5)))
  assert [s + k // 2 for s, k in zip(grown.start, grown.kernel)] == [1, 2, 1]


def test_a_kernel_grows_beyond_an_image_but_not_beyond_a_clip():
  tubes = {'d': Tube((1, 8, 8), (4, 4, 4), grown_from=(1, 4, 4))}
  assert token_grids(tubes, (1, 6, 6)) == {'d': (1, 1, 1)}
  assert token_grids(tubes, (2, 8, 8)) == {'d': (1, 2, 2)}
  for clip in ((2, 6, 8), (2, 8, 6)):
    with pytest.raises(ConfigError, match=r'trunk\.tubes\.d\.kernel=\(1, 8, 8\) is larger'):
      token_grids(tubes, clip)
  longer = {'a': Tube((4, 2, 2), (2, 2, 2), grown_from=(2, 2, 2))}
  with pytest.raises(ConfigError, match=r'trunk\.tubes\.a\.kernel=\(4, 2, 2\) is larger'):
    token_grids(longer, (3, 8, 8))


def test_positions():
  table = positions.table(np.array([[3, 5, 7]]), 16)
  angles = [c * w for c in (3, 5, 7) for w in (1.0, 0.01)]
  pairs = np.reshape(angles, (3, 2))
  waves = np.concatenate([np.sin(pairs), np.cos(pairs)], axis=1).ravel()
  np.testing.assert_allclose(table, [[*waves, 0, 0, 0, 0]], rtol=1e-6)


def test_inputs_share_coordinates():
  """Tokens at one place have one position, whatever the input's length, height and width."""
  tables = {}
  for clip in ((1, 32, 64), (32, 32, 64), (64, 48, 32)):
    for name, grid in token_grids({'d': Tube((1, 16, 16), (32, 16, 16))}, clip).items():
      rows = positions.table(Tube((1, 16, 16), (32, 16, 16)).centres(grid), 48)
      tables[clip] = rows.reshape(*grid, 48)
      assert name == 'd'
  image, wide, long = tables.values()
  assert (image.shape, wide.shape, long.shape) == ((1, 2, 4, 48), (1, 2, 4, 48), (2, 3, 2, 48))
  np.testing.assert_array_equal(image, wide)
  np.testing.assert_array_equal(image[:, :, :2], long[:1, :2])
  # Rows of the grid differ in the second third alone, columns in the last.
  changed = lambda a, b: sorted(set(np.flatnonzero(a != b) // 16))  # noqa: E731
  assert changed(image[0, 0, 0], image[0, 1, 0]) == [1]
  assert changed(image[0, 0, 0], image[0, 0, 1]) == [2]


# Tokens.


def naive(video, kernel, bias, tube):
  """One token after the other, [N, C]; the kernel is of the tube's shape."""
  padded = np.pad(video, [(9, 9)] * 3 + [(0, 0)])
  firsts = []
  for size, offset, extent, stride in zip(video.shape, tube.offset, tube.extent, tube.stride):
    firsts.append([i for i in range(offset, size, stride) if i + extent <= size])
  tokens = []
  for first in np.stack(np.meshgrid(*firsts, indexing='ij'), axis=-1).reshape(-1, 3):
    parts = []
    for part in np.ndindex(*tube.space_to_depth):
      corner = first + np.array(part) * np.array(tube.stride) // np.array(tube.space_to_depth)
      corner += np.array(tube.learned) // 2 - np.array(tube.kernel) // 2
      cells = tuple(slice(9 + c, 9 + c + k) for c, k in zip(corner, tube.kernel))
      parts.append(np.einsum('thwc,thwcd->d', padded[cells], kernel) + bias)
    tokens.append(np.concatenate(parts))
  return np.array(tokens)


def test_tokens_are_those_of_a_loop():
  trunk, video = trunk_of(), noise()
  params = randomised(trunk)
  found = tokens_of(trunk, params, video)
  assert {name: len(x) for name, x in found.items()} == {
    name: np.prod(tube.grid(CLIP[1:4])) for name, tube in TUBES.items()
  }
  for name, tube in TUBES.items():
    own = params[f'tube_{name}']
    kernel = np.asarray(resized(own['kernel'], tube.kernel, 'keep_sum'))
    expected = naive(video[0], kernel, own['bias'], tube)
    np.testing.assert_allclose(found[name], expected, atol=2e-5, err_msg=name)


@functools.cache
def flat():
  """A trunk whose tokens are of the first frame alone, and its parameters."""
  trunk = trunk_of({'flat': TUBES['flat']})
  return trunk, randomised(trunk)


def test_an_image_is_a_clip_of_one_frame():
  trunk, params = flat()
  video = noise((2, 8, 12, 20, 3))
  clip, image = run(trunk, params, video), run(trunk, params, video[:, :1])
  np.testing.assert_array_equal(image.tokens, clip.tokens)
  np.testing.assert_array_equal(image.pooled, clip.pooled)
  assert image.tokens.shape == (2, 15, 24)


def test_an_image_has_the_tokens_of_tubes_that_fit_it():
  trunk, video = trunk_of(), noise()
  params = randomised(trunk, (2, 1, 12, 20, 3))
  jax.tree.map(np.testing.assert_array_equal, params, randomised(trunk))
  clip, image = tokens_of(trunk, params, video), tokens_of(trunk, params, video[:, :1])
  assert image.keys() == {'flat'}
  # A product with other rows rounds otherwise.
  np.testing.assert_allclose(image['flat'], clip['flat'][:15], atol=3e-6)
  gradient = jax.grad(lambda p: run(trunk, p, video[:, :1]).pooled.sum())(params)
  norms = {name: float(np.abs(gradient[f'tube_{name}']['kernel']).max()) for name in TUBES}
  assert norms.pop('flat') > 0
  assert set(norms.values()) == {0.0}


SHAPES = ((8, 8, 8), (16, 4, 4), (4, 12, 12), (1, 16, 16), (32, 8, 8), (4, 32, 32), (3, 5, 2))


@pytest.mark.parametrize('shape', SHAPES)
def test_the_sum_over_places_is_kept(shape):
  """So that a constant clip has one token whatever the shape; the public code's grows with it."""
  kernel = noise((8, 8, 8, 3, 2))
  grown = resized(kernel, shape, 'keep_sum')
  assert grown.shape == (*shape, 3, 2)
  np.testing.assert_allclose(grown.sum((0, 1, 2)), kernel.sum((0, 1, 2)), atol=1e-4)
  constant = np.ones((8, 8, 8, 3, 2), np.float32)
  public = resized(constant, shape, 'trilinear').sum((0, 1, 2))
  np.testing.assert_allclose(public, np.prod(shape), rtol=1e-5)


def test_a_constant_clip_has_the_same_token_in_every_tube():
  tubes = {'a': Tube((4, 2, 2), (4, 4, 4)), 'b': Tube((1, 8, 6), (4, 4, 4))}
  trunk = trunk_of(tubes, shared_kernel=(2, 4, 4))
  params = randomised(trunk)
  params['tube_b']['bias'] = params['tube_a']['bias']
  tokens = tokens_of(trunk, params, np.full(CLIP, 0.7, np.float32))
  for found in tokens.values():
    np.testing.assert_allclose(found, np.tile(tokens['a'][0], (len(found), 1)), atol=2e-5)


@pytest.mark.parametrize('interpolation', ['keep_sum', 'trilinear'])
def test_the_own_shape_is_the_identity(interpolation):
  kernel = noise((3, 4, 5, 3, 2))
  np.testing.assert_array_equal(resized(kernel, (3, 4, 5), interpolation), kernel)
  tube, shape = TUBES['apart'], TUBES['apart'].kernel
  trunk = trunk_of({'a': tube}, interpolation=interpolation)
  grown = trunk_of({'a': Tube(shape, tube.stride, tube.offset, grown_from=shape)})
  params = randomised(trunk)
  np.testing.assert_array_equal(
    tokens_of(trunk, params, noise())['a'], tokens_of(grown, params, noise())['a']
  )


# The trunk.


def test_poolings():
  _, params = flat()
  kernel = noise((24, 1))
  results = {}
  for pooling in ('token', 'mean', 'attention'):
    trunk = trunk_of({'flat': TUBES['flat']}, pooling=pooling)
    own = {k: v for k, v in params.items() if k != 'cls' or pooling != 'mean'}
    if pooling == 'attention':
      own['attention_pooling'] = {'kernel': kernel, 'bias': np.ones(1, np.float32)}
    results[pooling] = run(trunk, own, noise((1, 1, 12, 20, 3)))
  np.testing.assert_allclose(results['mean'].pooled, results['mean'].tokens.mean(axis=1), atol=1e-6)
  token, attention = results['token'], results['attention']
  np.testing.assert_array_equal(token.tokens, attention.tokens)
  every = np.concatenate([token.pooled[:, None], token.tokens], axis=1)  # The class token's, too.
  weights = np.exp(every @ kernel)
  expected = (weights * every).sum(axis=1) / weights.sum(axis=1)
  np.testing.assert_allclose(attention.pooled, expected, atol=1e-5)


def test_scanned_layers_compute_the_same():
  trunk, params = flat()
  scanned = trunk.clone(scan_layers=True, remat='full')
  video = noise((1, 1, 12, 20, 3))
  np.testing.assert_allclose(
    run(scanned, params, video).pooled, run(trunk, params, video).pooled, atol=1e-5
  )


def test_bfloat16_and_gradients():
  trunk, params = trunk_of(pooling='attention'), randomised(trunk_of(pooling='attention'))

  @jax.jit
  def gradients(params):
    half = trunk.clone(dtype=jnp.bfloat16)
    loss = lambda params: half.apply({'params': params}, noise(), train=False).pooled.sum()  # noqa: E731
    return jax.grad(lambda params: loss(params).astype(jnp.float32))(params)

  found = gradients(params)
  assert {x.dtype for x in jax.tree.leaves(found)} == {np.dtype(np.float32)}
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
  # All but the bias of the attention pooling, which a softmax does not see.
  assert all(np.abs(found[f'tube_{name}']['kernel']).max() > 0 for name in TUBES)


def test_every_parameter_has_axes():
  trunk = trunk_of({'a': TUBES['apart']}, shared_kernel=(2, 2, 2), pooling='attention')
  init = functools.partial(trunk.init, train=False)
  boxed = jax.eval_shape(init, jax.random.key(0), jnp.zeros(CLIP))['params']
  boxes = jax.tree.leaves(boxed, is_leaf=lambda x: isinstance(x, flax.core.meta.AxisMetadata))
  assert all(isinstance(box, flax.core.meta.AxisMetadata) for box in boxes)
  assert {axis for box in boxes for axis in box.names} <= {None, *LOGICAL_AXES}
  assert boxed['shared_kernel'].names == (None, 'patch', None, None, 'embed')


# What it refuses, before anything is compiled.


def build(frames=32, images=False, **changes):
  """The program of a config, as every command builds it."""
  config = k400_base_fe.get_config()
  config.trunk = trunks.tubevit('Ti')
  config.datasets.kinetics400.clip.update({'frames': frames, 'crop': 64, 'resize': 64})
  if images:
    config.datasets.images = config.datasets.kinetics400.copy_and_resolve_references()
    config.datasets.images.clip.frames = 1
    config.tasks.images = config.tasks.kinetics400.copy_and_resolve_references()
    config.tasks.images.dataset = 'images'
  for key, value in changes.items():
    group = config.trunk
    *groups, name = key.split('__')
    for part in groups:
      group = group[part]
    group[name] = value
  experiment = parse(config)
  return build_program(experiment, data.facts_or_nominal(experiment), make_mesh(experiment.mesh))


def test_images_and_clips_in_one_program():
  """No grid has to be set: positions belong to no grid."""
  program = build(images=True)
  assert program.position_grid is None
  assert program.abstract_batch('images')['inputs'].shape == (64, 1, 64, 64, 3)


FLAT = trunks.TABLE3['d']
IMAGELESS = {name: tube for name, tube in trunks.TABLE3.items() if name != 'd'}


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'frames': 8}, r'trunk\.tubes\.a leaves no token: it covers .* \(16, 8, 8\), .*\(8, 64, 64\)'),
    ({'tubes__c__kernel': (4, 12, 80)}, r'trunk\.tubes\.c leaves no token: it covers'),
    ({'tubes__c__offset': (0, 0, 60)}, r'trunk\.tubes\.c .* from the offset \(0, 0, 60\)'),
    (
      {'tubes__c__kernel': (4, 80, 12), 'tubes__c__grown_from': (4, 12, 12)},
      r'trunk\.tubes\.c\.kernel=\(4, 80, 12\) is larger than the input, .*\(32, 64, 64\)',
    ),
    (
      {'tubes__d__kernel': (1, 80, 80), 'tubes__d__grown_from': (1, 16, 16), 'images': True},
      r'trunk\.tubes\.d\.kernel=\(1, 80, 80\) is larger',
    ),
    ({'tubes__a__kernel': (40, 8, 8)}, r'leaves no token.* or trunk\.tubes\.a\.kernel'),
    (
      {'tubes': {'a b': FLAT, 'x': FLAT, 'b/c': FLAT}},
      r"trunk\.tubes.* \['a b', 'b/c'\]: expected",
    ),
    (
      {'tubes__b__stride': (6, 150, 32)},
      r'trunk\.tubes\.b leaves no token: it covers .*\(16, 79, 20\)',
    ),
    (
      {'tubes': IMAGELESS, 'frames': 1},
      r"trunk\.tubes: .*image, .*\['a', 'b', 'c'\] fits one frame",
    ),
    ({'tubes': IMAGELESS, 'images': True}, r'trunk\.tubes: the input is an image'),
    ({'tubes__d__kernel': (1, 80, 16), 'images': True}, r'trunk\.tubes\.d leaves no token'),
    ({'tubes__a__stride': (16, 32)}, r'`trunk\.tubes\.a\.stride` must have 3 entries, got 2'),
    (
      {'tubes__a__stride': (16, 0, 32)},
      r'`trunk\.tubes\.a`: stride=\(16, 0, 32\): expected \(t, h, w\)',
    ),
    ({'tubes__a__offset': (-1, 0, 0)}, r'`trunk\.tubes\.a`: offset=\(-1, 0, 0\): .*at least 0'),
    (
      {'tubes__a__stride': (15, 32, 32)},
      r'`trunk\.tubes\.a`: stride=\(15, 32, 32\) is not divisible',
    ),
    (
      {'tubes__a__space_to_depth': (2, 2, 2), 'hidden_size': 36},
      r'trunk\.tubes\.a\.space_to_depth=.*8 parts.*=36',
    ),
    ({'hidden_size': 4, 'num_heads': 1}, r'trunk\.hidden_size=4: expected at least 6'),
    ({'num_heads': 5}, r'trunk\.num_heads=5 does not divide trunk\.hidden_size=192'),
    ({'pooling': 'max'}, r"trunk\.pooling='max': expected one of \('token', 'mean', 'attention'\)"),
    ({'interpolation': 'cubic'}, r"trunk\.interpolation='cubic': expected one of"),
    ({'tubes': {}}, r'trunk\.tubes is empty'),
    (
      {'shared_kernel': (8, 8, 8)},
      r'trunk\.tubes\.a\.space_to_depth=\(2, 1, 1\): trunk\.shared_kernel',
    ),
    ({'shared_kernel': (8, 0, 8)}, r'trunk\.shared_kernel=\(8, 0, 8\): expected'),
    ({'dropout_rate': 1.0}, r'trunk\.dropout_rate=1\.0: expected a rate'),
    (
      {'attention_kernel': 'fused', 'attention_dropout_rate': 0.1},
      r"trunk\.attention_kernel='fused' has no dropout",
    ),
  ],
)
def test_what_makes_no_program(changes, message):
  with pytest.raises(ConfigError, match=message):
    build(**changes)


def test_a_tube_alone_is_checked_too():
  with pytest.raises(ConfigError, match=r'kernel=\(0, 1, 1\): expected .* each at least 1'):
    Tube((0, 1, 1), (1, 1, 1))


def test_boxes_need_a_grid():
  trunk, params = flat()
  features = run(trunk, params, noise((1, 1, 12, 20, 3)))
  with pytest.raises(ConfigError, match='boxes need tokens on one grid'):
    DetectionHead(num_classes=3).init(
      jax.random.key(0), features, boxes=jnp.zeros((1, 1, 4)), train=False
    )
