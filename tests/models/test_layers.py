"""Attention, regularisers and the encoder that the trunks share."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errors import ConfigError, ShardingError
from models import layers


def normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


def small_encoder(**kwargs):
  block = functools.partial(layers.EncoderBlock, num_heads=2, mlp_dim=16, **kwargs.pop('block', {}))
  return layers.Encoder(num_layers=kwargs.pop('num_layers', 1), block=block, **kwargs)


def init(module, *inputs):
  """Random unboxed variables, without compiling an initialiser."""
  boxed = jax.eval_shape(functools.partial(module.init, train=False), jax.random.key(0), *inputs)
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: 0.5 * rng.normal(size=leaf.shape).astype(np.float32), flax.core.meta.unbox(boxed)
  )


def run(module, params, x, **inputs):
  return jax.jit(functools.partial(module.apply, train=False))(params, x, **inputs)


def captured(module, params, x, kind, seed=1):
  """Outputs of all children of class `kind` in training, by name."""
  apply = functools.partial(
    module.apply,
    train=True,
    rngs={'dropout': jax.random.key(seed)},
    capture_intermediates=lambda child, _: isinstance(child, kind),
  )
  _, state = jax.jit(apply)(params, x)
  flat = flax.traverse_util.flatten_dict(state['intermediates'], sep='/')
  return {path: np.asarray(value[0]) for path, value in flat.items()}


def test_attention_parameters_and_their_axes():
  module = layers.MultiHeadAttention(num_heads=2, dtype=jnp.bfloat16)
  boxed = module.init(jax.random.key(0), normal(1, 1, 3, 6), train=False)['params']
  shapes = {
    '/'.join(p): v.shape
    for p, v in flax.traverse_util.flatten_dict(flax.core.meta.unbox(boxed)).items()
  }
  assert shapes == {
    **{f'{x}/kernel': (6, 2, 3) for x in ('query', 'key', 'value')},
    **{f'{x}/bias': (2, 3) for x in ('query', 'key', 'value')},
    'out/kernel': (2, 3, 6),
    'out/bias': (6,),
  }
  assert boxed['query']['kernel'].names == ('embed', 'heads', 'kv')
  assert boxed['out']['kernel'].names == ('heads', 'kv', 'embed')
  assert boxed['out']['kernel'].value.dtype == jnp.float32
  with pytest.raises(ConfigError, match='num_heads=4 does not divide the width 6'):
    init(layers.MultiHeadAttention(num_heads=4), normal(1, 1, 3, 6))


def test_boxed_and_unboxed_parameters_apply_alike():
  module, x = small_encoder(), normal(1, 2, 3, 8)
  boxed = module.init(jax.random.key(0), x, train=False)
  out = run(module, boxed, x)
  np.testing.assert_array_equal(out, run(module, flax.core.meta.unbox(boxed), x))


def test_unknown_logical_axis():
  with pytest.raises(ShardingError, match='hidden'):
    layers.partitioned(flax.linen.initializers.zeros, 'hidden', None)


@pytest.mark.parametrize(
  ('name', 'value'), [('tanh', 0.841192), ('erf', 0.841345), ('quick', 0.845796)]
)
def test_gelu(name, value):
  np.testing.assert_allclose(layers.activation(name)(jnp.ones(())), value, atol=1e-6)


def test_gelu_through_erf_does_not_cancel_in_bfloat16():
  x = jnp.float32([-3.09375, -2.0, 0.5]).astype(jnp.bfloat16)
  exact = [-0.0030575, -0.0455003, 0.3457312]  # x Phi(x)
  np.testing.assert_allclose(layers.activation('erf')(x).astype(jnp.float32), exact, rtol=4e-3)


def test_unknown_gelu():
  with pytest.raises(ConfigError, match='gelu_fast'):
    layers.activation('gelu_fast')


def test_stochastic_depth_statistics():
  module = layers.StochasticDepth(rate=0.3)
  branch = jnp.ones((4000, 2, 3))
  out = module.apply({}, branch, train=True, rngs={'dropout': jax.random.key(0)})
  per_example = np.asarray(out).reshape(4000, 6)
  assert (per_example == per_example[:, :1]).all()  # an example is dropped as a whole
  np.testing.assert_allclose(np.unique(per_example), [0.0, 1 / 0.7], rtol=1e-6)
  assert abs((per_example[:, 0] == 0).mean() - 0.3) < 0.03
  np.testing.assert_array_equal(module.apply({}, branch, train=False), branch)


def test_stochastic_depth_rates_grow_to_the_full_rate():
  np.testing.assert_allclose(layers.stochastic_depth_rates(0.4, 4), [0.1, 0.2, 0.3, 0.4])


def test_residual_branches_are_dropped_independently():
  module = small_encoder(stochastic_depth_rate=0.5)
  x = normal(1, 400, 2, 8)
  drops = captured(module, init(module, x), x, layers.StochasticDepth)
  first, second = (np.abs(drops[path]).max(axis=(1, 2)) == 0 for path in sorted(drops))
  counts = np.array([(first & second).sum(), (first & ~second).sum(), (~first & second).sum()])
  np.testing.assert_allclose(counts / 400, 0.25, atol=0.08)


def test_frames_share_stochastic_depth_but_not_dropout():
  module = small_encoder(stochastic_depth_rate=0.5, dropout_rate=0.5)
  x = normal(1, 40, 3, 2, 8)  # [B, T, N, C]
  params = init(module, x)
  drops = captured(module, params, x, layers.StochasticDepth)
  for branch in drops.values():
    dropped = np.abs(branch).max(axis=(2, 3)) == 0  # [B, T]
    assert 0 < dropped[:, 0].sum() < 40
    assert (dropped == dropped[:, :1]).all()
  dropout = captured(module, params, x, flax.linen.Dropout)['dropout/__call__'] == 0
  assert (dropout[:, 0] != dropout[:, 1]).any()
  assert abs(dropout.mean() - 0.5) < 0.05


def test_leading_axes_are_independent_sequences():
  module, x = small_encoder(), normal(1, 2, 3, 4, 8)
  params = init(module, x)
  folded = run(module, params, x.reshape(6, 4, 8))
  np.testing.assert_allclose(run(module, params, x), folded.reshape(x.shape), atol=1e-5)


def test_encoder_mask_reaches_attention():
  module, x = small_encoder(), normal(1, 2, 4, 8)
  params = init(module, x)
  mask = (jnp.arange(4) < 3)[None, None, None]
  out = run(module, params, x, mask=mask)
  changed = run(module, params, x.at[:, 3, 0].add(1.0), mask=mask)
  np.testing.assert_allclose(out[:, :3], changed[:, :3], atol=1e-6)
  assert np.abs(out[:, 3] - changed[:, 3]).max() > 1e-3


@pytest.fixture(scope='module')
def plain():
  """Variables of a two-layer encoder, its inputs, and its gradients unrolled and kept whole."""
  x = normal(1, 2, 3, 8)
  params = init(small_encoder(num_layers=2), x)
  return params, x, gradients(small_encoder(num_layers=2), params, x)


def gradients(module, params, x):
  """The sum of cubes of the outputs, and its gradients."""
  loss = lambda p: (module.apply(p, x, train=True) ** 3).sum()  # noqa: E731
  return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize(('scan', 'remat'), [(False, 'blocks'), (True, 'none'), (True, 'full')])
def test_scan_and_remat_change_neither_names_nor_gradients(plain, scan, remat):
  params, x, expected = plain
  module = small_encoder(num_layers=2, scan_layers=scan, remat=remat)
  boxes = [jax.eval_shape(functools.partial(m.init, train=False), jax.random.key(0), x)
           for m in (module, small_encoder(num_layers=2))]  # fmt: skip
  assert boxes[0] == boxes[1]
  same = functools.partial(np.testing.assert_allclose, atol=1e-4, rtol=1e-4)
  jax.tree.map(same, gradients(module, params, x), expected)


@pytest.mark.parametrize('scan', [False, True])
def test_what_remat_computes_again(scan):
  x = normal(1, 2, 3, 4, 8)  # [B, T, N, C]
  count = {}
  for remat in layers.REMAT_POLICIES:
    module = small_encoder(num_layers=2, scan_layers=scan, remat=remat)
    loss = lambda p, m=module: m.apply(p, x, train=True).sum()  # noqa: E731
    jaxpr = str(jax.make_jaxpr(jax.grad(loss))(init(module, x)))
    count[remat] = jaxpr.count(' dot_general[') / (1 if scan else 2)
  # A block has 8 products, each with 2 more in the backward pass. Of them 'blocks' computes the two
  # of attention again, which have no weights; 'full' all but the last.
  assert count == {'none': 24, 'blocks': 26, 'full': 31}


class Recorder(flax.linen.Module):
  """A block that adds its stochastic depth's factor [B] to the entry of x [B, 1, L] that is its own."""

  stochastic_depth_rate: float

  @flax.linen.compact
  def __call__(self, x, *, mask, train):
    own = self.param('own', flax.linen.initializers.zeros, x.shape[-1:])
    return x + own * layers.StochasticDepth(self.stochastic_depth_rate)(
      jnp.ones_like(x), train=train
    )


@pytest.mark.parametrize('remat', ['none', 'full'])
def test_scanned_layers_draw_for_themselves_at_their_own_rate(remat):
  module = layers.Encoder(
    num_layers=4,
    block=Recorder,
    stochastic_depth_rate=0.4,
    final_norm=False,
    scan_layers=True,
    remat=remat,
  )
  params = {f'encoderblock_{i}': {'own': jnp.eye(4)[i]} for i in range(4)}
  params['posembed_input'] = {'pos_embedding': jnp.zeros((1, 1, 4))}
  apply = jax.jit(functools.partial(module.apply, train=True))
  x = jnp.zeros((3000, 1, 4))
  factor = np.asarray(apply({'params': params}, x, rngs={'dropout': jax.random.key(0)}))[:, 0]
  for layer, rate in enumerate((0.1, 0.2, 0.3, 0.4)):
    np.testing.assert_allclose(np.unique(factor[:, layer]), [0, 1 / (1 - rate)], rtol=1e-6)
    assert abs((factor[:, layer] == 0).mean() - rate) < 0.03
  correlation = np.corrcoef((factor == 0).T)
  np.testing.assert_allclose(correlation, np.eye(4), atol=0.08)


def test_scanned_dropout_in_bfloat16():
  module = small_encoder(
    num_layers=2,
    scan_layers=True,
    dtype=jnp.bfloat16,
    stochastic_depth_rate=0.5,
    block={'dropout_rate': 0.5, 'attention_dropout_rate': 0.5, 'dtype': jnp.bfloat16},
  )
  x = normal(1, 2, 3, 8).astype(jnp.bfloat16)
  params = init(module, x)
  apply = jax.jit(functools.partial(module.apply, train=True))
  first, again, other = (
    apply(params, x, rngs={'dropout': jax.random.key(seed)}).astype(jnp.float32)
    for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert np.abs(first - other).max() > 0.1


def test_layer_norm_epsilon():
  module = layers.layer_norm('norm', epsilon=0.01, dtype=jnp.float32)
  x = jnp.array([[-0.1, 0.1]])
  out, _ = module.init_with_output(jax.random.key(0), x)
  np.testing.assert_allclose(out, x / np.sqrt(0.01 + 0.01), rtol=1e-5)


@pytest.mark.parametrize(
  ('num_layers', 'coarse'),
  [(0, {'layer_norm_epsilon': 1e-2}), (1, {'block': {'layer_norm_epsilon': 1e-2}})],
)
def test_encoder_and_block_use_their_epsilon(num_layers, coarse):
  x = normal(1, 2, 3, 8) * 1e-3
  fine, coarse = (
    small_encoder(num_layers=num_layers),
    small_encoder(num_layers=num_layers, **coarse),
  )
  params = init(fine, x)
  params['params']['posembed_input']['pos_embedding'] *= 0.0
  assert np.abs(run(fine, params, x) - run(coarse, params, x)).max() > 0.01
