"""J(b), its area and its price, by hand and against the definition."""

import math

import numpy as np
import pytest

from pruner_jax.measure import stats
from pruner_jax.measure.curve import area, budget_to_reach, curve, log_budgets
from pruner_jax.measure.outcomes import at_limit


def test_curve_by_hand(evaluation):
    found = evaluation([[1, 1], [0, 1]], [[10, 20], [5, 40]])
    drawn = curve(found, np.array([4, 9, 10, 20, 39, 40, 100]), resamples=100)
    np.testing.assert_allclose(drawn.value, [0, 0, 0.25, 0.5, 0.5, 0.75, 0.75])
    assert (drawn.low <= drawn.value).all() and (drawn.value <= drawn.high).all()


def test_every_point_is_the_accuracy_at_that_limit(simulated):
    found = simulated(0)
    budgets = log_budgets(5, found.limit, 12)
    drawn = curve(found, budgets, resamples=50)
    capped = [stats.accuracy(at_limit(found, int(b))) for b in budgets]
    np.testing.assert_allclose(drawn.value, capped)
    assert (np.diff(drawn.value) >= 0).all()


def test_curve_ends_at_the_limit(evaluation):
    with pytest.raises(ValueError, match="beyond the limit of 100"):
        curve(evaluation([[1]], [[5]]), np.array([50, 101]))


def test_area_by_hand(evaluation):
    """Solved at 10 tokens on a log axis from 1 to 100: exactly half of the axis."""
    assert area(evaluation([[1]], [[10]]), 1, 100) == pytest.approx(0.5)
    assert area(evaluation([[1, 0]], [[10, 3]]), 1, 100) == pytest.approx(0.25)
    assert area(evaluation([[1]], [[2]]), 10, 100) == pytest.approx(1.0)  # solved before the axis


def test_area_is_the_integral_of_the_curve(simulated):
    found = simulated(0, problems=20)
    budgets = np.arange(10, found.limit + 1)
    value = curve(found, budgets, resamples=10).value
    # J is constant from one whole budget to the next.
    integral = (value[:-1] * np.diff(np.log(budgets))).sum() / math.log(found.limit / 10)
    assert area(found, 10, found.limit) == pytest.approx(integral)


def test_area_refuses_bounds_outside(evaluation):
    with pytest.raises(ValueError, match="1 <= low < high <= 100"):
        area(evaluation([[1]], [[5]]), 50, 200)


def test_budget_to_reach_by_hand(evaluation):
    found = evaluation([[1, 1], [0, 1]], [[10, 20], [5, 40]])
    assert budget_to_reach(found, 0.25) == 10
    assert budget_to_reach(found, 0.3) == 20
    assert budget_to_reach(found, 0.75) == 40
    assert budget_to_reach(found, 0.8) is None


def test_budget_to_reach_agrees_with_the_curve_on_ragged_groups(evaluation):
    found = evaluation([[1, 1, 1], [1], [0, 1]], [[30, 7, 12], [50], [5, 44]])
    budgets = np.arange(1, 101)
    value = curve(found, budgets, resamples=10).value
    for goal in np.unique(value)[1:]:
        assert budget_to_reach(found, goal) == budgets[np.argmax(value >= goal - 1e-12)]


def test_log_budgets_are_whole_and_ascending():
    budgets = log_budgets(4, 32768, 64)
    assert budgets[0] == 4 and budgets[-1] == 32768 and (np.diff(budgets) > 0).all()
    np.testing.assert_array_equal(log_budgets(5, 5), [5])
    with pytest.raises(ValueError, match="low 9 and high 3"):
        log_budgets(9, 3)
