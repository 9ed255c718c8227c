"""Rows to padded groups and back."""

import numpy as np
import pytest
from handmade import Row, graded
from hypothesis import given
from hypothesis import strategies as st

from pruner_jax.objective.groups import Groups, join
from pruner_jax.types import take_rows

RAGGED = graded(
    [Row(3, True), Row(5), Row(4, True)], [Row(7)], [Row(2, True), Row(9, finished=False)]
)


def test_ragged_groups_are_padded_and_masked():
    groups = Groups.of(RAGGED)
    assert groups.problems == ("a", "b", "c")
    np.testing.assert_array_equal(groups.row_PG, [[0, 1, 2], [3, -1, -1], [4, 5, -1]])
    np.testing.assert_array_equal(groups.measure("length"), [[3, 5, 4], [7, 0, 0], [2, 9, 0]])
    np.testing.assert_array_equal(groups.subset("correct"), [[1, 0, 1], [0, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(groups.subset("wrong"), [[0, 1, 0], [1, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(groups.subset("finished"), [[1, 1, 1], [1, 0, 0], [1, 0, 0]])
    np.testing.assert_allclose(groups.solve_rate_P, [2 / 3, 0, 1 / 2])


@given(st.permutations(range(6)))
def test_flat_undoes_pad_whatever_the_order_of_the_rows(order):
    groups = Groups.of(take_rows(RAGGED, np.array(order)))
    x_B = np.arange(6.0)
    np.testing.assert_array_equal(groups.flat(groups.pad(x_B, fill=np.nan)), x_B)


def test_rank_counts_shorter_correct_rows():
    groups = Groups.of(graded([Row(3), Row(5, True), Row(4, True), Row(6)]))
    np.testing.assert_array_equal(groups.measure("rank"), [[0, 1, 0, 2]])


def test_rows_without_a_budget_have_none():
    groups = Groups.of(graded([Row(3, budget=8), Row(3)]))
    np.testing.assert_array_equal(groups.measure("budget"), [[8, np.nan]])


def test_a_table_is_looked_up_by_problem():
    table = Groups.of(RAGGED).at(["c", "unknown", "a"])
    np.testing.assert_array_equal(table.measure("length"), [[2, 9, 0], [0, 0, 0], [3, 5, 4]])
    np.testing.assert_array_equal(table.mask_PG.sum(1), [2, 0, 3])


def test_join_pads_to_the_widest_and_the_last_of_a_problem_counts():
    both = join([Groups.of(RAGGED), Groups.of(graded([Row(8)] * 4, ids=["a"]))])
    assert both.row_PG.shape == (4, 4)
    np.testing.assert_array_equal(both.at(["a", "b"]).measure("length")[:, :2], [[8, 8], [7, 0]])


def test_unknown_names_are_refused_with_those_allowed():
    groups = Groups.of(RAGGED)
    with pytest.raises(ValueError, match="measure is 'lenght'; allowed: length, thinking"):
        groups.measure("lenght")
    with pytest.raises(ValueError, match="over is 'right'; allowed: all, correct"):
        groups.subset("right")
