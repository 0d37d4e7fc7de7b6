"""Attention: the formula, the fused kernels against it, and which of them is taken where."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, NamedSharding, PartitionSpec

from errors import ConfigError
from models import attention
from models.attention import AUTO_FUSED_KEYS, dot_product_attention

DEVICES = {
  'cpu': AbstractDevice(device_kind='cpu', num_cores=None, platform='cpu'),
  'gpu': AbstractDevice(device_kind='NVIDIA H200', num_cores=132, platform='gpu'),
  'v5e': AbstractDevice(device_kind='TPU v5 lite', num_cores=1, platform='tpu'),
  'v3': AbstractDevice(device_kind='TPU v3', num_cores=1, platform='tpu'),
}


def normal(seed, *shape):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def traced_for(device, function, sizes=(1, 1, 1)):
  """`function` as a program for a mesh of such devices traces it; none is needed."""
  mesh = AbstractMesh(
    sizes,
    ('data', 'fsdp', 'tensor'),
    axis_types=(AxisType.Auto,) * 3,
    abstract_device=DEVICES[device],
  )

  def traced(*args):
    with jax.sharding.use_abstract_mesh(mesh):
      return function(*args)

  return traced, mesh


def kernels_in(device, tokens=AUTO_FUSED_KEYS, dtype=jnp.bfloat16, width=16, **options):
  """Number of Pallas kernels in the attention that is traced for a device."""
  x = jax.ShapeDtypeStruct((1, tokens, 2, width), dtype)
  traced, _ = traced_for(device, functools.partial(dot_product_attention, **options))
  return str(jax.make_jaxpr(traced)(x, x, x)).count('pallas_call')


def test_attention_against_numpy():
  q, k, v = (np.asarray(normal(i, 2, 3 + (i > 0), 2, 4), np.float64) for i in range(3))
  logits = np.einsum('bqhd,bkhd->bhqk', q, k) / 2.0
  weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  out = jax.jit(dot_product_attention)(*(jnp.asarray(x, jnp.float32) for x in (q, k, v)))
  np.testing.assert_allclose(out, np.einsum('bhqk,bkhd->bqhd', weights, v), atol=1e-5)


def test_masked_keys_do_not_count():
  q, k, v = normal(0, 2, 3, 2, 4), normal(1, 2, 5, 2, 4), normal(2, 2, 5, 2, 4)
  mask = (np.arange(5) < 3)[None, None, None]  # [1, 1, 1, K]
  masked, short = jax.jit(
    lambda q, k, v: (
      dot_product_attention(q, k, v, mask=mask),
      dot_product_attention(q, k[:, :3], v[:, :3]),
    )
  )(q, k, v)
  np.testing.assert_allclose(masked, short, atol=1e-6)


def test_logits_and_softmax_are_float32_in_bfloat16():
  q = jnp.full((1, 1, 1, 4), 20.0, jnp.bfloat16)
  k = jnp.full((1, 2, 1, 4), 20.0, jnp.bfloat16).at[0, 1, 0, 0].set(19.875)
  v = jnp.stack([jnp.ones((1, 1, 4)), jnp.zeros((1, 1, 4))], axis=1).astype(jnp.bfloat16)
  out = jax.jit(dot_product_attention)(q, k, v)
  # The logits are 800 and 798.75; bfloat16 has no number between 796 and 800.
  assert out.dtype == jnp.bfloat16
  np.testing.assert_allclose(out.astype(jnp.float32), 1 / (1 + np.exp(-1.25)), atol=4e-3)


def test_attention_dropout_keeps_the_expectation():
  q = jnp.zeros((64, 16, 2, 4))
  v = jnp.ones((64, 16, 2, 4))
  attend = functools.partial(dot_product_attention, dropout_rate=0.25, deterministic=False)
  out = jax.jit(attend)(q, q, v, dropout_rng=jax.random.key(0))
  # Each output is a mean of 16 variables with mean 1 and variance 1/3.
  assert abs(float(out.mean()) - 1.0) < 0.02
  assert abs(float(out[..., 0].std()) - (1 / 3 / 16) ** 0.5) < 0.02


@pytest.mark.parametrize(('dtype', 'tolerance'), [(jnp.float32, 2e-6), (jnp.bfloat16, 8e-3)])
def test_splash_kernel_agrees_with_xla(monkeypatch, dtype, tolerance):
  # Two blocks of queries and three of keys, both padded. In bfloat16 the tolerance is two units in the
  # last place of 1, about the largest value there is.
  monkeypatch.setattr(attention, '_LARGEST_BLOCK', 128)
  monkeypatch.setattr(attention, '_SMALLEST_BLOCK', 128)
  q, k, v, g = (normal(i, 1, 2, n, 2, 8).astype(dtype) for i, n in enumerate((130, 300, 300, 130)))
  splash = functools.partial(attention._splash, interpret=True)
  fused, _ = traced_for('cpu', functools.partial(attention._on_each_device, splash))

  def value_and_gradients(attend):
    out, vjp = jax.vjp(attend, q, k, v)
    return out, *vjp(g)

  found, expected = jax.jit(
    lambda: [value_and_gradients(f) for f in (fused, dot_product_attention)]
  )()
  for x, y in zip(found, expected, strict=True):
    assert x.shape == y.shape
    assert x.dtype == dtype
    np.testing.assert_allclose(
      *(np.asarray(z, np.float32) for z in (x, y)), atol=tolerance, rtol=tolerance
    )


def test_blocks_cover_the_tokens_with_little_padding():
  blocks = {n: attention._block(n) for n in (17, 197, 785, 1024, 1569, 3136, 3137)}
  assert blocks == {17: 128, 197: 256, 785: 896, 1024: 1024, 1569: 896, 3136: 640, 3137: 640}


def test_each_device_runs_the_kernel_on_its_examples_and_heads():
  fused = functools.partial(dot_product_attention, kernel='fused')
  traced, mesh = traced_for('v5e', fused, sizes=(2, 2, 2))
  gradients = jax.grad(lambda *x: traced(*x).astype(jnp.float32).sum(), argnums=(0, 1, 2))

  def kernel_calls(batch, heads):
    sharding = NamedSharding(mesh, PartitionSpec())
    x = jax.ShapeDtypeStruct((batch, 3, 600, heads, 16), jnp.bfloat16, sharding=sharding)
    lowered = jax.jit(gradients).trace(x, x, x).lower(lowering_platforms=('tpu',))
    return [line for line in lowered.as_text().splitlines() if 'tpu_custom_call' in line]

  split, whole = kernel_calls(batch=8, heads=4), kernel_calls(batch=1, heads=3)
  assert len(split) == len(whole) == 2  # forward and backward
  assert all('tensor<6x2x640x16xbf16>' in call for call in split)  # 8 / 4 * 3 frames, 4 / 2 heads
  assert all('tensor<3x3x640x16xbf16>' in call for call in whole)


def test_cudnn_is_called_with_our_layout_and_scale(monkeypatch):
  called = []
  original = jax.nn.dot_product_attention
  monkeypatch.setattr(
    jax.nn,
    'dot_product_attention',
    lambda *arrays, implementation: called.append(implementation) or original(*arrays),
  )
  q, k, v = normal(0, 2, 3, 2, 8), normal(1, 2, 5, 2, 8), normal(2, 2, 5, 2, 8)
  found, expected = jax.jit(lambda *x: (attention._cudnn(*x), dot_product_attention(*x)))(q, k, v)
  np.testing.assert_allclose(found, expected, atol=1e-6)
  assert called == ['cudnn']


def test_auto_takes_the_kernel_where_it_can_and_pays():
  assert kernels_in('v5e') == 1
  assert kernels_in('v5e', kernel='xla') == 0
  assert kernels_in('v5e', tokens=AUTO_FUSED_KEYS - 1) == 0
  assert kernels_in('v5e', tokens=AUTO_FUSED_KEYS - 1, kernel='fused') == 1
  assert kernels_in('v5e', mask=jnp.ones((1, 1, 1, AUTO_FUSED_KEYS), bool)) == 0
  assert kernels_in('v5e', dropout_rate=0.1) == 1
  dropout = {'dropout_rate': 0.1, 'deterministic': False, 'dropout_rng': jax.random.key(0)}
  assert kernels_in('v5e', **dropout) == 0
  assert kernels_in('v3') == kernels_in('cpu') == 0


@pytest.mark.parametrize(
  ('device', 'options', 'message'),
  [
    ('cpu', {}, "there is none for the platform 'cpu'"),
    ('v3', {}, 'TPU v3 cannot compile it'),
    ('v5e', {'mask': np.ones((1, 1, 1, 4), bool)}, 'take no mask'),
    ('v5e', {'dropout_rate': 0.1, 'deterministic': False}, 'attention_dropout_rate'),
    ('gpu', {'dtype': jnp.float32}, 'not float32 .compute_dtype'),
    ('gpu', {'width': 12}, 'not 12'),
    ('gpu', {'width': 256}, 'not 256'),
  ],
)
def test_fused_where_it_is_not_possible(monkeypatch, device, options, message):
  monkeypatch.setattr(attention, '_compute_capability', lambda: '9.0')
  with pytest.raises(ConfigError, match=f"attention_kernel='fused' is not possible: .*{message}"):
    kernels_in(device, tokens=4, kernel='fused', **options)


@pytest.mark.parametrize('capability', ['7.5', 'gfx942'])
def test_cudnn_needs_a_recent_nvidia_gpu(monkeypatch, capability):
  monkeypatch.setattr(attention, '_compute_capability', lambda: capability)
  with pytest.raises(ConfigError, match=f'compute capability 8.0 or more, not {capability}'):
    kernels_in('gpu', tokens=4, kernel='fused')


def test_unknown_kernel():
  x = normal(0, 1, 3, 2, 4)
  with pytest.raises(ConfigError, match="attention_kernel='flash'"):
    dot_product_attention(x, x, x, kernel='flash')


def test_outside_a_program_every_kernel_is_xlas():
  x = jax.ShapeDtypeStruct((1, AUTO_FUSED_KEYS, 2, 4), jnp.float32)
  programs = {
    kernel: str(jax.make_jaxpr(functools.partial(dot_product_attention, kernel=kernel))(x, x, x))
    for kernel in attention.KERNELS
  }
  assert programs['auto'] == programs['fused'] == programs['xla']
