"""Masked reductions against plain numpy on the selected elements."""

import jax.numpy as jnp
import numpy as np
import pytest

from pruner_jax import masked

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 9)).astype(np.float32)
MASK = RNG.random((5, 9)) < 0.6
MASK[3] = False  # an empty subset


def rows(reduce, empty):
    return np.array([reduce(x[m]) if m.any() else empty for x, m in zip(X, MASK)])


@pytest.mark.parametrize("xp", [np, jnp])
@pytest.mark.parametrize(
    ("ours", "plain"),
    [
        (lambda x, m: masked.mean(x, m, 1, empty=-7.0), np.mean),
        (lambda x, m: masked.std(x, m, 1, ddof=0, empty=-7.0), np.std),
        (lambda x, m: masked.min(x, m, 1, empty=-7.0), np.min),
        (lambda x, m: masked.max(x, m, 1, empty=-7.0), np.max),
        (lambda x, m: masked.quantile(x, m, 0.3, 1, empty=-7.0), lambda v: np.quantile(v, 0.3)),
        (lambda x, m: masked.quantile(x, m, 0.5, 1, empty=-7.0), np.median),
    ],
)
def test_equals_numpy_on_the_subset(xp, ours, plain):
    expected = rows(plain, -7.0)
    got = np.asarray(ours(xp.asarray(X), xp.asarray(MASK)))
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6)


def test_unbiased_std_of_one_element_is_the_empty_value():
    x = np.array([[1.0, 5.0], [2.0, 4.0]])
    mask = np.array([[True, False], [True, True]])
    np.testing.assert_allclose(masked.std(x, mask, 1, ddof=1, empty=0.0), [0.0, np.sqrt(2.0)])


def test_what_is_masked_out_may_be_nan():
    x = np.array([1.0, np.nan, 3.0])
    assert masked.mean(x, np.array([True, False, True]), empty=0.0) == 2.0
    assert masked.sum(x, np.array([True, False, True])) == 4.0


def test_quantile_over_everything_equals_numpy():
    assert masked.quantile(X, np.ones_like(X, bool), 0.9, empty=0.0) == pytest.approx(
        np.quantile(X, 0.9)
    )
