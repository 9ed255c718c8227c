"""Modes and budgets of the rows to be sampled."""

import numpy as np
import pytest

from pruner_jax.objective.condition import Condition, Mode, UniformBudget

HALF = Condition(modes=(Mode("think", 0.5, "open"), Mode("no_think", 0.5, "close")))


@pytest.mark.parametrize(
    ("samples", "modes"), [(1, [1]), (2, [0, 1]), (4, [0, 0, 1, 1]), (5, [0, 0, 1, 1, 1])]
)
def test_modes_divide_the_group(samples, modes):
    np.testing.assert_array_equal(HALF.modes_of(samples), modes)


def test_without_modes_all_rows_are_alike():
    np.testing.assert_array_equal(Condition().modes_of(3), [0, 0, 0])
    np.testing.assert_array_equal(Condition().budgets_of(["a", "b"], 0, 0), [-1, -1])


def test_budgets_are_drawn_evenly_by_problem():
    condition = Condition(budget=UniformBudget(100, 104))
    problems = [str(i) for i in range(2000)]
    budget_P = condition.budgets_of(problems, seed=0, step=3)
    share = np.bincount(budget_P)[100:] / 2000
    np.testing.assert_allclose(share, [0.2] * 5, atol=0.04)
    np.testing.assert_array_equal(condition.budgets_of(problems[7:9], 0, 3), budget_P[7:9])
    assert (condition.budgets_of(problems, 1, 3) != budget_P).any()
    assert (condition.budgets_of(problems, 0, 4) != budget_P).any()


def test_contradictions_are_refused():
    with pytest.raises(ValueError, match="must add up to 1"):
        Condition(modes=(Mode("a", 0.5), Mode("b", 0.4)))
    with pytest.raises(ValueError, match="0 < low <= high"):
        UniformBudget(5, 4)
    with pytest.raises(ValueError, match=r"lacks \{budget\}"):
        UniformBudget(1, 4, sentence="be brief")
