"""Two collections become one and a part of one again."""

import dataclasses

import numpy as np
from handmade import Row, graded

from pruner_jax.objective.rows import first_prompts, together
from pruner_jax.types import take_rows

FIRST = graded([Row(5, True), Row(3)], [Row(2, True)], ids=["a", "b"])
SECOND = graded([Row(9), Row(4, True)], ids=["c"])


def test_two_collections_as_one():
    edited = dataclasses.replace(SECOND.rollouts, parent_B=np.array([-1, 0], np.int32))
    both = together(FIRST, dataclasses.replace(SECOND, rollouts=edited))
    rollouts = both.rollouts
    assert [problem.id for problem in rollouts.prompts.problems] == ["a", "b", "c"]
    assert rollouts.group_B.tolist() == [0, 0, 1, 2, 2]
    assert rollouts.length_B.tolist() == [5, 3, 2, 9, 4]
    assert rollouts.parent_B.tolist() == [-1, -1, -1, -1, 3]
    assert both.correct_B.tolist() == [True, False, True, False, True]
    assert rollouts.tokens_BT.shape == (5, 9) and not rollouts.tokens_BT[0, 5:].any()
    np.testing.assert_array_equal(rollouts.tokens_BT[3], SECOND.rollouts.tokens_BT[0])


def test_the_first_prompts_are_what_they_were():
    again = first_prompts(together(FIRST, SECOND), 2)
    assert again.rollouts.prompts.problems == FIRST.rollouts.prompts.problems
    for name in ("tokens_BT", "origin_BT"):
        found, wanted = getattr(again.rollouts, name), getattr(FIRST.rollouts, name)
        np.testing.assert_array_equal(found[:, : wanted.shape[1]], wanted)
    one = first_prompts(FIRST, 1)
    assert len(one) == 2 and len(one.rollouts.prompts) == 1
    np.testing.assert_array_equal(one.verdict_B, take_rows(FIRST, np.array([0, 1])).verdict_B)
