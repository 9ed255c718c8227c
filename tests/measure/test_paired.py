"""Paired statistics: published AES numbers, closed forms, coverage, refusals."""

import math

import numpy as np
import pytest

from pruner_jax.measure import paired as P
from pruner_jax.measure import stats
from pruner_jax.measure.outcomes import take_problems


@pytest.mark.parametrize(
    ("base", "model", "value"),
    [
        ((73.8, 1156), (77.5, 657), 0.582),  # O1-Pruner on MATH, Marco-o1: prints .58
        ((90.6, 2191), (90.2, 1763), 0.173),  # QwQ Fast-Solving by the formula (the table: .21)
        ((73.8, 1156), (71.0, 1113), -0.152),  # Marco Fast-Solving (the table: +.15)
        ((89.2, 530), (81.7, 447), -0.264),
        ((91.4, 343), (91.4, 343), 0.0),
    ],
)
def test_aes_literals(base, model, value):
    assert P.aes(*base, *model) == pytest.approx(value, abs=1e-3)


def test_aes_branches_meet_at_zero_and_weigh_losses_more():
    gain, loss = P.aes(0.5, 100, 0.51, 80), P.aes(0.5, 100, 0.49, 80)
    assert gain - 0.2 == pytest.approx(3 * 0.02)
    assert loss - 0.2 == pytest.approx(-5 * 0.02)


def test_aes_of_a_base_that_solves_nothing_is_unknown():
    assert math.isnan(P.aes(0.0, 100, 0.1, 80))


def test_change_and_ratio_by_hand(evaluation):
    base = evaluation([[1, 0], [1, 1]], [[40, 60], [20, 20]])
    final = evaluation([[1, 1], [1, 0]], [[20, 20], [10, 20]])
    found = P.paired(base, final, resamples=500)
    assert found.accuracy_change.value == pytest.approx(0.0)
    assert found.token_ratio.value == pytest.approx((20 + 15) / (50 + 20))
    assert found.aes.value == pytest.approx(0.5)
    # Two problems: a draw is (q0, q0), (q0, q1) or (q1, q1), so the interval ends are known.
    assert found.token_ratio.low == pytest.approx(20 / 50)
    assert found.token_ratio.high == pytest.approx(15 / 20)
    assert (found.accuracy_change.low, found.accuracy_change.high) == (-0.5, 0.5)


def test_order_of_problems_does_not_matter(simulated):
    base, final = simulated(0), simulated(1, tokens=20)
    shuffled = take_problems(final, np.random.default_rng(0).permutation(len(final)))
    assert P.paired(base, final, resamples=300) == P.paired(base, shuffled, resamples=300)


def test_a_model_against_itself(simulated):
    found = P.paired(simulated(0), simulated(0), resamples=300)
    assert found.accuracy_change == P.Estimate(0.0, 0.0, 0.0)
    assert found.token_ratio == P.Estimate(1.0, 1.0, 1.0)
    assert P.accuracy_lower_bound(simulated(0), simulated(0)) == 0.0


def test_ratio_interval_equals_the_delta_method(simulated):
    base, final = simulated(0, problems=400), simulated(1, problems=400, tokens=20)
    x, y = (stats.per_problem(side.length_PG, side) for side in (base, final))
    ratio = y.mean() / x.mean()
    error = np.std(y - ratio * x) / x.mean() / math.sqrt(400)
    found = P.paired(base, final).token_ratio
    assert found.value == pytest.approx(ratio)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.05)


def test_pairing_cancels_what_the_problems_share(simulated):
    base, final = (simulated(seed, samples=32, rate=0.5, spread=1.0) for seed in (0, 1))
    change = P.paired(base, final).accuracy_change
    general = stats.in_general(base, {"accuracy": base.correct_PG})["accuracy"]
    assert change.high - change.low < general.high - general.low


def test_change_interval_covers_the_truth(simulated):
    """Same solve rates in both models, fresh samples: 0 must lie inside about 95 % of the time."""
    hits = 0
    for seed in range(200):
        base, final = simulated(2 * seed), simulated(2 * seed + 1)
        found = P.paired(base, final, resamples=300).accuracy_change
        hits += found.low <= 0 <= found.high
    assert 0.90 <= hits / 200 <= 0.99


def test_lower_bound_is_the_normal_one_for_many_problems(simulated):
    base, final = simulated(0, problems=400), simulated(1, problems=400)
    d = stats.per_problem(final.correct_PG, final) - stats.per_problem(base.correct_PG, base)
    expected = d.mean() - 1.645 * d.std() / math.sqrt(400)
    assert P.accuracy_lower_bound(base, final) == pytest.approx(expected, abs=0.002)


def test_smallest_detectable_change_by_its_formula(evaluation):
    found = evaluation([[1, 0, 1, 0]] * 50, [[5] * 4] * 50)
    error = math.sqrt(50 * 0.25 / 3) / 50
    expected = 1.644854 * math.sqrt(2) * error
    assert P.smallest_detectable_change(found, 0.95) == pytest.approx(expected, rel=1e-5)
    assert P.smallest_detectable_change(found, 0.8) < expected


def test_smallest_detectable_change_is_what_an_unchanged_model_loses_by_chance(simulated):
    """The bound of an unchanged model lies near minus the detectable change, on average."""
    bounds = [
        P.accuracy_lower_bound(simulated(2 * s), simulated(2 * s + 1), resamples=400)
        for s in range(150)
    ]
    detectable = [P.smallest_detectable_change(simulated(2 * s)) for s in range(150)]
    assert np.mean(bounds) == pytest.approx(-np.mean(detectable), rel=0.2)


def test_a_perfect_model_is_known_to_one_sample(evaluation):
    assert P.smallest_detectable_change(evaluation([[1, 1]] * 10, [[5, 5]] * 10)) == 1 / 20


def test_one_sample_cannot_say_what_is_detectable(evaluation):
    with pytest.raises(ValueError, match="raise the samples"):
        P.smallest_detectable_change(evaluation([[1]], [[5]]))


def test_other_problems_and_other_limits_are_refused(evaluation):
    one = evaluation([[1], [0]], [[5], [6]])
    with pytest.raises(ValueError, match="'q2' for one"):
        P.paired(one, evaluation([[1], [0], [1]], [[5], [6], [7]]))
    with pytest.raises(ValueError, match="common cap"):
        P.paired(one, evaluation([[1], [0]], [[5], [6]], limit=50))
