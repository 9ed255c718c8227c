"""Cutting, adding and rewriting rows."""

import numpy as np
import pytest
from handmade import END, Row, graded
from hypothesis import given
from hypothesis import strategies as st

from pruner_jax.objective.context import Context, NotOffered, Scene
from pruner_jax.objective.shape import AddEmpty, Cut, GoldAnswer, Refine, append, cut
from pruner_jax.objective.statistics import Limit, Own, Stat
from pruner_jax.types import Verdict, take_rows

ROWS = graded([Row(4, True), Row(9, True, thinking=7), Row(6)], [Row(3), Row(8, finished=False)])


def shaped(step, rows=ROWS, **context):
    context = Context(**{"limit": 6, "decode": lambda t: f"{len(t)} ids", **context})
    return step(rows, Scene.of(rows, context, {}))


def test_a_cap_leaves_what_a_run_under_it_would_have_written():
    rows = shaped(Cut())
    np.testing.assert_array_equal(rows.rollouts.length_B, [4, 6, 6, 3, 6])
    np.testing.assert_array_equal(rows.rollouts.thinking_B, [3, 6, 5, 2, 6])
    np.testing.assert_array_equal(rows.rollouts.finished_B, [1, 0, 1, 1, 0])
    C, W, U = Verdict.CORRECT, Verdict.WRONG, Verdict.UNFINISHED
    np.testing.assert_array_equal(rows.verdict_B, [C, U, W, W, U])
    np.testing.assert_array_equal(rows.score_B, [1, 0, 0, 0, 0])
    np.testing.assert_array_equal((rows.rollouts.origin_BT > 0).sum(1), [4, 6, 6, 3, 6])
    assert rows.rollouts.text == ("text", "6 ids", "text", "text", "6 ids")
    assert rows.extracted[1] is None


lengths = st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=1, max_size=8)


@given(lengths, st.integers(1, 30))
def test_correct_at_n_is_correct_and_short_enough(rows, n):
    rows = graded([Row(length, correct) for length, correct in rows])
    after = cut(rows, np.full(len(rows), n), str)
    np.testing.assert_array_equal(after.correct_B, rows.correct_B & (rows.rollouts.length_B <= n))


@given(lengths, st.integers(0, 9))
def test_a_cut_beyond_every_row_changes_nothing(rows, more):
    rows = graded([Row(length, correct) for length, correct in rows])
    limit = int(rows.rollouts.length_B.max()) + more
    assert shaped(Cut(), rows, limit=limit) is rows


def test_slack_and_solve_rate():
    at = (Stat(reduce="min", over="all", empty=0.0),)
    np.testing.assert_array_equal(shaped(Cut(at=at)).rollouts.length_B, [4, 4, 4, 3, 3])
    rows = shaped(Cut(at=at, slack=5))
    np.testing.assert_array_equal(rows.rollouts.length_B, [4, 4, 6, 3, 3])
    rows = shaped(Cut(at=at, solve_rate=(0.5, 1.0)))
    np.testing.assert_array_equal(rows.rollouts.length_B, [4, 4, 4, 3, 8])


def test_parts_of_the_cut_are_summed():
    rows = shaped(Cut(at=(Limit(times=0.5), 2.0)))
    np.testing.assert_array_equal(rows.rollouts.length_B, [4, 5, 5, 3, 5])


def test_an_answer_is_cut_where_its_own_thought_ends_and_so_many_tokens_later():
    rows = graded([Row(9, True, thinking=2), Row(9, True, thinking=7), Row(5, True, thinking=5)])
    after = shaped(Cut(at=(Own("thinking", plus=3.0),)), rows, limit=100)
    np.testing.assert_array_equal(after.rollouts.length_B, [5, 9, 5])
    np.testing.assert_array_equal(after.rollouts.thinking_B, [2, 7, 5])
    np.testing.assert_array_equal(after.correct_B, [False, True, True])


def test_an_empty_row_for_every_prompt_at_the_end_of_its_group():
    rows = shaped(AddEmpty(mode=3))
    np.testing.assert_array_equal(rows.rollouts.group_B, [0, 0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(rows.rollouts.length_B, [4, 9, 6, 0, 3, 8, 0])
    np.testing.assert_array_equal(rows.rollouts.mode_B, [0, 0, 0, 3, 0, 0, 3])
    assert rows.verdict_B[3] == Verdict.UNPARSED and rows.rollouts.text[3] == ""


def test_refine_does_nothing_where_nothing_is_right():
    rows = graded([Row(3), Row(4)])
    assert shaped(Refine("{attempt}"), rows) is rows


def test_append_keeps_parents_pointing_at_their_rows():
    more = take_rows(ROWS, [0])
    more.rollouts.parent_B[:] = 4  # the last row of ROWS
    both = append(ROWS, more)
    np.testing.assert_array_equal(both.rollouts.length_B, [4, 9, 6, 4, 3, 8])
    np.testing.assert_array_equal(both.rollouts.parent_B, [-1, -1, -1, 5, -1, -1])
    assert both.rollouts.length_B[both.rollouts.parent_B[3]] == 8


def test_rows_of_other_prompts_are_not_appended():
    with pytest.raises(ValueError, match="same prompts"):
        append(ROWS, graded([Row(3)]))


def test_what_the_run_does_not_offer_is_named():
    with pytest.raises(NotOffered, match="asks the run for a decoder"):
        Cut()(ROWS, Scene.of(ROWS, Context(limit=6), {}))


def letters(text):
    return np.array([ord(letter) for letter in text], np.int32)


def with_gold_answer(text, row, close=""):
    """The response that GoldAnswer makes of one row, a letter a token; the run says ``close``."""
    rows = graded([row])
    rows.rollouts.tokens_BT[0, : len(text)] = letters(text)
    context = {
        "encode": letters,
        "decode": lambda tokens: "".join(map(chr, tokens)),
        "closing": lambda rollouts: [letters(close)],
        "end_token": END,
    }
    after = shaped(GoldAnswer(" {{answer}}!"), rows, **context).rollouts
    assert after.finished_B[0] and after.tokens_BT[0, after.length_B[0] - 1] == END
    assert (after.origin_BT[0] > 0).sum() == after.length_B[0]
    return after.text[0]


def test_the_gold_answer_follows_the_thought():
    assert with_gold_answer("1+1</> 3", Row(9, thinking=6)) == "1+1</> {gold a}!"
    assert with_gold_answer("3", Row(2, thinking=0)) == " {gold a}!"


def test_a_thought_that_is_open_is_closed_first():
    # Cut off in the thought, ended in it, and nothing thought at all.
    cut_off = Row(3, thinking=3, finished=False)
    assert with_gold_answer("1+1", cut_off, close="</>") == "1+1</> {gold a}!"
    assert with_gold_answer("1+1", Row(4, thinking=4), close="</>") == "1+1</> {gold a}!"
    assert with_gold_answer("", Row(0, thinking=0), close="</>") == "</> {gold a}!"
