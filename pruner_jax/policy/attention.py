"""Attention with grouped heads: one function for packed rows, prefill and decode.

Queries share key/value heads without the keys being repeated. Scores and softmax are float32. Rows
of at least ``LONG`` queries are taken ``CHUNK`` at a time and recomputed in the backward pass, so
that the scores of a long row never exist at once. The kernel for TPUs is in ``splash``.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp

LONG, CHUNK = 2048, 512  # queries
# Queries of packed and of long rows are cut into so many blocks of at least so many, each of which
# leaves out the keys that lie ahead of it. On the CPU an update of packed rows takes 7 % less with
# rows of 160 tokens, 16 % with 256 (4 layers of width 128; two blocks instead of four: 6 and 12 %).
# A short prefill is left whole: a TPU wants its keys in whole tiles.
BLOCKS, LEAST = 4, 32
_MASKED = -1e30  # finite: a query that may attend to nothing gives a mean, not NaN


def score_bias(
    *,
    q_position_BT: jax.Array,
    k_position_BS: jax.Array,
    q_segment_BT: jax.Array | None = None,
    k_segment_BS: jax.Array | None = None,
) -> jax.Array | None:
    """What is added to the scores, windows apart: float32 [B, T, S], 0 where a query may look.

    For all layers at once. None for rows that are taken ``CHUNK`` queries at a time, which never
    have all of it.
    """
    if q_position_BT.shape[1] >= LONG:
        return None
    return _score_bias(q_position_BT, k_position_BS, q_segment_BT, k_segment_BS)


def _score_bias(q_position_BT, k_position_BS, q_segment_BT, k_segment_BS):
    seen = q_position_BT[:, :, None] >= k_position_BS[:, None, :]
    seen &= (k_position_BS >= 0)[:, None, :]
    if q_segment_BT is not None:
        seen &= q_segment_BT[:, :, None] == k_segment_BS[:, None, :]
        seen &= (k_segment_BS != 0)[:, None, :]
    # A logarithm, because XLA does not repeat what is expensive: comparisons it would make again
    # for every head of every layer, at 0.6 ms a layer instead of 0.1 (432 tokens, 4 heads, a CPU).
    return jnp.maximum(jnp.log(seen.astype(jnp.float32)), _MASKED)


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
    bias_BTS: jax.Array | None = None,
    prefix: tuple[jax.Array, jax.Array] | None = None,
) -> jax.Array:
    """Each query's mix of values [B, T, N, H].

    A query attends to keys of its own segment (equal and not 0) at positions from 0 to its own, of
    which a window lets it see the last ``window``. Without segments a row is one. Keys at negative
    positions are padding. Where there are as many keys as queries (S = T), they are of the same
    tokens, and positions rise by 1 within a segment: what stands later in the row is not seen.
    ``bias_BTS``: ``score_bias`` of the places, where a caller has it. ``prefix``: keys [P, K, H, L]
    and values [P, K, L, H] that stand before the others for every B/P neighbouring rows; positions
    are of both.
    """
    if prefix is not None:
        if bias_BTS is None:
            bias_BTS = _score_bias(q_position_BT, k_position_BS, q_segment_BT, k_segment_BS)
        bias_BTS = _narrow(bias_BTS, q_position_BT, k_position_BS, window)
        return _mix_grouped(q_BTNH, k_BKHS, v_BKSH, bias_BTS, prefix)
    T, S = q_BTNH.shape[1], v_BKSH.shape[2]

    def block(first: int, last: int, behind: int, ahead: int) -> jax.Array:
        """Queries ``first`` to ``last``, of the keys from ``behind`` to ``ahead``."""
        k_position, k_segment = (
            None if x is None else x[:, behind:ahead] for x in (k_position_BS, k_segment_BS)
        )
        k, v = k_BKHS[..., behind:ahead], v_BKSH[:, :, behind:ahead]

        def some(q, position, segment, bias=None):
            if bias is None:
                bias = _score_bias(position, k_position, segment, k_segment)
            return _mix_grouped(q, k, v, _narrow(bias, position, k_position, window))

        own = [
            None if x is None else x[:, first:last] for x in (q_BTNH, q_position_BT, q_segment_BT)
        ]
        if T >= LONG:
            return _by_chunks(some, *own)
        return some(*own, None if bias_BTS is None else bias_BTS[:, first:last, behind:ahead])

    if S != T or (q_segment_BT is None and T < LONG):
        return block(0, T, 0, S)
    edges = _edges(T)
    # A window that comes with its layer, as a number of the program, leaves out nothing.
    reach = window if isinstance(window, int) else T
    return jnp.concatenate(
        [block(a, b, max(0, a - reach + 1), b) for a, b in itertools.pairwise(edges)], axis=1
    )


def _narrow(bias_BTS, q_position_BT, k_position_BS, window):
    """The bias with what lies outside the window masked as well."""
    if window is None:
        return bias_BTS
    far = q_position_BT[:, :, None] - k_position_BS[:, None, :] >= window
    return jnp.where(far, _MASKED, bias_BTS)


def _edges(T: int) -> list[int]:
    """Where the blocks of T queries begin, and T: for long rows at whole chunks."""
    if T >= LONG:
        chunks = -(-T // CHUNK)
        return [*(CHUNK * (chunks * i // BLOCKS) for i in range(BLOCKS)), T]
    count = max(1, min(BLOCKS, T // LEAST))
    return [T * i // count for i in range(count + 1)]


def _mix_grouped(q_BTNH, k_BKHS, v_BKSH, bias_BTS, prefix=None):
    B, T, N, H = q_BTNH.shape
    K = v_BKSH.shape[1]
    q_BKnTH = q_BTNH.reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4)
    if prefix is None:
        mixed_BKnTH = _mix(q_BKnTH, k_BKHS, v_BKSH, bias_BTS)
    else:
        mixed_BKnTH = _mix_behind(prefix, q_BKnTH, k_BKHS, v_BKSH, bias_BTS)
    return mixed_BKnTH.transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


@jax.custom_vjp
def _mix(q_BKnTH: jax.Array, k_BKHS: jax.Array, v_BKSH: jax.Array, bias_BTS: jax.Array):
    """softmax(q k / sqrt(H) + bias) v [B, K, n, T, H], n queries to a key.

    Both products run row by row and head by head over arrays that already lie as they need them, so
    XLA neither copies nor transposes the cache. Measured on the CPU, a whole decode step (256 rows,
    96 slots): 10.9 ms; keys as [B, K, S, H] 14.0 ms; queries in front of heads 20.8 ms.
    """
    return _mix_forward(q_BKnTH, k_BKHS, v_BKSH, bias_BTS)[0]


def _mix_forward(q, k, v, bias_BTS):
    wide = {"preferred_element_type": jnp.float32}
    scores = jnp.einsum("bknth,bkhs->bknts", q, k, **wide) * q.shape[-1] ** -0.5
    scores += bias_BTS[:, None, None]
    shares = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    mixed = jnp.einsum("bknts,bksh->bknth", shares, v)
    return mixed, (q, k, v, shares, mixed)


def _mix_backward(kept, d_mixed):
    """One pass over the shares, and no product that reads them transposed: the products that sum
    over queries have the narrow operand in front. What is not seen has a share of 0, so no gradient
    needs masking; a query that sees nothing has equal shares of all, so no loss may look at it.
    (The rows of the softmax by d_mixed . mixed: FlashAttention, arXiv 2205.14135.)
    """
    q, k, v, shares, mixed = kept
    own = jnp.sum(d_mixed.astype(jnp.float32) * mixed, axis=-1, keepdims=True)
    d_shares = jnp.einsum("bknth,bksh->bknts", d_mixed, v, preferred_element_type=jnp.float32)
    d_scores = (shares * (d_shares - own) * q.shape[-1] ** -0.5).astype(q.dtype)
    d_q = jnp.einsum("bknts,bkhs->bknth", d_scores, k)
    d_k = jnp.einsum("bknth,bknts->bkhs", q, d_scores)
    d_v = jnp.einsum("bknth,bknts->bkhs", d_mixed, shares).swapaxes(2, 3)
    return d_q, d_k, d_v, None


_mix.defvjp(_mix_forward, _mix_backward)


def _mix_behind(prefix, q_BKnTH, k_BKHS, v_BKSH, bias_BTS):
    """The same behind a prefix. It and the rows' own keys are mixed apart, the queries of a group
    in one product, and the two mixes weighed by their sums (FlashAttention, arXiv 2205.14135).

    A decode step of 256 rows in groups of 8 on the CPU, behind 32 slots: with 64 more 5.1 ms
    instead of 6.0, with 96 more 5.8 instead of 6.7. One softmax over both parts: 5.1 and 6.5.
    """
    P, L = prefix[1].shape[0], prefix[1].shape[2]
    B, K, n, T, H = q_BKnTH.shape
    G = B // P
    q_PKrH = q_BKnTH.reshape(P, G, K, n, T, H).swapaxes(1, 2).reshape(P, K, G * n * T, H)
    bias = jnp.broadcast_to(bias_BTS[..., :L].reshape(P, 1, G, 1, T, L), (P, 1, G, n, T, L))
    shared = _unnormalised(q_PKrH, *prefix, bias.reshape(P, 1, G * n * T, L))
    shared = [x.reshape(P, K, G, n, T, -1).swapaxes(1, 2).reshape(B, K, n, T, -1) for x in shared]
    parts = [shared, _unnormalised(q_BKnTH, k_BKHS, v_BKSH, bias_BTS[:, None, None, :, L:])]
    highest = jnp.maximum(*(top for _, _, top in parts))
    weights = [jnp.exp(top - highest) for _, _, top in parts]
    mixed = sum(w * mix for w, (mix, _, _) in zip(weights, parts))
    total = sum(w * sum_ for w, (_, sum_, _) in zip(weights, parts))
    return (mixed / total).astype(v_BKSH.dtype)


def _unnormalised(q, k, v, bias):
    """The mix before its division by the sum of exponentials; that sum; the highest score."""
    wide = {"preferred_element_type": jnp.float32}
    scores = jnp.einsum("bk...h,bkhs->bk...s", q, k, **wide) * q.shape[-1] ** -0.5 + bias
    top = jnp.max(scores, axis=-1, keepdims=True)
    shares = jnp.exp(scores - top)
    mixed = jnp.einsum("bk...s,bksh->bk...h", shares.astype(v.dtype), v, **wide)
    return mixed, jnp.sum(shares, axis=-1, keepdims=True), top


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
