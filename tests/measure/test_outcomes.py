"""From graded rows to outcomes, and the exact limits."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruner_jax.measure.outcomes import (
    at_limit,
    from_rows,
    halves,
    outcomes,
    take_problems,
)
from pruner_jax.types import Verdict


def test_graded_rows_become_ragged_groups(graded_rows):
    right, wrong, cut = Verdict.CORRECT, Verdict.WRONG, Verdict.UNFINISHED
    graded = graded_rows(
        group_B=[0, 0, 2, 0, 2],
        verdict_B=[right, wrong, cut, right, right],
        length_B=[3, 4, 9, 5, 6],
        thinking_B=[1, 2, 9, 3, 4],
        finished_B=[True, True, False, True, True],
    )
    found = outcomes(graded)
    assert found.problem_ids == ("a", "c")  # nobody answered b
    np.testing.assert_array_equal(found.difficulty_P, [1.0, 3.0])
    np.testing.assert_array_equal(found.length_PG, [[3, 4, 5], [9, 6, 0]])
    np.testing.assert_array_equal(found.answer_PG, [[2, 2, 2], [0, 2, 0]])
    np.testing.assert_array_equal(found.correct_PG, [[1, 0, 1], [0, 1, 0]])
    np.testing.assert_array_equal(found.mask_PG, [[1, 1, 1], [1, 1, 0]])
    assert found.limit == 9


def test_a_problem_without_difficulty_is_nan(graded_rows):
    found = outcomes(graded_rows([1], [Verdict.WRONG], [2], [1], [True]))
    assert np.isnan(found.difficulty_P).all()


def test_at_limit_by_hand(evaluation):
    cut = at_limit(evaluation([[1, 1, 0]], [[5, 9, 30]], thinking=[[2, 8, 20]]), 8)
    np.testing.assert_array_equal(cut.correct_PG, [[True, False, False]])
    np.testing.assert_array_equal(cut.finished_PG, [[True, False, False]])
    np.testing.assert_array_equal(cut.length_PG, [[5, 8, 8]])
    np.testing.assert_array_equal(cut.thinking_PG, [[2, 8, 8]])
    assert cut.limit == 8


def test_an_answer_of_exactly_n_tokens_is_correct_at_n(evaluation):
    assert at_limit(evaluation([[1]], [[8]]), 8).correct_PG.all()


def test_at_limit_refuses_what_was_never_sampled(evaluation):
    with pytest.raises(ValueError, match="allowed are 1 to 100"):
        at_limit(evaluation([[1]], [[5]]), 101)


rows = st.lists(
    st.tuples(st.sampled_from("abcd"), st.booleans(), st.integers(1, 50)), min_size=1, max_size=30
)


@settings(deadline=None)
@given(rows, st.integers(1, 50), st.integers(1, 50))
def test_at_limit_is_monotone_and_composes(rows, n, m):
    ids, right, length = (list(column) for column in zip(*rows))
    length = np.array(length)
    full = from_rows(ids, np.zeros(len(ids)), np.array(right), length, length, length < 50, 50)
    small, large = sorted((n, m))
    assert (at_limit(full, small).correct_PG <= at_limit(full, large).correct_PG).all()
    twice, once = at_limit(at_limit(full, large), small), at_limit(full, small)
    for field in dataclasses.fields(once):
        np.testing.assert_array_equal(getattr(twice, field.name), getattr(once, field.name))


@settings(deadline=None)
@given(rows)
def test_rows_survive_the_grid(rows):
    ids, right, length = (list(column) for column in zip(*rows))
    length = np.array(length)
    full = from_rows(ids, np.zeros(len(ids)), np.array(right), length, length, length < 50, 50)
    for place, name in enumerate(full.problem_ids):
        mine = [(r, n) for (i, r, n) in rows if i == name]
        mask = full.mask_PG[place]
        kept = zip(full.correct_PG[place][mask], full.length_PG[place][mask])
        assert [(bool(r), int(n)) for r, n in kept] == mine


def test_halves_share_no_sample_and_lose_none(evaluation):
    full = evaluation([[1, 0, 1], [0, 1]], [[1, 2, 3], [4, 5]])
    even, odd = halves(full)
    assert not (even.mask_PG & odd.mask_PG).any()
    np.testing.assert_array_equal(even.mask_PG | odd.mask_PG, full.mask_PG)
    np.testing.assert_array_equal(even.length_PG + odd.length_PG, full.length_PG)
    assert even.mask_PG.any(1).all() and odd.mask_PG.any(1).all()
    with pytest.raises(ValueError, match="raise the evaluation's samples"):
        halves(evaluation([[1], [0, 1]], [[1], [4, 5]]))


def test_take_problems_by_mask_and_by_index(evaluation):
    full = evaluation([[1], [0], [1]], [[1], [2], [3]])
    assert take_problems(full, np.array([True, False, True])).problem_ids == ("q0", "q2")
    np.testing.assert_array_equal(take_problems(full, np.array([2, 0])).length_PG, [[3], [1]])


def test_an_evaluation_without_rows_is_refused():
    empty = np.zeros(0, int)
    with pytest.raises(ValueError, match="no problem at all"):
        from_rows([], empty, empty, empty, empty, empty, 5)
