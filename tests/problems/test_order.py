"""order: epochs are permutations, the cursor is all there is to resume from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruner_jax.problems.order import order

SMALL = st.integers(1, 12)


@given(SMALL, st.integers(0, 5), st.integers(0, 40), st.lists(st.integers(0, 9), max_size=6))
def test_draws_in_pieces_are_the_draws_in_one(n, seed, cursor, counts):
    whole = order(n, seed, cursor, sum(counts))
    pieces, at = [], cursor
    for count in counts:
        pieces.append(order(n, seed, at, count))
        at += count
    for k in (0, 1):
        joined = np.concatenate([np.zeros(0, np.int32), *(piece[k] for piece in pieces)])
        np.testing.assert_array_equal(joined, whole[k])


@given(SMALL, st.integers(0, 5), st.integers(1, 5))
def test_every_epoch_visits_every_problem_once(n, seed, epochs):
    index, visit = order(n, seed, 0, n * epochs)
    assert index.dtype == visit.dtype == np.int32
    for e in range(epochs):
        assert sorted(index[e * n : (e + 1) * n]) == list(range(n))
    # The visit is the count of earlier draws of the same problem.
    for place in range(n * epochs):
        assert visit[place] == (index[:place] == index[place]).sum()


def test_epochs_and_seeds_differ():
    index, _ = order(50, 0, 0, 100)
    other, _ = order(50, 1, 0, 50)
    assert (index[:50] != index[50:]).any() and (index[:50] != other).any()


@pytest.mark.parametrize("wrong", [(0, 0, 0, 1), (3, 0, -1, 1), (3, 0, 0, -1)])
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match="n >= 1, cursor >= 0, count >= 0"):
        order(*wrong)
