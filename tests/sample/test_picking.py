"""Picking: draws follow softmax, truncation keeps exactly the right tokens, scores are exact."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruner_jax.sample.pick import Picking, invert, pick, score

V = 97  # neither a power of two nor a multiple of a chunk


def logits(rows: int, width: int = V, seed: int = 0) -> np.ndarray:
    return 2 * np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


def draws(row: np.ndarray, how: Picking, count: int = 40000) -> np.ndarray:
    """How often each token is picked for evenly spread uniforms."""
    uniform = (np.arange(count, dtype=np.float32) + 0.5) / count
    token = jax.jit(lambda u: pick(jnp.tile(row, (count, 1)), u, how))(uniform)
    return np.bincount(np.asarray(token), minlength=len(row))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(np.float64(x) - x.max())
    return e / e.sum()


@pytest.mark.parametrize("width", [1, 5, 32, 33, V, 1024, 5000])
def test_invert_is_the_inverse_of_the_distribution_function(width):
    weights = np.random.default_rng(width).random((64, width)).astype(np.float32) ** 8
    uniform = np.random.default_rng(1).random(64).astype(np.float32)
    found = np.asarray(jax.jit(invert)(weights, uniform))
    sums = np.cumsum(np.float64(weights), axis=1) / np.float64(weights).sum(1, keepdims=True)
    for b, token in enumerate(found):
        before = sums[b, token - 1] if token else 0.0
        assert before - 1e-6 <= uniform[b] <= sums[b, token] + 1e-6


@pytest.mark.parametrize("last", [0.0, 1 - 2**-24])
def test_invert_never_gives_a_token_of_weight_zero(last):
    weights = np.zeros((3, 200), np.float32)
    weights[0, 77] = 1e-30
    weights[1, [3, 150]] = 1.0
    weights[2, 40:60] = 1 / 3
    found = np.asarray(jax.jit(invert)(weights, np.full(3, last, np.float32)))
    assert (weights[np.arange(3), found] > 0).all()
    assert found.tolist() == ([77, 3, 40] if last == 0 else [77, 150, 59])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_draws_follow_softmax(temperature):
    row = logits(1)[0]
    count = 40000
    rng = np.random.default_rng(0)
    how = Picking(temperature)
    token = pick(jnp.tile(row, (count, 1)), rng.random(count).astype(np.float32), how)
    found = np.bincount(np.asarray(token), minlength=V)
    wanted = count * softmax(row / temperature)
    common = wanted >= 5
    chi_square = ((found - wanted) ** 2 / wanted)[common].sum()
    freedom = common.sum()
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom)  # four standard deviations


def test_temperature_zero_takes_the_likeliest():
    x = logits(50)
    token = pick(x, np.random.default_rng(0).random(50).astype(np.float32), Picking(0.0))
    np.testing.assert_array_equal(token, x.argmax(1))


@pytest.mark.parametrize("k", [1, 2, 10, V, 1000])
def test_top_k_keeps_the_k_likeliest(k):
    row = logits(1)[0]
    found = draws(row, Picking(3.0, top_k=k))
    kept = np.argsort(-row)[:k]
    assert set(np.flatnonzero(found)) == set(kept)
    wanted = softmax(row[kept] / 3.0)
    np.testing.assert_allclose(found[kept] / found.sum(), wanted, atol=1e-4)


@pytest.mark.parametrize("p", [1e-6, 0.3, 0.9, 0.999])
def test_top_p_keeps_the_fewest_that_reach_it(p):
    row = logits(1)[0]
    order = np.argsort(-row)
    sums = np.cumsum(softmax(row / 3.0)[order])
    kept = order[: int(np.searchsorted(sums, p)) + 1]
    assert set(np.flatnonzero(draws(row, Picking(3.0, top_p=p)))) == set(kept)


def test_min_p_keeps_a_share_of_the_likeliest():
    row = logits(1)[0]
    share = softmax(row) / softmax(row).max()
    found = draws(row, Picking(1.0, min_p=0.05))
    assert set(np.flatnonzero(found)) == set(np.flatnonzero(share >= 0.05))


def test_top_k_comes_before_top_p():
    row = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))
    # Of the first two, 0.4 / 0.7 = 0.57 is not yet 0.6, so both stay; alone it would take two too,
    # but with p = 0.55 one is enough after the cut and not before it.
    assert set(np.flatnonzero(draws(row, Picking(top_k=2, top_p=0.6)))) == {0, 1}
    assert set(np.flatnonzero(draws(row, Picking(top_k=2, top_p=0.55)))) == {0}
    assert set(np.flatnonzero(draws(row, Picking(top_p=0.55)))) == {0, 1}


def test_ties_stay_together():
    row = np.zeros(6, np.float32)
    assert set(np.flatnonzero(draws(row, Picking(top_k=2)))) == set(range(6))


@pytest.mark.parametrize("how", [Picking(0.7), Picking(0.7, top_k=3, top_p=0.5), Picking(0.0)])
def test_scores_are_of_the_whole_distribution(how):
    x, token = logits(20), np.arange(20, dtype=np.int32) * 4
    logp, entropy = score(x.astype(jnp.bfloat16), token, how)
    assert logp.dtype == entropy.dtype == jnp.float32
    exact = np.asarray(x.astype(jnp.bfloat16), np.float32)
    for b in range(20):
        share = softmax(exact[b] / (how.temperature or 1.0))
        np.testing.assert_allclose(logp[b], np.log(share[token[b]]), rtol=1e-5)
        np.testing.assert_allclose(entropy[b], -(share * np.log(share)).sum(), rtol=1e-5)


def test_a_row_is_picked_alike_in_any_batch():
    x, uniform = logits(32), np.random.default_rng(0).random(32).astype(np.float32)
    together = pick(x, uniform, Picking())
    alone = [int(pick(x[b : b + 1], uniform[b : b + 1], Picking())[0]) for b in range(32)]
    assert together.tolist() == alone


def test_the_likeliest_always_stays():
    rows, how = 2000, Picking(0.6, min_p=0.9999999)  # rounds to more than the likeliest itself
    x = jax.random.normal(jax.random.key(0), (rows, 151))
    uniform = np.random.default_rng(0).random(rows).astype(np.float32)
    assert pick(x, uniform, how).tolist() == jnp.argmax(x, -1).tolist()
