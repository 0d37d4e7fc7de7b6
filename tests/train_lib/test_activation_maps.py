"""Maps are what their formula says, on the tokens of every trunk."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict

from errors import ConfigError
from models.heads import LinearHead
from models.video_model import VideoModel
from models.vivit import ViViT
from projects.multitrain.mvit import MViT
from projects.tubevit.tubes import Tube
from projects.tubevit.tubevit import TubeViT
from projects.uniformerv2.uniformerv2 import UniFormerV2
from tests.train_lib.fake_models import MeanPixelTrunk
from train_lib import activation_maps
from train_lib.activation_maps import Layer

CLIP = (1, 4, 16, 16, 3)
ENCODER = {'hidden_size': 8, 'num_layers': 2, 'num_heads': 2, 'mlp_dim': 8}
TUBES = {
  'a': Tube(kernel=(2, 4, 4), stride=(2, 8, 8), offset=(1, 0, 0)),
  'b': Tube(kernel=(1, 8, 8), stride=(4, 8, 8)),
}


def vivit(attention='spacetime', pooling='mean', **fields):
  return ViViT(**ENCODER, tubelet=(2, 8, 8), attention=attention, pooling=pooling, **fields)


def with_head(trunk, **fields):
  head = LinearHead(num_classes=3, kernel_init='lecun_normal', **fields)
  return VideoModel(trunk=trunk, heads=FrozenDict({'action': head}))


def variables_of(model):
  """Of random numbers, so that nothing is zero."""
  made = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(CLIP), train=False))
  shapes = flax.core.unfreeze(flax.linen.meta.unbox(made))
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)


def layers_of(trunk):
  model = with_head(trunk)
  made = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(CLIP), train=False))
  return activation_maps.layers_of(model, flax.linen.meta.unbox(made), CLIP)


def test_of_a_mean_pooled_linear_classifier_it_is_the_class_activation_map():
  model = with_head(vivit())
  variables = variables_of(model)
  video = jnp.asarray(np.random.default_rng(1).normal(size=CLIP), jnp.float32)
  layers = activation_maps.layers_of(model, variables, CLIP)
  assert [layer.name for layer in layers] == ['1', '2', 'norm']
  found = activation_maps.make_maps(model, 'action', layers[-1:])(variables, video, 2)[0]
  features, _ = model.apply(variables, video, train=False)
  weights = variables['params']['heads_action']['output_projection']['kernel'][:, 2]
  cam = (features.tokens[0] @ weights).reshape(2, 2, 2)
  assert 0 < (cam > 0).sum() < 8
  np.testing.assert_allclose(8 * found, np.maximum(cam, 0), rtol=1e-4, atol=1e-6)


def test_the_gradient_is_that_of_the_class():
  """A small step along a token's activations changes the logit by what the map says."""
  model = with_head(vivit())
  variables = variables_of(model)
  video = jnp.asarray(np.random.default_rng(2).normal(size=CLIP), jnp.float32)
  layer = activation_maps.layers_of(model, variables, CLIP)[0]
  found = activation_maps.make_maps(model, 'action', [layer])(variables, video, 1)[0]
  place = np.unravel_index(np.argmax(found), (2, 2, 2))
  token = int(np.ravel_multi_index(place, (2, 2, 2)))

  def logit(step):
    def scale(next_fun, args, kwargs, context):
      out = next_fun(*args, **kwargs)
      if tuple(context.module.path) != layer.path or context.method_name != '__call__':
        return out
      return out.at[0, token].multiply(1 + step)

    with flax.linen.intercept_methods(scale):
      return model.apply(variables, video, train=False)[1]['action'][0, 1]

  slope = (logit(1e-2) - logit(-1e-2)) / 2e-2
  np.testing.assert_allclose(found[place], slope, rtol=2e-2)


@pytest.mark.parametrize(
  ('trunk', 'shapes'),
  [
    (vivit(), [(1, 8, 8)] * 3),
    (vivit(pooling='token'), [(1, 9, 8)] * 3),
    (vivit('factorised_self_attention'), [(1, 2, 4, 8)] * 2 + [(1, 8, 8)]),
    (vivit('factorised_dot_product'), [(1, 8, 8)] * 3),
    (  # The temporal encoder's blocks see frames.
      vivit('factorised_encoder', 'token', temporal_num_layers=1),
      [(1, 2, 5, 8)] * 3,
    ),
    (
      vivit('factorised_encoder', 'token', temporal_num_layers=1, temporal_context='position'),
      [(1, 2, 5, 8)] * 3,
    ),
  ],
)
def test_layers_of_vivit(trunk, shapes):
  layers = layers_of(trunk)
  assert [layer.name for layer in layers] == ['1', '2', 'norm']
  assert [layer.shape for layer in layers] == shapes
  assert {layer.grid for layer in layers} == {(2, 2, 2)}


@pytest.mark.parametrize(
  'fields',
  [
    {},
    {'temporal_module': 'local_mhra', 'local_repeats': 2},
    {'temporal_module': 'attention'},
    {'temporal_module': 'joint'},
    {'global_layers': 0, 'output': 'class', 'temporal_module': 'transformer'},
  ],
)
def test_layers_of_uniformerv2(fields):
  fields = {'global_layers': 1, **fields}
  layers = layers_of(UniFormerV2(**ENCODER, patch_size=8, **fields))
  shape = (1, 20, 8) if fields.get('temporal_module') == 'joint' else (1, 4, 5, 8)
  of_keys = [('global_0', 'LayerNorm_context')] * fields['global_layers']
  assert [layer.path[-2:] for layer in layers] == [
    ('encoderblock_0', 'LayerNorm_0'),
    ('encoderblock_1', 'LayerNorm_0'),
    *of_keys,
  ]
  assert [layer.name for layer in layers] == ['1', '2', *['global 1'] * len(of_keys)]
  assert {(layer.shape, layer.grid) for layer in layers[:2]} == {(shape, (4, 2, 2))}
  assert {(layer.shape, layer.grid) for layer in layers[2:]} <= {((1, 20, 8), (4, 2, 2))}
  assert {layer.rows for layer in layers} == {4}


@pytest.mark.parametrize(
  ('fusion', 'before'),
  [('sequential', 0), ('parallel', 0), ('hierarchical_kv', 3), ('hierarchical_q', 0)],
)
def test_keys_that_are_of_no_frame(fusion, before):
  trunk = UniFormerV2(**ENCODER, patch_size=8, global_layers=2, fusion=fusion, num_queries=3)
  first, second = layers_of(trunk)[2:]
  assert (first.name, first.before, first.rows) == ('global 1', 0, 4)
  assert (second.name, second.before, second.rows) == ('global 2', before, 4)
  numbers = jnp.concatenate([-jnp.ones(before), jnp.arange(20.0)])
  found = activation_maps._map(second, numbers[None])
  assert found.ravel().tolist() == [n for n in range(20) if n % 5]


def evidence_in_the_residual_stream(model):
  """Attention within frames adds nothing, and a grey patch's token is 0 everywhere."""
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    names = [key.key for key in path]
    if names[-1] in ('bias', 'pos_embedding', 'cls') or names[-2] == 'out':
      wanted = 'global_0' in names and names[-1] == 'kernel'
      return rng.normal(0, 0.3, leaf.shape).astype(np.float32) if wanted else np.zeros(leaf.shape)
    if names[-1] == 'scale':
      return np.ones(leaf.shape, np.float32)
    return rng.normal(0, 0.3, leaf.shape).astype(np.float32)

  variables = jax.tree_util.tree_map_with_path(draw, variables_of(model))
  kernel = variables['params']['heads_action']['output_projection']['kernel']
  kernel[:, 1] = -kernel[:, 0]
  return variables


@pytest.mark.parametrize('output', ['fused', 'global'])
def test_what_global_blocks_alone_see_is_found(output):
  """The patch with something on it, for one of two classes that read opposite signs."""
  trunk = UniFormerV2(**ENCODER, patch_size=8, global_layers=1, global_dpe=False, output=output)
  model = with_head(trunk)
  variables = evidence_in_the_residual_stream(model)
  video = jnp.zeros(CLIP).at[:, 2, 8:, :8].set(jnp.linspace(-1, 1, 8 * 8 * 3).reshape(8, 8, 3))
  layers = activation_maps.layers_of(model, variables, CLIP)
  maps = activation_maps.make_maps(model, 'action', layers)
  found = np.stack([maps(variables, video, index) for index in (0, 1)])  # [class, layer, t, h, w]
  assert not found[:, :2].any()
  assert np.argwhere(found[:, 2].sum(0)).tolist() == [[2, 1, 0]]
  assert (found[:, 2].sum((1, 2, 3)) > 0).sum() == 1


@pytest.mark.parametrize(
  'trunk',
  [
    vivit(),
    UniFormerV2(**ENCODER, patch_size=8, global_layers=2, fusion='hierarchical_kv'),
  ],
)
def test_maps_do_not_depend_on_what_is_computed_again(trunk):
  kept, again = with_head(trunk), with_head(trunk.clone(remat='full'))
  variables = variables_of(kept)
  video = jnp.asarray(np.random.default_rng(1).normal(size=CLIP), jnp.float32)
  layers = activation_maps.layers_of(kept, variables, CLIP)
  remade = activation_maps.layers_of(again, variables, CLIP)
  assert [layer.path for layer in remade] == [layer.path for layer in layers]
  found, memory = [], []
  for model in (kept, again):
    lowered = activation_maps.make_maps(model, 'action', layers).lower(variables, video, 1)
    maps = lowered.compile()
    found.append([maps(variables, video, index) for index in range(3)])
    memory.append(maps.memory_analysis().temp_size_in_bytes)
  assert all(any(map_.any() for map_ in of_classes) for of_classes in zip(*found[0]))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), *found)
  assert memory[1] < memory[0]


def test_layers_of_a_trunk_that_shrinks_its_grid():
  layers = layers_of(
    MViT(
      hidden_sizes=(4, 8),
      num_layers=(1, 2),
      num_heads=(1, 2),
      query_strides=((1, 1, 1), (1, 2, 2)),
      key_value_strides=((1, 2, 2), (1, 1, 1)),
      patch_kernel=(3, 5, 5),
      patch_stride=(2, 4, 4),
    )
  )
  assert [(layer.name, layer.grid) for layer in layers] == [
    ('1', (2, 4, 4)),
    ('2', (2, 4, 4)),
    ('3', (2, 2, 2)),
    ('norm', (2, 2, 2)),
  ]


def test_layers_of_a_trunk_of_tubes():
  layers = layers_of(TubeViT(**ENCODER, tubes=TUBES))
  assert [(layer.name, layer.shape, layer.grid) for layer in layers] == [
    (name, (1, 9, 8), None) for name in ('1', '2', 'norm')
  ]
  assert layers[0].num_patches == 8
  boxes = layers[0].boxes.tolist()
  assert boxes[1] == [[1, 0, 8], [3, 4, 12]]
  assert boxes[4:6] == [[[0, 0, 0], [1, 8, 8]], [[0, 0, 8], [1, 8, 16]]]


class NoBlocks(MeanPixelTrunk):
  def grid(self, input_shape):
    return 1, 1, 1


def test_a_trunk_without_blocks_is_refused():
  with pytest.raises(ConfigError, match=r'NoBlocks has no block called encoderblock_I'):
    layers_of(NoBlocks())


@pytest.mark.parametrize(
  ('shape', 'rows'),
  [
    ((1, 8, 4), 1),
    ((1, 9, 4), 1),
    ((1, 10, 4), 2),  # A class token before each frame.
    ((1, 2, 4, 4), 1),
    ((1, 2, 5, 4), 2),
    ((1, 4, 3, 4), None),  # Frames at each place.
    ((1, 3, 4), None),
    ((1, 11, 4), None),
  ],
)
def test_rows_of_patches(shape, rows):
  assert Layer('1', (), shape, (2, 2, 2), None).rows == rows


def test_class_tokens_have_no_place_in_a_map():
  numbers = np.arange(10, dtype=np.float32).reshape(1, 10, 1)
  one = Layer('1', (), (1, 10, 1), (2, 2, 2), None)
  found = activation_maps._map(one, jnp.asarray(numbers)[..., 0])
  assert found.ravel().tolist() == [1, 2, 3, 4, 6, 7, 8, 9]


def layer(name, grid=(1, 1, 2), boxes=None):
  return Layer(name, ('trunk', name), (1, 2, 4), grid, boxes)


def test_choice_of_layers():
  layers = [layer(name) for name in ('1', '2', '3', '4', 'norm')]

  def names(wanted, every):
    return [chosen.name for chosen in activation_maps.choose(layers, wanted, every)]

  assert names([], 3) == ['1', '4', 'norm']
  assert names([], 2) == ['2', '4', 'norm']
  assert names(['norm', '3'], 1) == ['3', 'norm']
  assert names(['block 3'], 1) == ['3']
  with pytest.raises(ConfigError, match=r"--layers has \['5', 'x'\]; the model has 1, 2, 3, 4, n"):
    names(['5', '1', 'x'], 1)


def test_global_blocks_are_chosen_for_themselves():
  layers = [layer(name) for name in ('1', '2', '3', '4', *(f'global {i}' for i in range(1, 6)))]
  chosen = activation_maps.choose(layers, [], 3)
  assert [layer.name for layer in chosen] == ['1', '4', 'global 2', 'global 5']
  assert [activation_maps.title(layer.name) for layer in chosen[1:3]] == ['block 4', 'global 2']


def test_a_map_over_the_pixels_of_a_clip():
  values = np.array([[[2.0, 4.0]]], np.float32)
  heat = activation_maps.spread(layer('1'), values, (2, 1, 4))
  assert heat.tolist() == [[[0.5, 0.625, 0.875, 1.0]]] * 2
  assert activation_maps.spread(layer('1'), 0 * values, (2, 1, 4)).max() == 0


def test_tokens_with_boxes_are_painted_where_they_see():
  boxes = np.array([[[0, 0, 0], [1, 1, 2]], [[0, 0, 1], [2, 1, 3]], [[-1, 0, 0], [1, 1, 9]]])
  heat = activation_maps.spread(layer('1', None, boxes[:2]), np.array([4.0, 2.0]), (2, 1, 4))
  assert heat.tolist() == [[[1, 0.75, 0.5, 0]], [[0, 0.5, 0.5, 0]]]
  beyond = activation_maps.spread(layer('1', None, boxes[2:]), np.array([3.0]), (2, 1, 4))
  assert beyond.tolist() == [[[1, 1, 1, 1]], [[0, 0, 0, 0]]]
