"""The gradients that are written out by hand are those that JAX works out for the plain formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruner_jax.policy import attention, rope
from pruner_jax.policy.attention import attend, score_bias
from pruner_jax.policy.product import product

KEYS = iter(jax.random.split(jax.random.key(0), 64))


def normal(*shape):
    return jax.random.normal(next(KEYS), shape)


def same_gradients(one, other, *arguments, atol=1e-5):
    """Both functions, and their gradients along a random direction of what they give."""
    value, pull = jax.vjp(one, *arguments)
    expected, pull_expected = jax.vjp(other, *arguments)
    np.testing.assert_allclose(value, expected, atol=atol)
    along = normal(*value.shape)
    for found, wanted in zip(pull(along), pull_expected(along), strict=True):
        assert float(jnp.abs(wanted).max()) > 1e-3  # there is something to compare
        np.testing.assert_allclose(found, wanted, atol=atol)


@pytest.mark.parametrize(
    "spec, x, w",
    [("btd,fd->btf", (2, 5, 8), (24, 8)), ("btf,df->btd", (2, 5, 24), (8, 24))],
    ids=["to more", "to fewer"],
)
def test_product(spec, x, w):
    same_gradients(
        lambda x, w: product(spec, x, w),
        lambda x, w: jnp.einsum(spec, x, w),
        normal(*x),
        normal(*w) / 4,
    )


def test_product_under_scan_and_remat():
    w_L = normal(3, 8, 8) / 4

    def run(one):
        def layers(x, w_L):
            return jax.lax.scan(jax.checkpoint(lambda x, w: (one(x, w), None)), x, w_L)[0]

        return layers

    x = normal(2, 5, 8)
    spec = "btd,fd->btf"
    by_hand, plain = (
        lambda x, w: product(spec, x, w),
        lambda x, w: jnp.einsum(spec, x, w),
    )
    same_gradients(run(by_hand), run(plain), x, w_L)


def test_rotation():
    cos, sin = (normal(2, 5, 1, 4) for _ in range(2))

    def plain(x):  # as transformers writes it: x cos + rotate_half(x) sin
        turned = jnp.concatenate([-x[..., 4:], x[..., :4]], -1)
        return x * jnp.concatenate([cos, cos], -1) + turned * jnp.concatenate([sin, sin], -1)

    same_gradients(lambda x: rope.rotate(x, cos[:, :, 0], sin[:, :, 0]), plain, normal(2, 5, 3, 8))


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize(
    ("given", "times", "long"),
    [(True, 1, 2048), (False, 1, 2048), (True, 11, 2048), (False, 11, 2048), (False, 11, 64)],
    ids=["mask given", "mask made", "blocks", "blocks and masks", "long"],
)
def test_attention(window, given, times, long, monkeypatch):
    monkeypatch.setattr(attention, "LONG", long)
    monkeypatch.setattr(attention, "CHUNK", 16)
    B, T, N, K, H = 2, 12 * times, 4, 2, 8
    first, second, third = 5 * times - 1, 4 * times, 6 * times
    lengths = (first, T - first), (second, third, T - second - third)
    segment = jnp.array([np.repeat([1, 2], lengths[0]), np.repeat([1, 2, 0], lengths[1])])
    position = jnp.array([np.concatenate([np.arange(n) for n in row]) for row in lengths])
    place = {"q_position_BT": position, "k_position_BS": position}
    place |= {"q_segment_BT": segment, "k_segment_BS": segment}
    real = (segment > 0)[:, :, None, None]

    def ours(q, k, v):
        bias = score_bias(**place) if given else None
        found = attend(
            q,
            k.transpose(0, 2, 3, 1),
            v.transpose(0, 2, 1, 3),
            window=window,
            bias_BTS=bias,
            **place,
        )
        return jnp.where(real, found, 0)  # no loss looks at padding

    slots = jnp.arange(T)
    ahead = slots[:, None] - slots[None]
    mask = (ahead >= 0) & (segment[:, :, None] == segment[:, None]) & (segment > 0)[:, None]
    mask &= ahead < (window or T)

    def plain(q, k, v):
        mask_BNTS = jnp.broadcast_to(mask[:, None], (B, N, T, T))
        return jnp.where(real, jax.nn.dot_product_attention(q, k, v, mask=mask_BNTS), 0)

    same_gradients(ours, plain, normal(B, T, N, H), normal(B, T, K, H), normal(B, T, K, H))
