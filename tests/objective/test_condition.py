"""Modes, budgets and sentences of the rows to be sampled."""

import numpy as np
import pytest

from pruner_jax.objective.condition import Begin, Condition, EndThought, Mode, UniformBudget

HALF = Condition(modes=(Mode("think", 0.5), Mode("no_think", 0.5, Begin(text="{think_close}"))))
MANY = [str(i) for i in range(2000)]
BOTH = Condition(
    modes=(Mode("most", 0.25), Mode("exact", 0.75, sentence="Think for {budget} tokens.")),
    divide="problems",
    budget=UniformBudget(100, 104, "Think for maximum {budget} tokens."),
)


@pytest.mark.parametrize(
    ("samples", "modes"), [(1, [1]), (2, [0, 1]), (4, [0, 0, 1, 1]), (5, [0, 0, 1, 1, 1])]
)
def test_modes_divide_every_group(samples, modes):
    np.testing.assert_array_equal(HALF.modes_of(["a", "b"], samples, 0, 0), [modes, modes])


def test_modes_divide_the_problems():
    mode_PG = BOTH.modes_of(MANY, 3, seed=0, step=5)
    assert (mode_PG == mode_PG[:, :1]).all() and mode_PG.shape == (2000, 3)
    assert np.mean(mode_PG) == pytest.approx(0.75, abs=0.04)
    np.testing.assert_array_equal(BOTH.modes_of(MANY[7:9], 3, 0, 5), mode_PG[7:9])
    assert (BOTH.modes_of(MANY, 3, 0, 6) != mode_PG).any()


def test_without_modes_all_rows_are_alike():
    np.testing.assert_array_equal(Condition().modes_of(["a"], 3, 0, 0), [[0, 0, 0]])
    np.testing.assert_array_equal(Condition().budgets_of(["a", "b"], 0, 0), [-1, -1])
    assert Condition().sentences_of(["a", "b"], 0, 0) == ("", "")


def test_budgets_are_drawn_evenly_by_problem():
    condition = Condition(budget=UniformBudget(100, 104))
    budget_P = condition.budgets_of(MANY, seed=0, step=3)
    share = np.bincount(budget_P)[100:] / 2000
    np.testing.assert_allclose(share, [0.2] * 5, atol=0.04)
    np.testing.assert_array_equal(condition.budgets_of(MANY[7:9], 0, 3), budget_P[7:9])
    assert (condition.budgets_of(MANY, 1, 3) != budget_P).any()
    assert (condition.budgets_of(MANY, 0, 4) != budget_P).any()


def test_every_prompt_is_told_its_own_budget_in_the_words_of_its_mode():
    mode_P = BOTH.modes_of(MANY, 1, 0, 3)[:, 0]
    budget_P = BOTH.budgets_of(MANY, 0, 3)
    for mode, budget, told in zip(mode_P, budget_P, BOTH.sentences_of(MANY, 0, 3)):
        assert told == f"Think for {'maximum ' if mode == 0 else ''}{budget} tokens."
    # The mode says nothing about the budget.
    assert budget_P[mode_P == 0].mean() == pytest.approx(budget_P[mode_P == 1].mean(), abs=0.3)


def test_a_budget_that_is_not_told():
    condition = Condition(budget=UniformBudget(5, 9, sentence=""), force=EndThought())
    assert condition.sentences_of(["a", "b"], 0, 0) == ("", "")
    assert 5 <= condition.budgets_of(["a"], 0, 0)[0] <= 9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Condition(modes=(Mode("a", 0.5), Mode("b", 0.4))), "must add up to 1"),
        (lambda: Condition(modes=(Mode("a", 0.5), Mode("a", 0.5))), "different names"),
        (lambda: Condition(divide="groups"), "condition.divide is 'groups'"),
        (lambda: Condition(examples=-1), "condition.examples is -1; allowed: 0 or more"),
        (lambda: UniformBudget(5, 4), "0 < low <= high"),
        (lambda: UniformBudget(1, 4, sentence="be brief"), r"lacks \{budget\}"),
        (lambda: EndThought(after=-1), "0 or more"),
        (lambda: EndThought(text="enough"), r"lacks \{think_close\}"),
        (lambda: Condition(force=EndThought()), "which means the budget of the row"),
        (
            lambda: Condition(modes=(Mode("a", sentence="{budget}"),), budget=UniformBudget(1, 4)),
            "'a' has a sentence, but condition.divide is 'rows'",
        ),
        (
            lambda: Condition(modes=(Mode("a", sentence="{budget}"),), divide="problems"),
            "condition.budget None",
        ),
    ],
)
def test_contradictions_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
