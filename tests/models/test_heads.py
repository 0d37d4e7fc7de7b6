"""Heads and the model that joins them to a trunk."""

import functools
import math

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errors import ConfigError
from models.features import Features
from models.heads import DetectionHead, LinearHead, MAPHead, MLPHead
from models.roi_align import roi_align
from models.video_model import VideoModel
from models.vivit import ViViT

FEATURES = Features(
  tokens=jax.random.normal(jax.random.key(0), (2, 4, 8)),
  pooled=jax.random.normal(jax.random.key(1), (2, 8)),
  grid=(1, 2, 2),
)


def init(head):
  run = jax.jit(functools.partial(head.init, train=False))
  return flax.core.meta.unbox(run(jax.random.key(0), FEATURES))


def test_zero_kernel_gives_the_bias():
  head = LinearHead(num_classes=3, bias_init=-4.5)
  logits = head.apply(init(head), FEATURES, train=False)
  np.testing.assert_array_equal(logits, np.full((2, 3), -4.5, np.float32))


def test_linear_head_is_pre_logits_tanh_projection():
  head = LinearHead(num_classes=3, representation_size=5, kernel_init='lecun_normal')
  params = init(head)['params']
  assert set(params) == {'pre_logits', 'output_projection'}
  hidden = np.tanh(FEATURES.pooled @ params['pre_logits']['kernel'] + params['pre_logits']['bias'])
  logits = hidden @ params['output_projection']['kernel'] + params['output_projection']['bias']
  np.testing.assert_allclose(
    head.apply({'params': params}, FEATURES, train=False), logits, atol=1e-5
  )


@pytest.mark.parametrize(
  'head',
  [
    LinearHead(num_classes=3, representation_size=5, dtype=jnp.bfloat16),
    MLPHead(num_classes=3, hidden_size=5, dtype=jnp.bfloat16),
    MAPHead(num_classes=3, num_heads=2, mlp_dim=16, dtype=jnp.bfloat16),
  ],
)
def test_logits_are_float32(head):
  run = functools.partial(head.init_with_output, train=False)
  logits, _ = jax.eval_shape(run, jax.random.key(0), FEATURES)
  assert logits.shape == (2, 3)
  assert logits.dtype == jnp.float32


def test_head_dropout_only_in_training():
  head = LinearHead(num_classes=3, dropout_rate=0.5, kernel_init='lecun_normal')
  params = init(head)
  calm = head.apply(params, FEATURES, train=False)
  noisy = head.apply(params, FEATURES, train=True, rngs={'dropout': jax.random.key(3)})
  assert np.abs(calm - noisy).max() > 1e-3


def test_attention_pooling_ignores_token_order():
  head = MAPHead(num_classes=3, num_heads=2, mlp_dim=16, kernel_init='lecun_normal')
  params = init(head)
  shuffled = FEATURES.replace(tokens=FEATURES.tokens[:, ::-1], pooled=FEATURES.pooled * 0)
  np.testing.assert_allclose(
    head.apply(params, FEATURES, train=False), head.apply(params, shuffled, train=False), atol=1e-5
  )


def test_mean_pooling_reads_the_tokens():
  head = LinearHead(num_classes=3, pooling='mean', kernel_init='lecun_normal')
  params = init(head)
  projection = params['params']['output_projection']
  expected = FEATURES.tokens.mean(axis=1) @ projection['kernel'] + projection['bias']
  np.testing.assert_allclose(head.apply(params, FEATURES, train=False), expected, atol=1e-5)


@pytest.fixture(scope='module')
def mlp():
  head = MLPHead(num_classes=3, hidden_size=600)
  return head, init(head)


def test_mlp_head_is_two_layers_with_an_exact_gelu(mlp):
  head, params = mlp
  hidden, output = (params['params'][name] for name in ('hidden', 'output_projection'))
  assert set(params['params']) == {'hidden', 'output_projection'}
  x = np.float64(FEATURES.pooled @ hidden['kernel'] + hidden['bias'])
  x = x * (1 + np.vectorize(math.erf)(x / 2**0.5)) / 2
  logits = head.apply(params, FEATURES, train=False)
  np.testing.assert_allclose(logits, x @ output['kernel'] + output['bias'], atol=1e-6)
  for layer in (hidden, output):
    assert layer['kernel'].std() == pytest.approx(0.02, rel=0.05)
    assert not layer['bias'].any()


def test_mlp_head_drops_hidden_units_and_with_an_option_logits(mlp):
  head, params = mlp
  calm = head.apply(params, FEATURES, train=False)

  def noisy(**rates):
    rngs = {'dropout': jax.random.key(3)}
    return head.clone(**rates).apply(params, FEATURES, train=True, rngs=rngs)

  np.testing.assert_array_equal(noisy(), calm)
  hidden = noisy(dropout_rate=0.5)
  assert hidden.all() and (hidden != calm).all()
  logits = noisy(logits_dropout_rate=0.5)
  np.testing.assert_array_equal(logits, jnp.where(logits == 0, 0, 2 * calm))
  assert 0 < (logits == 0).sum() < logits.size


CLIP = Features(
  tokens=jax.random.normal(jax.random.key(2), (2, 3 * 4 * 6, 8)),
  pooled=jnp.zeros((2, 8)),
  grid=(3, 4, 6),
)
# Of each clip: two people, and padding.
BOXES = jnp.asarray(
  [
    [[0.1, 0.2, 0.9, 0.5], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]],
    [[0.5, 0.5, 1.1, 0.9], [0.3, 0.1, 0.4, 0.2], [0.0, 0.0, 0.0, 0.0]],
  ]
)


def detect(head, params, features, boxes):
  return jax.jit(functools.partial(head.apply, train=False))(params, features, boxes=boxes)


@pytest.fixture(scope='module')
def detection():
  """A head, its parameters and its logits [2, 3, 5] for `CLIP` and `BOXES`."""
  head = DetectionHead(num_classes=5, kernel_init='lecun_normal', output_size=(2, 3))
  init = jax.jit(functools.partial(head.init, train=False))
  params = flax.core.meta.unbox(init(jax.random.key(0), CLIP, boxes=BOXES))
  return head, params, detect(head, params, CLIP, BOXES)


@pytest.mark.parametrize('pool', ['max', 'mean'])
def test_detection_is_roi_align_of_every_frame_and_a_linear_layer(pool, detection):
  head, params, logits = detection
  if pool == 'mean':
    head = head.clone(pool=pool)
    logits = detect(head, params, CLIP, BOXES)
  assert logits.dtype == jnp.float32
  frames = CLIP.tokens.reshape(2 * 3, 4, 6, 8)
  boxes = jnp.repeat(BOXES * jnp.asarray([4.0, 6.0, 4.0, 6.0]), 3, axis=0)
  tube = jax.jit(functools.partial(roi_align, output_size=(2, 3)))(frames, boxes)
  cells = np.asarray(tube).reshape(2, 3, 3, 6, 8).mean(axis=1)  # over time: [B, N, ph * pw, C]
  pooled = cells.max(axis=2) if pool == 'max' else cells.mean(axis=2)
  projection = params['params']['output_projection']
  np.testing.assert_allclose(logits, pooled @ projection['kernel'] + projection['bias'], atol=1e-5)


def test_detection_has_the_parameters_of_a_linear_head(detection):
  head, params, _ = detection
  assert set(params['params']) == {'output_projection'}
  assert params['params']['output_projection']['kernel'].shape == (8, 5)
  deep = head.clone(representation_size=7)
  shapes = jax.eval_shape(
    functools.partial(deep.init, train=False), jax.random.key(0), CLIP, boxes=BOXES
  )
  assert set(shapes['params']) == {'pre_logits', 'output_projection'}


def test_padded_boxes_have_finite_logits_and_gradients(detection):
  head, params, logits = detection
  bias = params['params']['output_projection']['bias']
  np.testing.assert_allclose(logits[:, 2], np.broadcast_to(bias, (2, 5)), atol=1e-6)

  @jax.jit
  @jax.grad
  def gradient(x, weights):
    features = CLIP.replace(tokens=x[0])
    logits = head.apply(x[1], features, boxes=BOXES, train=False)
    return (jnp.square(logits) * weights[:, None]).sum()

  only_padding = gradient((CLIP.tokens, params), jnp.asarray([0.0, 0.0, 1.0]))
  np.testing.assert_array_equal(only_padding[0], 0.0)
  everything = gradient((CLIP.tokens, params), jnp.ones(3))
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(everything))
  assert np.abs(everything[0]).max() > 1e-3


@pytest.mark.parametrize(
  ('head', 'options', 'message'),
  [
    (LinearHead(num_classes=3, pooling='max'), {}, "head.pooling='max'"),
    (DetectionHead(num_classes=3, pool='sum'), {'boxes': jnp.zeros((2, 1, 4))}, "head.pool='sum'"),
  ],
)
def test_unknown_pooling(head, options, message):
  with pytest.raises(ConfigError, match=message):
    head.init(jax.random.key(0), FEATURES, **options, train=False)


def test_unknown_kernel_init():
  with pytest.raises(ConfigError, match='lecun_normal'):
    init(LinearHead(num_classes=3, kernel_init='zero'))


@pytest.fixture(scope='module')
def cofinetuned():
  """A model with two clip heads and a box head, a video, boxes, and its parameters."""
  trunk = ViViT(
    hidden_size=8,
    num_layers=1,
    num_heads=2,
    mlp_dim=16,
    tubelet=(2, 4, 4),
    attention='spacetime',
    pooling='token',
  )
  heads = {
    'k400': LinearHead(num_classes=4, bias_init=1.0),
    'ava': DetectionHead(num_classes=5, output_size=(2, 2), bias_init=-2.0),
    'ssv2': LinearHead(num_classes=7),
  }
  model, video, boxes = VideoModel(trunk, heads), jnp.zeros((2, 4, 8, 8, 3)), BOXES
  init = jax.jit(functools.partial(model.init, train=False))
  variables = flax.core.meta.unbox(init(jax.random.key(0), video, boxes=boxes))
  return model, video, boxes, variables


def test_video_model_names_and_outputs(cofinetuned):
  model, video, boxes, variables = cofinetuned
  assert set(variables['params']) == {'trunk', 'heads_k400', 'heads_ava', 'heads_ssv2'}
  assert set(variables['params']['heads_ssv2']) == {'output_projection'}
  assert set(variables['params']['heads_ava']) == {'output_projection'}
  features, logits = jax.jit(functools.partial(model.apply, train=False))(
    variables, video, boxes=boxes
  )
  assert features.grid == (2, 2, 2)
  shapes = {task: x.shape for task, x in logits.items()}
  assert shapes == {'k400': (2, 4), 'ava': (2, 3, 5), 'ssv2': (2, 7)}
  np.testing.assert_array_equal(logits['k400'], np.ones((2, 4)))
  np.testing.assert_array_equal(logits['ava'], np.full((2, 3, 5), -2.0))


@pytest.mark.parametrize('tasks', [('ssv2',), ('ssv2', 'k400'), ('ava',)])
def test_only_the_heads_asked_for_run(cofinetuned, tasks):
  model, video, boxes, variables = cofinetuned
  variables = {'params': dict(variables['params'])}
  for task in {'k400', 'ava', 'ssv2'} - set(tasks):
    del variables['params'][f'heads_{task}']
  options = {'boxes': boxes} if 'ava' in tasks else {}
  apply = functools.partial(model.apply, tasks=tasks, train=False)
  _, logits = jax.eval_shape(apply, variables, video, **options)
  assert set(logits) == set(tasks)


def test_box_head_without_boxes(cofinetuned):
  model, video, _, variables = cofinetuned
  with pytest.raises(ConfigError, match=r'tasks\.ava\.head: DetectionHead takes boxes'):
    jax.eval_shape(functools.partial(model.apply, train=False), variables, video)
