"""Heads and the model that joins them to a trunk."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errors import ConfigError
from models.features import Features
from models.heads import LinearHead, MAPHead
from models.video_model import VideoModel
from models.vivit import ViViT

FEATURES = Features(
  tokens=jax.random.normal(jax.random.key(0), (2, 4, 8)),
  pooled=jax.random.normal(jax.random.key(1), (2, 8)),
  grid=(1, 2, 2),
)


def init(head):
  return flax.core.meta.unbox(head.init(jax.random.key(0), FEATURES, train=False))


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
    MAPHead(num_classes=3, num_heads=2, mlp_dim=16, dtype=jnp.bfloat16),
  ],
)
def test_logits_are_float32(head):
  logits = head.apply(init(head), FEATURES, train=False)
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


def test_unknown_kernel_init():
  with pytest.raises(ConfigError, match='lecun_normal'):
    init(LinearHead(num_classes=3, kernel_init='zero'))


def test_video_model_names_and_outputs():
  trunk = ViViT(
    hidden_size=8,
    num_layers=1,
    num_heads=2,
    mlp_dim=16,
    tubelet=(2, 4, 4),
    attention='spacetime',
    pooling='token',
  )
  heads = {'k400': LinearHead(num_classes=4, bias_init=1.0), 'ssv2': LinearHead(num_classes=7)}
  model, video = VideoModel(trunk, heads), jnp.zeros((2, 4, 8, 8, 3))
  variables = flax.core.meta.unbox(model.init(jax.random.key(0), video, train=False))
  assert set(variables['params']) == {'trunk', 'heads_k400', 'heads_ssv2'}
  assert set(variables['params']['heads_ssv2']) == {'output_projection'}
  features, logits = model.apply(variables, video, train=False)
  assert features.grid == (2, 2, 2)
  assert {task: x.shape for task, x in logits.items()} == {'k400': (2, 4), 'ssv2': (2, 7)}
  np.testing.assert_array_equal(logits['k400'], np.ones((2, 4)))
