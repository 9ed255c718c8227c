"""Bootstrap over problems and seeds, frontier and hypervolume, against numbers worked by hand."""

import numpy as np
import pytest

from pruner_jax.measure.bootstrap import estimate
from pruner_jax.measure.frontier import (
    bounds,
    correlation,
    divisor,
    hypervolume,
    measure,
    on_frontier,
    ratio,
    resampled,
    subsets,
)

QUANTITIES = ("accuracy", "tokens", "thinking_tokens")


def values(final, base=None):
    """One quantity [S][P] as the three of both models, float [S, M, P, Q]."""
    final_SP = np.array(final, float)
    base_SP = np.ones_like(final_SP) if base is None else np.array(base, float)
    return np.repeat(np.stack([base_SP, final_SP], axis=1)[..., None], 3, axis=3)


def test_easy_and_hard_are_the_ends():
    few = subsets(np.array([2, 3, 6, 2, np.nan]))
    assert few[:, 0].all() and len(few) == 5
    assert few[:, 1].tolist() == [True, False, False, True, False]
    assert few[:, 2].tolist() == [False, False, True, False, False]
    many = subsets(np.arange(21.0))
    assert np.flatnonzero(many[:, 1]).tolist() == [0, 1, 2, 3]
    assert np.flatnonzero(many[:, 2]).tolist() == [16, 17, 18, 19, 20]


@pytest.mark.parametrize("level", [3.0, np.nan])
def test_no_problem_is_easy_or_hard_where_none_differ(level):
    inside = subsets(np.full(4, level))
    assert inside[:, 0].all() and not inside[:, 1:].any()
    means = resampled({"a": values([[1, 2, 3, 4]])}, QUANTITIES, inside, resamples=100)["a"]
    assert np.isnan(measure(means, "hard_tokens")).all()


def test_the_first_row_is_the_data():
    inside = subsets(np.array([2.0, 4.0, 4.0]))
    point = values([[10, 20, 30], [14, 40, 60]], base=[[20, 30, 40], [20, 30, 40]])
    means = resampled({"a": point}, QUANTITIES, inside, resamples=100)["a"]
    assert measure(means, "tokens")[0] == pytest.approx((20 + 38) / 2)
    assert measure(means, "tokens", "base")[0] == pytest.approx(30)
    assert measure(means, "easy_tokens")[0] == pytest.approx(12)
    assert measure(means, "hard_tokens")[0] == pytest.approx((25 + 50) / 2)
    assert measure(means, "adaptivity")[0] == pytest.approx(37.5 / 12)


@pytest.mark.parametrize(
    ("seeds", "t"), [([101, 105], 12.706), ([101, 102, 106], 4.303), ([11, 12, 16, 17, 19], 2.776)]
)
def test_over_seeds_the_interval_is_students(seeds, t):
    """Nothing varies over problems: mean +- t(.975, S - 1) s / sqrt(S), t from a table."""
    point = values([[x] * 5 for x in seeds])
    means = resampled({"a": point}, QUANTITIES, subsets(np.arange(5.0)), resamples=40_000)["a"]
    found = estimate(measure(means, "tokens"))
    half = t * np.std(seeds, ddof=1) / np.sqrt(len(seeds))
    assert found.value == pytest.approx(np.mean(seeds))
    assert found.high - found.value == pytest.approx(half, rel=0.06)
    assert found.value - found.low == pytest.approx(half, rel=0.06)


def test_an_interval_ends_where_the_quantity_does_and_differences_stay_paired():
    """Two seeds, whose mean is spread as wide as Cauchy's distribution."""
    point = values([[0.9] * 5, [0.2] * 5], base=[[0.8] * 5, [0.1] * 5])
    means = resampled({"a": point}, QUANTITIES, subsets(np.arange(5.0)), resamples=2000)["a"]
    accuracy = estimate(measure(means, "accuracy"), within=bounds("accuracy"))
    assert (accuracy.low, accuracy.high) == (0, 1)
    tokens = estimate(measure(means, "tokens"), within=bounds("tokens"))
    assert tokens.low == 0 and tokens.high > 2
    change = measure(means, "accuracy") - measure(means, "accuracy", "base")
    np.testing.assert_allclose(change, 0.1)
    assert np.isfinite(ratio(measure(means, "tokens"), measure(means, "tokens", "base"))).all()


def test_nothing_is_divided_by_a_mean_of_0():
    draws = np.array([2.0, 4.0, -1.0])
    np.testing.assert_allclose(ratio(np.array([1.0, 1.0, 1.0]), draws), [0.5, 0.25, 50.0])
    assert np.isnan(ratio(draws, np.array([0.0, 1.0, 2.0]))).all()
    np.testing.assert_array_equal(divisor(draws), [2.0, 4.0, 0.02])


def test_problems_are_drawn_as_the_plain_bootstrap_draws_them():
    """One seed: the variance over problems is that of the mean of five drawn values."""
    row = np.array([1.0, 3.0, 4.0, 8.0, 9.0])
    means = resampled({"a": values([row])}, QUANTITIES, subsets(row), resamples=20_000)["a"]
    assert measure(means, "tokens")[1:].var() == pytest.approx(row.var() / 5, rel=0.03)


def test_points_are_paired_by_problem():
    inside = subsets(np.arange(4.0))
    row = np.array([1.0, 3.0, 4.0, 8.0])
    points = {"a": values([row]), "b": values([row + 2])}
    means = resampled(points, QUANTITIES, inside, resamples=300)
    np.testing.assert_allclose(
        measure(means["b"], "tokens") - measure(means["a"], "tokens"), 2.0, atol=1e-12
    )
    alone = resampled({"b": points["b"]}, QUANTITIES, inside, resamples=300)["b"]
    np.testing.assert_array_equal(alone.draws_RMUQ, means["b"].draws_RMUQ)


def test_a_base_goes_with_the_seed_of_its_run():
    """Each seed's change is 1, whatever the seed: so is every draw's."""
    point = values([[92, 92], [98, 98]], base=[[91, 91], [97, 97]])
    means = resampled({"a": point}, QUANTITIES, subsets(np.arange(2.0)), resamples=100)["a"]
    change = measure(means, "tokens") - measure(means, "tokens", "base")
    np.testing.assert_allclose(change, 1.0)


def test_frontier_by_hand():
    tokens = np.array([[20, 30, 30, 40, 25, 20]])
    accuracy = np.array([[0.6, 0.9, 0.8, 0.9, 0.6, 0.6]])
    # The second beats the third and the fourth; the first and the last are equal, and both beat
    # the fifth.
    assert on_frontier(tokens, accuracy)[0].tolist() == [True, True, False, False, False, True]


def test_hypervolume_by_hand():
    """Limit 100: 10 tokens are x = 1/2, 100 are 0, 1 is 1."""
    volume = hypervolume(np.array([[10.0], [100.0], [1.0]]), np.array([[0.8], [0.9], [1.0]]), 100)
    np.testing.assert_allclose(volume, [0.4, 0.0, 1.0])
    # x = 1/4 at .9 and x = 1/2 at .6: 1/4 * .9 + 1/4 * .6; a third at x = 1/4 and .3 adds nothing.
    tokens = np.array([[10.0, 100**0.75, 100**0.75]])
    volume = hypervolume(tokens, np.array([[0.6, 0.9, 0.3]]), 100)
    np.testing.assert_allclose(volume, [0.375])
    with pytest.raises(ValueError, match="limit of 2 or more"):
        hypervolume(tokens, tokens, 1)


def test_correlation():
    assert correlation(np.array([1, 2, 3]), np.array([2, 4, 6])) == pytest.approx(1)
    assert correlation(np.array([1, 2, np.nan]), np.array([4, 2, 9])) == pytest.approx(-1)
    assert np.isnan(correlation(np.array([1, 1, 1]), np.array([4, 2, 9])))
