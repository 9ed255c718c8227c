"""The kernel for TPUs: interpreted, it gives what XLA's products give."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from pruner_jax.policy.attention import attend
from pruner_jax.policy.forward import forward
from pruner_jax.policy.splash import BLOCKS, KEYS, blocks_of, splash

T = 200  # filled up to two blocks


@pytest.fixture(autouse=True, scope="module")
def quick(quick_to_compile):
    """Programs that run for milliseconds."""


def packed(rows=1):
    """Segments and positions: three sequences across the blocks, and padding."""
    lengths = (50, 90, 40)
    segments = np.concatenate([np.full(n, i + 1) for i, n in enumerate(lengths)] + [np.zeros(20)])
    positions = np.concatenate([np.arange(n) for n in (*lengths, 20)])
    return (np.tile(x.astype(np.int32), (rows, 1)) for x in (segments, positions))


def heads(H, N=4, K=2, rows=1, T=T):
    """Queries, keys, values and a weight for each result, numpy's numbers."""
    draw = np.random.default_rng(H)
    return [jnp.asarray(draw.normal(size=(rows, T, n, H)), jnp.float32) for n in (N, K, K, N)]


def by_xla(q, k, v, segments, positions, window=None):
    """``attend`` for whole rows."""
    return attend(
        q, k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3),
        q_position_BT=positions, k_position_BS=positions,
        q_segment_BT=segments, k_segment_BS=segments, window=window,
    )  # fmt: skip


by_kernel = functools.partial(splash, interpret=True)


def values_and_gradients(mix, q, k, v, weight, segments):
    """The mix, and the gradient of a weighted sum of it over all but padding."""

    def loss(q, k, v):
        mixed = mix(q, k, v) * (segments > 0)[..., None, None]
        return (mixed * weight).sum(), mixed

    (_, mixed), grads = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(q, k, v)
    return mixed, *grads


@pytest.mark.parametrize(("H", "N", "K", "window"), [(64, 4, 2, None), (128, 2, 1, 50)])
def test_interpreted_it_is_xla(H, N, K, window):
    q, k, v, weight = heads(H, N, K)
    segments, positions = packed()
    wanted = values_and_gradients(
        lambda q, k, v: by_xla(q, k, v, segments, positions, window), q, k, v, weight, segments
    )
    found = values_and_gradients(
        lambda q, k, v: by_kernel(q, k, v, segments, window=window), q, k, v, weight, segments
    )
    for a, b in zip(found, wanted, strict=True):
        assert tiny.relative(a, b) < 1e-5


@pytest.mark.parametrize(
    ("window", "dtype", "bound"),
    [(None, jnp.float32, 1e-5), (300, jnp.float32, 1e-5), (300, jnp.bfloat16, 1.5e-2)],
)
def test_so_it_is_with_the_largest_blocks(window, dtype, bound):
    """As on TPUs: a block of 1024 queries and keys takes its keys in two halves. A segment lies
    across the halves; so does the window."""
    lengths = (700, 300, 24)
    assert blocks_of(sum(lengths)) == (BLOCKS[0], BLOCKS[0]) and BLOCKS[0] > KEYS
    segments = np.repeat([1, 2, 0], lengths).astype(np.int32)[None]
    positions = np.concatenate([np.arange(n) for n in lengths]).astype(np.int32)[None]
    q, k, v, weight = heads(64, 2, 1, T=BLOCKS[0])
    q, k, v = (x.astype(dtype) for x in (q, k, v))
    wanted = values_and_gradients(
        lambda q, k, v: by_xla(q, k, v, segments, positions, window), q, k, v, weight, segments
    )
    found = values_and_gradients(
        lambda q, k, v: by_kernel(q, k, v, segments, window=window), q, k, v, weight, segments
    )
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == dtype and tiny.relative(a, b) < bound


def test_segments_do_not_see_each_other():
    """Values of one segment do not move, by a single bit, with keys and values of the others, and
    its gradient ends at its borders. The same of rows without segments is not so."""
    q, k, v, weight = heads(64)
    segments, _ = packed()
    own = segments[0] == 2

    @jax.jit
    def run(k, v, segments):
        def loss(k, v):
            mixed = by_kernel(q, k, v, segments)[0, own]
            return (mixed * weight[0, own]).sum(), mixed

        (_, mixed), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(k, v)
        return mixed, grads

    def leaks(segments):
        others = jnp.where(own[None, :, None, None], 1.0, -3.0)
        before, grads = run(k, v, segments)
        after, _ = run(k * others, v * others, segments)
        outside = max(float(jnp.abs(g[0, ~own]).max()) for g in grads)
        return outside > 0, bool((before != after).any())

    assert leaks(segments) == (False, False)
    assert leaks(np.ones_like(segments)) == (True, True)


def test_the_forward_pass_by_either():
    """Layers in a scan, computed again in the backward pass, with windows of two kinds."""
    config, params = tiny.model("qwen2_layer_types")
    config = dataclasses.replace(config, context=512)
    tokens = tiny.tokens(2, T)
    segments, positions = packed(2)

    @functools.partial(jax.jit, static_argnums=1)
    def run(params, attention):
        def loss(params):
            hidden, _ = forward(
                params, config, tokens, positions,
                segments_BT=segments, remat="full", attention=attention,
            )  # fmt: skip
            hidden *= (segments > 0)[..., None]
            return jnp.square(hidden).mean(), hidden

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, wanted), wanted_grads = run(params, "xla")
    (_, found), grads = run(params, "splash_interpreted")
    assert tiny.relative(found, wanted) < 1e-5
    close = functools.partial(np.testing.assert_allclose, atol=2e-6)
    jax.tree.map(close, grads, wanted_grads)


def test_blocks_fit_the_rows():
    """All sizes that packing chooses, and others: whole blocks, and little padding."""
    assert [blocks_of(n) for n in (1024, 4096, 16384)] == [(n, 1024) for n in (1024, 4096, 16384)]
    assert blocks_of(8) == (128, 128) and blocks_of(3328) == (3584, 512)
    for n in range(1, 5000, 7):
        length, block = blocks_of(n)
        assert length % block == 0 and n <= length < n + block
        assert block == 128 or length <= 9 / 8 * n


def test_a_name_that_is_none():
    config, params = tiny.model("qwen2")
    with pytest.raises(ValueError, match="attention = 'cudnn'; allowed: xla, splash, splash_int"):
        forward(params, config, tiny.tokens(1, 4), jnp.arange(4)[None], attention="cudnn")
