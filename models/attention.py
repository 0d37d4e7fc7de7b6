"""Dot-product attention behind one function: XLA's own form, or a fused kernel.

A fused kernel computes blocks of the attention weights and never holds all of them: memory grows with
the number of tokens, not with its square. The numbers agree within the rounding of the compute type.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.sharding import PartitionSpec

from errors import ConfigError
from models.layout import BATCH_AXES, axes_dividing

KERNELS = ('auto', 'xla', 'fused')

# Keys from which 'auto' takes the fused kernel. By the compiler's estimates for v5e (12 heads of 64,
# forward and backward) 64 sequences of 197 tokens are 1.5 times slower with it and take twice the memory,
# as padding and relayout weigh most; 8 of 785 are 1.6 times faster, and one of 3137 is 2.6 times faster.
AUTO_FUSED_KEYS = 512

# The splash kernel's blocks are multiples of the 128 lanes. Blocks of 1024 tokens fit the 16 MiB of VMEM
# that a kernel may use, forward and backward, for up to 128 channels; 1664 do not.
_LANES, _SMALLEST_BLOCK, _LARGEST_BLOCK = 128, 512, 1024


def dot_product_attention(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  *,
  mask: jax.Array | None = None,
  dropout_rate: float = 0.0,
  deterministic: bool = True,
  dropout_rng: jax.Array | None = None,
  kernel: str = 'auto',
) -> jax.Array:
  """softmax(q k^T / sqrt(d)) v, the one attention that all modules go through (ViViT Eq. 7).

  Args:
    query: [B, ..., Q, heads, D].
    key: [B, ..., K, heads, D].
    value: [B, ..., K, heads, D].
    mask: bool, broadcastable to [B, ..., heads, Q, K]; False positions are not attended.
    dropout_rate: share of attention weights dropped, each independently, survivors rescaled.
    deterministic: True switches dropout off.
    dropout_rng: needed when dropout is on.
    kernel: 'xla'; 'fused', which is splash attention on TPU and cuDNN's on GPU; or 'auto', fused
      where that is possible and there are at least `AUTO_FUSED_KEYS` keys. The ambient mesh says what
      is compiled for; without one, outside a program, all three are XLA's.

  Returns:
    [B, ..., Q, heads, D] in the dtype of `value`; logits and softmax are float32.

  Raises:
    ConfigError: another `kernel`, or 'fused' where it is not possible.
  """
  if kernel not in KERNELS:
    raise ConfigError(f'attention_kernel={kernel!r}: expected one of {KERNELS}.')
  dropping = dropout_rate > 0.0 and not deterministic
  device = jax.sharding.get_abstract_mesh().abstract_device
  wanted = kernel == 'fused' or (kernel == 'auto' and key.shape[-3] >= AUTO_FUSED_KEYS)
  if wanted and device is not None:
    obstacle = _obstacle(query, device, masked=mask is not None, dropping=dropping)
    if obstacle is None:
      fused = _splash if device.platform == 'tpu' else _cudnn
      return _on_each_device(fused, query, key, value)
    if kernel == 'fused':
      raise ConfigError(
        f"attention_kernel='fused' is not possible: {obstacle}. Use 'auto', which is XLA's attention "
        "there, or 'xla'."
      )
  return _xla(query, key, value, mask, dropout_rate if dropping else 0.0, dropout_rng)


def _xla(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  mask: jax.Array | None,
  dropout_rate: float,
  dropout_rng: jax.Array | None,
) -> jax.Array:
  query = query / query.shape[-1] ** 0.5  # The query is smaller than the logits.
  logits = jnp.einsum('...qhd,...khd->...hqk', query, key, preferred_element_type=jnp.float32)
  if mask is not None:
    logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
  weights = jax.nn.softmax(logits, axis=-1)
  if dropout_rate > 0.0:
    kept = jax.random.bernoulli(dropout_rng, 1.0 - dropout_rate, weights.shape)  # type: ignore[arg-type]
    weights = jnp.where(kept, weights / (1.0 - dropout_rate), 0.0)
  return jnp.einsum('...hqk,...khd->...qhd', weights.astype(value.dtype), value)


def _obstacle(
  query: jax.Array, device: jax.sharding.AbstractDevice, masked: bool, dropping: bool
) -> str | None:
  """Why no fused kernel computes this attention on `device`; None where one does."""
  if masked:
    return 'the kernels take no mask'
  if dropping:
    return 'the kernels have no dropout of attention weights (attention_dropout_rate)'
  if device.platform == 'gpu':
    return _cudnn_obstacle(query)
  if device.platform != 'tpu':
    return f'there is none for the platform {device.platform!r}'
  if device.device_kind in ('TPU v2', 'TPU v3'):
    return f'{device.device_kind} cannot compile it'
  return None


def _cudnn_obstacle(query: jax.Array) -> str | None:
  capability = _compute_capability()
  if not capability[0].isdigit() or float(capability) < 8.0:
    return f'cuDNN needs an NVIDIA GPU of compute capability 8.0 or more, not {capability}'
  if query.dtype not in (jnp.bfloat16, jnp.float16):
    return f'cuDNN computes in bfloat16 or float16, not {query.dtype} (compute_dtype)'
  if query.shape[-1] % 8 or query.shape[-1] > 128:
    return f'cuDNN takes heads of 8, 16, ... 128 channels, not {query.shape[-1]}'
  return None


def _compute_capability() -> str:
  """Of this machine's GPU, such as '9.0'; AMD's are names such as 'gfx942'."""
  return str(jax.local_devices(backend='gpu')[0].compute_capability)


def _on_each_device(
  kernel: Callable[..., jax.Array], query: jax.Array, key: jax.Array, value: jax.Array
) -> jax.Array:
  """Runs `kernel`, which takes and returns [B, N, heads, D], on each device's part of the arrays.

  The compiler cannot split a kernel: a device computes its examples (mesh axes data and fsdp) and its
  heads (tensor); where those do not divide, all of them.
  """

  def local(*arrays: jax.Array) -> jax.Array:
    out = kernel(*(x.reshape(-1, *x.shape[-3:]) for x in arrays))
    return out.reshape(arrays[0].shape)

  examples = axes_dividing(query.shape[0], BATCH_AXES)
  heads = axes_dividing(query.shape[-2], ('tensor',))
  spec = PartitionSpec(examples, *[None] * (query.ndim - 3), heads, None)
  return jax.shard_map(local, in_specs=spec, out_specs=spec, check_vma=False)(query, key, value)


def _cudnn(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
  return jax.nn.dot_product_attention(query, key, value, implementation='cudnn')


def _splash(
  query: jax.Array, key: jax.Array, value: jax.Array, *, interpret: bool = False
) -> jax.Array:
  """The splash kernel on [B, N, heads, D]; `interpret` runs it on any platform, for tests."""
  tokens, keys = query.shape[1], key.shape[1]
  block_q, block_kv = _block(tokens), _block(keys)
  query = _padded(query / query.shape[-1] ** 0.5, block_q)  # The kernel does not scale.
  key, value = _padded(key, block_kv), _padded(value, block_kv)
  shape = (query.shape[2], key.shape[2])
  attend = splash_attention.make_splash_mha_single_device(
    splash_attention.MultiHeadMask([splash_attention.FullMask(shape)] * query.shape[1]),
    block_sizes=splash_attention.BlockSizes(
      block_q=block_q,
      block_kv=block_kv,
      block_q_dkv=block_q,
      block_kv_dkv=block_kv,
      use_fused_bwd_kernel=True,
    ),
    interpret=interpret,
  )
  # Padded keys are a segment of their own, which no query is in.
  segments = splash_attention.SegmentIds(
    jnp.zeros(shape[0], jnp.int32), (jnp.arange(shape[1]) >= keys).astype(jnp.int32)
  )
  out = jax.vmap(attend, in_axes=(0, 0, 0, None))(query, key, value, segments)
  return out[:, :, :tokens].swapaxes(1, 2)


def _block(tokens: int) -> int:
  """Tokens in a block: one block if it is small enough, else the size that pads least."""
  whole = tokens + -tokens % _LANES
  if whole <= _LARGEST_BLOCK:
    return whole
  sizes = range(_LARGEST_BLOCK, _SMALLEST_BLOCK - 1, -_LANES)
  return min(sizes, key=lambda size: -tokens % size)


def _padded(x: jax.Array, block: int) -> jax.Array:
  """[B, N, heads, D] -> [B, heads, N', D] with zeros up to the next multiple N' of `block`."""
  x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % block), (0, 0), (0, 0)))
  return x.swapaxes(1, 2)
