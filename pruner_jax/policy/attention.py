"""Attention with grouped heads: one function for packed rows, prefill and decode.

Queries share key/value heads without the keys being repeated. Scores and softmax are float32. Rows
of at least ``LONG`` queries are taken ``CHUNK`` at a time and recomputed in the backward pass, so
that the scores of a long row never exist at once. The kernel for TPUs is in ``splash``.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

LONG, CHUNK = 2048, 512  # queries
_MASKED = -1e30  # finite: a query that may attend to nothing gives a mean, not NaN


def attend(
    q_BTNH: jax.Array,
    k_BKHS: jax.Array,
    v_BKSH: jax.Array,
    *,
    q_position_BT: jax.Array,
    k_position_BS: jax.Array,
    q_segment_BT: jax.Array | None = None,
    k_segment_BS: jax.Array | None = None,
    window: jax.Array | int | None = None,
) -> jax.Array:
    """Each query's mix of values [B, T, N, H].

    A query attends to keys of its own segment (equal and not 0) at positions from 0 to its own, of
    which a window lets it see the last ``window``. Without segments a row is one. Keys at negative
    positions are padding.
    """

    def some(q, position, segment):
        ahead = position[:, :, None] - k_position_BS[:, None, :]
        allowed = (ahead >= 0) & (k_position_BS >= 0)[:, None, :]
        if window is not None:
            allowed &= ahead < window
        if segment is not None:
            same = segment[:, :, None] == k_segment_BS[:, None, :]
            allowed &= same & (k_segment_BS != 0)[:, None, :]
        return _mix(q, k_BKHS, v_BKSH, allowed)

    if q_BTNH.shape[1] < LONG:
        return some(q_BTNH, q_position_BT, q_segment_BT)
    return _by_chunks(some, q_BTNH, q_position_BT, q_segment_BT)


def _mix(q_BTNH: jax.Array, k_BKHS: jax.Array, v_BKSH: jax.Array, allowed_BTS: jax.Array):
    """softmax(q k / sqrt(H)) v, where allowed.

    Both products run row by row and head by head over arrays that already lie as they need them, so
    XLA neither copies nor transposes the cache. Measured on the CPU, a whole decode step (256 rows,
    96 slots): 10.9 ms; keys as [B, K, S, H] 14.0 ms; queries in front of heads 20.8 ms.
    """
    B, T, N, H = q_BTNH.shape
    K = v_BKSH.shape[1]
    q = q_BTNH.reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4)
    scores = jnp.einsum("bknth,bkhs->bknts", q, k_BKHS, preferred_element_type=jnp.float32)
    scores = jnp.where(allowed_BTS[:, None, None], scores * H**-0.5, _MASKED)
    shares = jax.nn.softmax(scores, axis=-1).astype(v_BKSH.dtype)
    mixed = jnp.einsum("bknts,bksh->bknth", shares, v_BKSH)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


def _by_chunks(some, q_BTNH, *per_query_BT):
    """``some`` over CHUNK queries at a time; the last chunk is filled up with blind queries."""
    B, T = q_BTNH.shape[:2]
    count = -(-T // CHUNK)

    def split(x):
        if x is None:
            return None
        fill = [(0, 0), (0, count * CHUNK - T)] + [(0, 0)] * (x.ndim - 2)
        chunks = jnp.pad(x, fill, constant_values=-1).reshape(B, count, CHUNK, *x.shape[2:])
        return jnp.moveaxis(chunks, 1, 0)

    one = jax.checkpoint(lambda chunk: some(*chunk))
    out = jax.lax.map(one, tuple(split(x) for x in (q_BTNH, *per_query_BT)))
    return jnp.moveaxis(out, 0, 1).reshape(B, count * CHUNK, *q_BTNH.shape[2:])[:, :T]
