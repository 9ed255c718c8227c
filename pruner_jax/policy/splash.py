"""Attention of packed rows on a TPU: JAX's splash kernel, which never writes scores to memory.

Takes queries, keys and values of whole rows and their segments; gives the mix of values that
``attention.attend`` gives of them, up to rounding. Rows are padded to whole blocks; with a mesh,
every device mixes its own rows and heads. Leaves out caches (decode stays with XLA) and GPUs: what
JAX calls there, ``jax.nn.dot_product_attention`` by cuDNN, has no segments, so packed rows would
attend to each other.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    BlockSizes,
    CausalMask,
    LocalMask,
    MultiHeadMask,
    SegmentIds,
    make_splash_mha,
)
from jax.sharding import PartitionSpec

from pruner_jax.mesh import ROWS, left_to_the_compiler

# Queries and keys that a block has, the first that fits; larger ones read keys and values less
# often, smaller ones leave less padding and skip more of what lies ahead. 2048 is as good or better
# on v6e by what others report, but v5e and v5p have no room for it (their compiler says so).
BLOCKS = (1024, 512, 256, 128)
# Keys whose scores a block holds at once.
KEYS = 512


def splash(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    segment_BT: jax.Array | None = None,
    *,
    window: int | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Each query's mix of values [B, T, N, H].

    A query attends to tokens of its own segment up to itself, the last ``window`` of them if given.
    Tokens of a segment must stand in order; without segments a row is one. Padding (segment 0)
    attends to padding, which no loss may look at. Any head width; those under 64 fill a TPU's lanes
    badly.

    Args:
      q_BTNH: queries, rotated; N a multiple of K.
      k_BTKH: keys, rotated.
      v_BTKH: values.
      segment_BT: int32, 1.. in each row, 0 = padding.
      window: tokens that a query sees, itself among them.
      interpret: compute the kernel with XLA, slowly, on any device.
    """
    B, T, _, H = q_BTNH.shape
    length, block = blocks_of(T)
    if segment_BT is None:
        segment_BT = jnp.ones((B, T), jnp.int32)

    def filled(x):
        return jnp.pad(x, [(0, 0), (0, length - T)] + [(0, 0)] * (x.ndim - 2))

    # The kernel scales nothing; the product with float32 is rounded once.
    q = (q_BTNH.astype(jnp.float32) * H**-0.5).astype(q_BTNH.dtype)
    q, k, v = (jnp.swapaxes(filled(x), 1, 2) for x in (q, k_BTKH, v_BTKH))
    mix = functools.partial(_mix, block, window, interpret)
    left = left_to_the_compiler()
    if left:  # The compiler cannot cut a kernel, so each device is handed its part.
        rows = PartitionSpec(tuple(axis for axis in ROWS if axis in left) or None)
        heads = PartitionSpec(*rows, "tensor" if "tensor" in left else None)
        mix = jax.shard_map(
            mix,
            in_specs=(heads, heads, heads, rows),
            out_specs=heads,
            axis_names=set(left),
            check_vma=False,
        )
    return jnp.swapaxes(mix(q, k, v, filled(segment_BT)), 1, 2)[:, :T]


def blocks_of(T: int) -> tuple[int, int]:
    """What a row of T tokens is padded to, and the tokens of a block: the largest of ``BLOCKS``
    that adds at most an eighth of padding, or else the smallest."""
    for block in BLOCKS:
        length = block * -(-T // block)
        if 8 * (length - T) <= T:
            break
    return length, block


def _mix(block, window, interpret, q_BNTH, k_BKTH, v_BKTH, segment_BT):
    """The kernel over rows and heads that lie on one device."""
    N, T = q_BNTH.shape[1:3]
    mask = CausalMask((T, T)) if window is None else LocalMask((T, T), (window - 1, 0), 0)
    keys = min(block, KEYS)
    sizes = BlockSizes(
        block_q=block,
        block_kv=block,
        block_kv_compute=keys,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_kv_dkv_compute=keys,
        block_q_dq=block,
        block_kv_dq=block,
    )
    kernel = make_splash_mha(
        MultiHeadMask([mask] * N),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )

    def row(q, k, v, segment):
        return kernel(q, k, v, SegmentIds(segment, segment))

    return jax.vmap(row)(q_BNTH, k_BKTH, v_BKTH, segment_BT)
